//! Feature bits that both sides of a device agree on.

use bitflags::bitflags;

bitflags! {
    /// Feature bits of a network device and of its rings (virtio 1.2, 5.1.3 and 6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Features: u64 {
        /// The device completes checksums of packets that the driver sends.
        const CSUM = 1 << 0;
        /// The driver takes packets whose checksum is not complete.
        const GUEST_CSUM = 1 << 1;
        /// The device tells the largest payload.
        const MTU = 1 << 3;
        /// The device has a station address.
        const MAC = 1 << 5;
        /// The driver takes large TCP packets over IPv4.
        const GUEST_TSO4 = 1 << 7;
        /// The driver takes large TCP packets over IPv6.
        const GUEST_TSO6 = 1 << 8;
        /// Large TCP packets to the driver may have congestion marks.
        const GUEST_ECN = 1 << 9;
        /// The device cuts large TCP packets over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device cuts large TCP packets over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// Large TCP packets from the driver may have congestion marks.
        const HOST_ECN = 1 << 13;
        /// A received packet may lie in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// The link's state is in the configuration.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// Promiscuous and all-multicast mode by the control queue.
        const CTRL_RX = 1 << 18;
        /// VLAN filters by the control queue.
        const CTRL_VLAN = 1 << 19;
        /// The driver can announce itself by gratuitous packets.
        const GUEST_ANNOUNCE = 1 << 21;
        /// Several pairs of queues.
        const MQ = 1 << 22;
        /// The station address by the control queue.
        const CTRL_MAC_ADDR = 1 << 23;
        /// Packets are spread over queues by a hash, as the driver says.
        const RSS = 1 << 60;
        /// The configuration tells the link's speed.
        const SPEED_DUPLEX = 1 << 63;
        /// A header may share a descriptor with data (legacy devices; always so since 1.0).
        const ANY_LAYOUT = 1 << 27;
        /// A descriptor may point to a table of descriptors.
        const INDIRECT = 1 << 28;
        /// Notifications are asked for by an index.
        const EVENT_INDEX = 1 << 29;
        /// Bit 30 is not virtio's: vhost-user uses it for its protocol features.
        const PROTOCOL_FEATURES = 1 << 30;
        /// Virtio 1.0 or later.
        const VERSION_1 = 1 << 32;
        /// Device addresses go through an IOMMU.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed rings.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// Memory accesses are ordered as the platform orders them for a device.
        const ORDER_PLATFORM = 1 << 36;
        /// Bits that have no name here.
        const _ = !0;
    }
}

impl Features {
    /// What lets a packet go to the driver that is not as on a wire.
    pub const TO_DRIVER_OFFLOADS: Self =
        Self::GUEST_CSUM.union(Self::GUEST_TSO4).union(Self::GUEST_TSO6).union(Self::GUEST_ECN);
    /// Without features that need others which are not there (virtio 1.2, 5.1.3.1).
    #[must_use]
    pub fn consistent(mut self) -> Self {
        let large = Self::GUEST_TSO4 | Self::GUEST_TSO6;
        let cut = Self::HOST_TSO4 | Self::HOST_TSO6;
        let commands = Self::CTRL_RX
            | Self::CTRL_VLAN
            | Self::GUEST_ANNOUNCE
            | Self::MQ
            | Self::CTRL_MAC_ADDR
            | Self::RSS;
        for (needed, by) in [
            (Self::GUEST_CSUM, large),
            (large, Self::GUEST_ECN),
            (Self::CSUM, cut),
            (cut, Self::HOST_ECN),
            (Self::CTRL_VQ, commands),
        ] {
            if !self.intersects(needed) {
                self -= by;
            }
        }
        self
    }

    /// What lets a packet go to the device that is not as on a wire.
    pub const TO_DEVICE_OFFLOADS: Self =
        Self::CSUM.union(Self::HOST_TSO4).union(Self::HOST_TSO6).union(Self::HOST_ECN);
}

#[cfg(test)]
mod tests {
    use super::Features as F;

    #[test]
    fn features_that_lack_others_are_left_out() {
        let all = F::GUEST_CSUM | F::GUEST_TSO6 | F::GUEST_ECN | F::CSUM | F::HOST_TSO4 | F::HOST_ECN;
        assert_eq!(all.consistent(), all);
        assert_eq!((all - F::GUEST_CSUM).consistent(), F::CSUM | F::HOST_TSO4 | F::HOST_ECN);
        assert_eq!((all - F::HOST_TSO4).consistent(), all - F::HOST_TSO4 - F::HOST_ECN);
        assert_eq!((F::MQ | F::RSS | F::CTRL_RX | F::MAC).consistent(), F::MAC);
        assert_eq!((F::MQ | F::CTRL_VQ).consistent(), F::MQ | F::CTRL_VQ);
    }
}
