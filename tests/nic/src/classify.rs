//! Filters of EtherTypes (datasheet, 7.1.2.3): a queue of its own for what is no IP.

use super::model::Model;
use super::packet::Headers;
use super::rss::Hash;

/// ETQF (8.2.3.7.21). Pools are not in the model; what FCoE and time stamps are for is not looked at.
const ENABLE: u32 = 1 << 31;
const BY_POOL: u32 = 1 << 26;
/// ETQS (8.2.3.7.22).
const QUEUE_ENABLE: u32 = 1 << 31;
const QUEUE_SHIFT: u32 = 16;
const QUEUE: u32 = 0x7f;
/// The packet's type in a descriptor, of a frame that one of them takes (7.1.6.2): with it goes which.
const BY_ETHERTYPE: u16 = 1 << 11;
const FILTERS: u32 = 8;

/// Whether a filter is of a kind that the model has.
pub(crate) fn etqf_is_wrong(value: u32) -> Option<&'static str> {
    (value & ENABLE != 0 && value & BY_POOL != 0).then_some("it filters for a pool, which the model has not")
}

impl Model {
    /// The filter that takes a frame, by its number.
    fn ethertype_filter(&self, headers: &Headers) -> Option<u32> {
        (0..FILTERS).find(|index| {
            let filter = self.value_of("ETQF", *index);
            filter & ENABLE != 0 && filter as u16 == headers.kind
        })
    }

    /// The queue of a frame: its EtherType's, or its hash's.
    pub(crate) fn queue_for(&self, headers: &Headers, hash: Hash) -> u32 {
        let taken = self.ethertype_filter(headers).map(|index| self.value_of("ETQS", index));
        match taken {
            Some(queue) if queue & QUEUE_ENABLE != 0 => queue >> QUEUE_SHIFT & QUEUE,
            _ => self.queue_of(hash),
        }
    }

    /// The packet's type as descriptors have it.
    pub(crate) fn packet_type(&self, headers: &Headers) -> u16 {
        match self.ethertype_filter(headers) {
            Some(index) => BY_ETHERTYPE | index as u16,
            None => headers.packet_type(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;

    #[test]
    fn a_filter_takes_its_ethertype_to_its_queue() {
        let mut model = model(1);
        let (etqf, etqs) = (0x5128, 0xec00);
        model.write32(etqf + 4 * 2, 0x8800_8906);
        let (fcoe, other) =
            (Headers { kind: 0x8906, ..Headers::default() }, Headers { kind: 0x8907, ..Headers::default() });
        let found =
            |model: &Model, headers| (model.queue_for(headers, Hash::default()), model.packet_type(headers));
        assert_eq!(found(&model, &fcoe), (0, 0x802), "it has no queue");
        model.write32(etqs + 4 * 2, 0x8005_0000);
        assert_eq!((found(&model, &fcoe), found(&model, &other)), ((5, 0x802), (0, 0)));
        model.write32(etqf + 4 * 2, 0x8906);
        assert_eq!(found(&model, &fcoe), (0, 0));
        assert!(model.faults().list().is_empty(), "{:?}", model.faults());
        model.write32(etqf, 0x8400_8906);
        assert_eq!(model.faults().count(), 1);
    }
}
