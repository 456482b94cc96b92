//! Counters (datasheet, 8.2.3.23): they stay at their highest value, and reading clears them.

use super::model::Model;

/// Frames by their lengths with the checksum: a counter has those up to a length.
const RECEIVED: [(&str, usize); 6] =
    [("PRC64", 64), ("PRC127", 127), ("PRC255", 255), ("PRC511", 511), ("PRC1023", 1023), ("PRC1522", 1522)];
const SENT: [(&str, usize); 6] =
    [("PTC64", 64), ("PTC127", 127), ("PTC255", 255), ("PTC511", 511), ("PTC1023", 1023), ("PTC1522", 1522)];
/// Bytes of the frame's checksum, which counters of bytes of the whole port have (8.2.3.23.19).
pub(crate) const FCS: usize = 4;
/// The upper halves of counters of bytes have 4 bits.
const UPPER: u32 = 0xf;

impl Model {
    /// Counts; a counter that is full stays so.
    pub(crate) fn count(&mut self, name: &str, index: u32, by: u32) {
        let value = self.value_of(name, index).saturating_add(by);
        self.set_value_of(name, index, value);
    }

    /// Counts bytes in a counter of 36 bits.
    fn count_bytes(&mut self, low: &str, high: &str, index: u32, by: usize) {
        let was = u64::from(self.value_of(high, index)) << 32 | u64::from(self.value_of(low, index));
        let most = u64::from(UPPER) << 32 | u64::from(u32::MAX);
        let value = was.saturating_add(by as u64).min(most);
        self.set_value_of(low, index, value as u32);
        self.set_value_of(high, index, (value >> 32) as u32);
    }

    /// A frame came in from the wire, and is for us or not.
    pub(crate) fn count_arrival(&mut self, frame: &[u8], accepted: bool) {
        let len = frame.len() + FCS;
        self.count("TPR", 0, 1);
        self.count_bytes("TORL", "TORH", 0, len);
        if !accepted {
            return;
        }
        self.count("GPRC", 0, 1);
        self.count_bytes("GORCL", "GORCH", 0, len);
        self.count_kind(frame, "BPRC", "MPRC");
        let is_group = frame.first().is_some_and(|byte| byte & 1 == 1) && !frame.starts_with(&[0xff; 6]);
        if let Some(vf) = self.vf.as_mut().filter(|_| is_group) {
            vf.count_multicast();
        }
        self.count_len(&RECEIVED, len);
    }

    /// A frame went out.
    pub(crate) fn count_departure(&mut self, frame: &[u8]) {
        let len = frame.len() + FCS;
        self.count("TPT", 0, 1);
        self.count("GPTC", 0, 1);
        self.count_bytes("GOTCL", "GOTCH", 0, len);
        self.count_kind(frame, "BPTC", "MPTC");
        self.count_len(&SENT, len);
    }

    fn count_kind(&mut self, frame: &[u8], broadcast: &str, multicast: &str) {
        if frame.starts_with(&[0xff; 6]) {
            self.count(broadcast, 0, 1);
        } else if frame.first().is_some_and(|byte| byte & 1 == 1) {
            self.count(multicast, 0, 1);
        }
    }

    fn count_len(&mut self, counters: &[(&'static str, usize)], len: usize) {
        let last = counters.len() - 1;
        let fits = counters.iter().position(|(_, most)| len <= *most).unwrap_or(last);
        self.count(counters[fits].0, 0, 1);
    }

    /// A frame was put into a queue, or taken from one: in the counters that RQSMR and TQSM have for it (8.2.3.23.71).
    pub(crate) fn count_queue(&mut self, queue: u32, len: usize, sent: bool) {
        if let Some(vf) = &mut self.vf {
            vf.count(len, sent);
        }
        let counters = if sent { "TQSM" } else { "RQSMR" };
        let index = self.value_of(counters, queue / 4) >> (8 * (queue % 4)) & 0xf;
        if sent {
            self.count("QPTC", index, 1);
            self.count_bytes("QBTC_L", "QBTC_H", index, len);
        } else {
            self.count("QPRC", index, 1);
            self.count_bytes("QBRC_L", "QBRC_H", index, len);
        }
    }

    /// A frame was for a queue that had no room, and was dropped for it (8.2.3.23.75).
    pub(crate) fn count_queue_drop(&mut self, queue: u32) {
        let index = self.value_of("RQSMR", queue / 4) >> (8 * (queue % 4)) & 0xf;
        self.count("QPRDC", index, 1);
    }
}

#[cfg(test)]
mod tests {
    use crate::model::tests::model;

    #[test]
    fn counters_clear_when_read_and_stay_when_full() {
        let mut model = model(1);
        model.count_arrival(&[0xff; 60], true);
        model.count_arrival(&[1; 61], true);
        model.count_arrival(&[2; 1514], false);
        let mut read = |offset| (model.read32(offset), model.read32(offset));
        assert_eq!(read(0x40d0), (3, 0));
        assert_eq!(read(0x4074), (2, 0));
        assert_eq!(read(0x4088), (64 + 65, 0));
        assert_eq!(read(0x40c0), (64 + 65 + 1518, 0));
        assert_eq!((read(0x4078), read(0x407c)), ((1, 0), (1, 0)));
        assert_eq!((read(0x405c), read(0x4060), read(0x4070)), ((1, 0), (1, 0), (0, 0)));
        model.count("GPRC", 0, u32::MAX - 1);
        model.count("GPRC", 0, 5);
        assert_eq!(model.read32(0x4074), u32::MAX);
        for _ in 0..40 {
            model.count_bytes("GORCL", "GORCH", 0, 0x8000_0000);
        }
        assert_eq!((model.read32(0x4088), model.read32(0x408c)), (u32::MAX, 0xf));
        assert_eq!((model.read32(0x4088), model.read32(0x408c)), (0, 0));
    }

    #[test]
    fn queues_count_where_they_are_mapped_to() {
        let mut model = model(1);
        model.write32(0x2300, 0x0005_0000);
        model.write32(0x8604, 0x0000_0300);
        model.count_queue(2, 60, false);
        model.count_queue_drop(2);
        model.count_queue(5, 100, true);
        assert_eq!((model.read32(0x1030 + 5 * 0x40), model.read32(0x1034 + 5 * 0x40)), (1, 60));
        assert_eq!(model.read32(0x1430 + 5 * 0x40), 1);
        assert_eq!((model.read32(0x8680 + 3 * 4), model.read32(0x8700 + 3 * 8)), (1, 100));
        assert!(model.faults().list().is_empty(), "{:?}", model.faults());
    }
}
