//! Flow control of the whole link (datasheet, 3.7.7; IEEE 802.3, 31B): pause frames that come in stop transmission for
//! their time, and a packet buffer that fills up sends them.

use super::model::Model;

/// The address of frames that control the MAC, their EtherType, and the one operation that is a pause.
const ADDRESS: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 1];
const CONTROL: [u8; 2] = [0x88, 0x08];
const PAUSE: [u8; 2] = [0, 1];
/// MFLCN (8.2.3.22.34): other frames of control pass, pause frames do not where they are obeyed, they are obeyed by class,
/// or by the link.
const PASS_OTHERS: u32 = 1 << 0;
const DISCARD: u32 = 1 << 1;
const BY_CLASS: u32 = 1 << 2;
const OBEY: u32 = 1 << 3;
/// FCCFG.TFCE (8.2.3.3.7): pause frames for the link are sent; the other bit is for classes.
const SEND: u32 = 1 << 3;
const SEND_BY_CLASS: u32 = 1 << 4;
/// FCRTH.FCEN and FCRTL.XONE (8.2.3.3.4, 8.2.3.3.3), and the thresholds in bytes.
const ENABLE: u32 = 1 << 31;
const THRESHOLD: u32 = 0x7_ffe0;
/// Bytes of the shortest frame without its checksum.
const SHORTEST: usize = 60;
/// Quanta of a pause, of 512 bits at 10 Gb/s, that go by in a step, which is 2 us as for EITR. That the longest pause takes
/// some 1700 steps keeps drivers from calling it a hang.
const QUANTA: u32 = 39;
/// Counters of pause frames have 16 bits.
const MOST_COUNTED: u32 = 0xffff;

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Quanta for which nothing is sent.
    paused: u32,
    /// The other end was told to pause; quanta until that is over.
    stopped: Option<u32>,
}

impl Model {
    /// Whether the other end has asked for a pause that is not over.
    pub(crate) fn is_paused(&self) -> bool {
        self.flow.paused > 0
    }

    /// A frame came in; whether the MAC has dealt with it, so that nobody else sees it.
    pub(crate) fn takes_control(&mut self, frame: &[u8]) -> bool {
        let (is_control, operation) = (frame.get(12..14) == Some(&CONTROL), frame.get(14..16));
        if !is_control || !(frame.starts_with(&ADDRESS) || self.is_own(frame)) {
            return false;
        }
        let control = self.value("MFLCN");
        let Some((&PAUSE, &[high, low])) = operation
            .and_then(|operation| Some((operation.first_chunk()?, frame.get(16..18)?.first_chunk()?)))
        else {
            return control & PASS_OTHERS == 0;
        };
        let quanta = u32::from(u16::from_be_bytes([high, low]));
        self.count_pause(if quanta == 0 { "LXONRXCNT" } else { "LXOFFRXCNT" });
        if control & OBEY != 0 {
            self.flow.paused = quanta;
        }
        control & OBEY != 0 && control & DISCARD != 0
    }

    /// Whether a frame's destination is the station's own address.
    fn is_own(&self, frame: &[u8]) -> bool {
        frame.first_chunk() == Some(&self.station())
    }

    fn station(&self) -> [u8; 6] {
        let ([a, b, c, d], [e, f, ..]) = (self.value("RAL").to_le_bytes(), self.value("RAH").to_le_bytes());
        [a, b, c, d, e, f]
    }

    fn count_pause(&mut self, name: &str) {
        if self.value_of(name, 0) < MOST_COUNTED {
            self.count(name, 0, 1);
        }
    }

    /// Time goes by for pauses; whether it does for any.
    pub(crate) fn flow_time(&mut self) -> bool {
        let waits = self.flow.paused > 0 || self.flow.stopped.is_some_and(|left| left > 0);
        self.flow.paused = self.flow.paused.saturating_sub(QUANTA);
        if let Some(left) = &mut self.flow.stopped {
            *left = left.saturating_sub(QUANTA);
        }
        self.look_at_buffer();
        waits
    }

    /// Tells the other end to pause, or to go on, by how full the packet buffer is.
    pub(crate) fn look_at_buffer(&mut self) {
        let (high, low) = (self.value("FCRTH"), self.value("FCRTL"));
        if self.value("FCCFG") & SEND == 0 || high & ENABLE == 0 || !self.link.up {
            self.flow.stopped = None;
            return;
        }
        let bytes = self.buffered() as u32;
        let quanta = self.value("FCTTV") & 0xffff;
        // Before the other end's pause is over it is told again, where FCRTV says when (8.2.3.3.5).
        let refresh = self.value("FCRTV");
        match self.flow.stopped {
            Some(_) if bytes < low & THRESHOLD => {
                self.flow.stopped = None;
                if low & ENABLE != 0 {
                    self.send_pause(0);
                }
            }
            Some(left) if refresh > 0 && left <= refresh => self.stop_other_end(quanta),
            None if bytes >= high & THRESHOLD => self.stop_other_end(quanta),
            _ => {}
        }
    }

    fn stop_other_end(&mut self, quanta: u32) {
        self.flow.stopped = Some(quanta);
        self.send_pause(quanta as u16);
    }

    /// Sends a pause frame, which is counted among all others, too, as Linux's driver knows.
    fn send_pause(&mut self, quanta: u16) {
        let mut frame = [&ADDRESS[..], &self.station(), &CONTROL, &PAUSE, &quanta.to_be_bytes()].concat();
        frame.resize(SHORTEST, 0);
        self.count_pause(if quanta == 0 { "LXONTXC" } else { "LXOFFTXC" });
        self.count_departure(&frame);
        if let Some(wire) = &mut self.wire {
            wire.send(frame);
        }
    }

    /// Whether flow control is asked for that the model has not.
    pub(crate) fn flow_is_wrong(name: &str, value: u32) -> Option<&'static str> {
        let by_class = if name == "FCCFG" { SEND_BY_CLASS } else { BY_CLASS };
        (value & by_class != 0).then_some("it asks for flow control by classes, which the model has not")
    }
}
