//! The parameters of `net_af_packet`, and the measures of the rings that follow from them.

use core::str::FromStr;

use super::interface::MAX_NAME;
use super::ring::{Geometry, MIN_SLOT, RX_OVERHEAD};
use crate::port::{DevArgs, PortError};

/// The most queue pairs: as many sockets as the kernel lets share an interface's frames, unless it is asked
/// for more (`PACKET_FANOUT`).
const MAX_PAIRS: u16 = 256;
/// The smallest slot that is chosen when none is given: a frame of MTU 1500 with two tags fits, as in DPDK.
const DEFAULT_SLOT: usize = 2048;
/// The largest slot: a frame of 64 KiB with what the kernel puts in front.
const MAX_SLOT: usize = 128 << 10;
/// The largest block: the kernel looks for that much in one piece.
const MAX_BLOCK: usize = 4 << 20;
/// The largest ring.
const MAX_RING: usize = 1 << 30;
/// Bytes that a frame has beside its payload: Ethernet header and two VLAN tags.
const LINK_OVERHEAD: usize = 14 + 2 * 4;

/// How frames are shared out over queues (packet(7), `PACKET_FANOUT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FanoutMode {
    /// By flow: the same addresses and ports, either way round, go to the same queue.
    #[default]
    Hash,
    /// In turns.
    LoadBalance,
    /// By the core on which the frame came in.
    Cpu,
    /// The first queue until it is full, then the next.
    Rollover,
    /// At random.
    Random,
    /// By the device's own queue.
    QueueMapping,
}

impl FanoutMode {
    /// As the kernel numbers it.
    pub(super) const fn kernels(self) -> u32 {
        match self {
            Self::Hash => libc::PACKET_FANOUT_HASH,
            Self::LoadBalance => libc::PACKET_FANOUT_LB,
            Self::Cpu => libc::PACKET_FANOUT_CPU,
            Self::Rollover => libc::PACKET_FANOUT_ROLLOVER,
            Self::Random => libc::PACKET_FANOUT_RND,
            Self::QueueMapping => libc::PACKET_FANOUT_QM,
        }
    }
}

impl FromStr for FanoutMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "hash" => Ok(Self::Hash),
            "lb" => Ok(Self::LoadBalance),
            "cpu" => Ok(Self::Cpu),
            "rollover" => Ok(Self::Rollover),
            "rnd" => Ok(Self::Random),
            "qm" => Ok(Self::QueueMapping),
            _ => Err(()),
        }
    }
}

/// The parameters, as they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// The device's name.
    pub(super) device: String,
    pub(super) iface: String,
    pub(super) qpairs: u16,
    pub(super) qdisc_bypass: bool,
    pub(super) fanout: FanoutMode,
    blocksz: Option<usize>,
    framesz: Option<usize>,
    framecnt: Option<usize>,
}

impl Options {
    pub(super) fn take(mut args: DevArgs) -> Result<Self, PortError> {
        const PAIRS: &str = "queue pairs, 1 to 256";
        const FANOUT: &str = "one of hash, lb, cpu, rollover, rnd, qm";
        let iface = args.take::<String>("iface", "an interface's name")?;
        let qpairs = args.take::<u16>("qpairs", PAIRS)?.unwrap_or(1);
        let blocksz = args.take("blocksz", "bytes in a block of a ring")?;
        let framesz = args.take("framesz", "bytes in a slot of a ring")?;
        let framecnt = args.take("framecnt", "slots in a ring")?;
        let qdisc_bypass = args.take::<u8>("qdisc_bypass", "0 or 1")?.unwrap_or(1);
        let fanout = args.take("fanout_mode", FANOUT)?.unwrap_or_default();
        let Some(iface) = iface else {
            // What is wrong with the other parameters comes first: the nearest name may be this one.
            let missing =
                args.missing("iface", "the interface to send and receive by, for instance iface=eth1");
            args.finish()?;
            return Err(missing);
        };
        if iface.is_empty() || iface.len() > MAX_NAME || iface.contains(['/', '\0']) {
            return Err(args.bad("iface", &iface, "no interface can have this name (1 to 15 bytes, no /)"));
        }
        if !(1..=MAX_PAIRS).contains(&qpairs) {
            return Err(args.bad("qpairs", &qpairs.to_string(), &format!("expected {PAIRS}")));
        }
        if qdisc_bypass > 1 {
            return Err(args.bad("qdisc_bypass", &qdisc_bypass.to_string(), "expected 0 or 1"));
        }
        let device = args.finish()?;
        let qdisc_bypass = qdisc_bypass == 1;
        Ok(Self { device, iface, qpairs, qdisc_bypass, fanout, blocksz, framesz, framecnt })
    }

    fn bad(&self, key: &str, value: usize, problem: String) -> PortError {
        PortError::BadParameter {
            device: self.device.clone(),
            key: key.to_owned(),
            value: value.to_string(),
            problem,
        }
    }

    /// The measures of a ring for frames of an interface whose MTU is `mtu` bytes, with at least `descriptors`
    /// slots unless a number was given.
    pub(super) fn ring(&self, mtu: usize, descriptors: u16) -> Result<Geometry, PortError> {
        let page = rustix::param::page_size();
        let slot = self.slot_size(mtu)?;
        let block = self.blocksz.unwrap_or_else(|| slot.next_multiple_of(page));
        if block == 0 || !block.is_multiple_of(page) || block > MAX_BLOCK {
            let problem = format!("expected a multiple of the page size, {page}, up to {MAX_BLOCK}");
            return Err(self.bad("blocksz", block, problem));
        }
        if slot > block {
            let problem = match self.framesz {
                Some(_) => format!("a block does not hold one slot of framesz={slot} bytes"),
                None => format!("a block does not hold one slot of {slot} bytes, which MTU {mtu} needs"),
            };
            return Err(self.bad("blocksz", block, problem));
        }
        let per_block = block / slot;
        let slots = match self.framecnt {
            None => usize::from(descriptors).max(1).next_multiple_of(per_block),
            Some(0) => return Err(self.bad("framecnt", 0, "expected at least 1 slot".to_owned())),
            Some(count) if !count.is_multiple_of(per_block) => {
                let problem = format!(
                    "expected a multiple of {per_block}, the slots of {slot} bytes in a block of {block}"
                );
                return Err(self.bad("framecnt", count, problem));
            }
            Some(count) => count,
        };
        let blocks = slots / per_block;
        match (u32::try_from(block), u32::try_from(blocks), u32::try_from(slot)) {
            (Ok(block_size), Ok(blocks), Ok(slot_size)) if blocks as usize <= MAX_RING / block => {
                Ok(Geometry { block_size, blocks, slot_size })
            }
            _ => {
                let problem = format!(
                    "{blocks} blocks of {block} bytes are more than the {MAX_RING} that a ring may have"
                );
                Err(self.bad("framecnt", slots, problem))
            }
        }
    }

    fn slot_size(&self, mtu: usize) -> Result<usize, PortError> {
        let needed = RX_OVERHEAD.saturating_add(LINK_OVERHEAD).saturating_add(mtu);
        let Some(given) = self.framesz else {
            return needed.checked_next_power_of_two().filter(|&slot| slot <= MAX_SLOT).map_or_else(
                || {
                    let problem = format!(
                        "an MTU of {mtu} bytes is more than a slot can hold; give it less, for instance by \
                         `ip link set {} mtu 9000`",
                        self.iface
                    );
                    Err(PortError::Configuration { device: self.device.clone(), problem })
                },
                |slot| Ok(slot.max(DEFAULT_SLOT)),
            );
        };
        if !given.is_multiple_of(libc::TPACKET_ALIGNMENT) || !(MIN_SLOT..=MAX_SLOT).contains(&given) {
            let problem = format!("expected a multiple of 16, {MIN_SLOT} to {MAX_SLOT}");
            return Err(self.bad("framesz", given, problem));
        }
        if given < needed {
            let problem = format!(
                "frames of MTU {mtu} need {needed} bytes: {mtu} + {LINK_OVERHEAD} for Ethernet and VLANs + \
                 {RX_OVERHEAD} in front; leave framesz out and it follows the MTU"
            );
            return Err(self.bad("framesz", given, problem));
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options, PortError> {
        Options::take(DevArgs::parse(text).unwrap())
    }

    fn ring(parameters: &str, mtu: usize) -> Result<(u32, u32, u32), String> {
        let options = options(&format!("net_af_packet0,iface=eth0{parameters}")).unwrap();
        let ring = options.ring(mtu, 1024).map_err(|error| error.to_string())?;
        assert!(ring.slots() as usize * ring.slot_size as usize <= ring.len());
        assert_eq!(ring.request().tp_frame_nr, ring.slots());
        Ok((ring.block_size, ring.blocks, ring.slot_size))
    }

    #[test]
    fn without_parameters_there_is_one_pair_with_bypass_and_hash() {
        let options = options("net_af_packet3,iface=eth0").unwrap();
        assert_eq!((options.device.as_str(), options.iface.as_str()), ("net_af_packet3", "eth0"));
        assert_eq!((options.qpairs, options.qdisc_bypass, options.fanout), (1, true, FanoutMode::Hash));
    }

    #[test]
    fn every_parameter_of_dpdk_is_taken() {
        let options = options(
            "net_af_packet0,iface=eth0,qpairs=4,blocksz=8192,framesz=4096,framecnt=64,qdisc_bypass=0,\
             fanout_mode=qm",
        )
        .unwrap();
        assert_eq!((options.qpairs, options.qdisc_bypass), (4, false));
        assert_eq!(options.fanout, FanoutMode::QueueMapping);
        let ring = options.ring(1500, 1024).unwrap();
        assert_eq!(ring, Geometry { block_size: 8192, blocks: 32, slot_size: 4096 });
    }

    #[test]
    fn slots_grow_with_the_mtu_and_count_follows_the_descriptors() {
        assert_eq!(ring("", 1500), Ok((4096, 512, 2048)));
        assert_eq!(ring("", 68), Ok((4096, 512, 2048)));
        // The last MTU for which 2048 is enough: 66 in front, 14 + 2 * 4 around it.
        assert_eq!(ring("", 1960), Ok((4096, 512, 2048)));
        assert_eq!(ring("", 1961), Ok((4096, 1024, 4096)));
        assert_eq!(ring("", 9000), Ok((16_384, 1024, 16_384)));
        assert_eq!(ring("", 65_535), Ok((131_072, 1024, 131_072)));
        assert_eq!(ring(",blocksz=65536", 1500), Ok((65_536, 32, 2048)));
    }

    #[test]
    fn measures_that_cannot_be_are_refused_with_the_rule() {
        for (parameters, mtu, expected) in [
            (
                ",blocksz=5000",
                1500,
                "blocksz=5000: expected a multiple of the page size, 4096, up to 4194304",
            ),
            (",blocksz=0", 1500, "blocksz=0: expected a multiple of the page size, 4096, up to 4194304"),
            (
                ",framesz=2000",
                9000,
                "framesz=2000: frames of MTU 9000 need 9088 bytes: 9000 + 22 for Ethernet and VLANs + 66 in front; leave framesz out and it follows the MTU",
            ),
            (",framesz=2001", 1500, "framesz=2001: expected a multiple of 16, 128 to 131072"),
            (",framesz=64", 10, "framesz=64: expected a multiple of 16, 128 to 131072"),
            (
                ",framesz=8192,blocksz=4096",
                1500,
                "blocksz=4096: a block does not hold one slot of framesz=8192 bytes",
            ),
            (
                ",blocksz=4096",
                9000,
                "blocksz=4096: a block does not hold one slot of 16384 bytes, which MTU 9000 needs",
            ),
            (
                ",blocksz=8192,framecnt=6",
                1500,
                "framecnt=6: expected a multiple of 4, the slots of 2048 bytes in a block of 8192",
            ),
            (",framecnt=0", 1500, "framecnt=0: expected at least 1 slot"),
            (
                ",framecnt=1048576",
                1500,
                "framecnt=1048576: 524288 blocks of 4096 bytes are more than the 1073741824 that a ring may have",
            ),
            (
                "",
                1 << 20,
                "an MTU of 1048576 bytes is more than a slot can hold; give it less, for instance by `ip link set eth0 mtu 9000`",
            ),
        ] {
            assert_eq!(ring(parameters, mtu).unwrap_err(), format!("net_af_packet0: {expected}"));
        }
    }

    #[test]
    fn parameters_that_cannot_be_are_refused_by_name() {
        for (parameters, expected) in [
            ("", "iface=... is missing: the interface to send and receive by, for instance iface=eth1"),
            (
                ",ifaec=eth1",
                "no parameter is called \"ifaec\" (did you mean \"iface\"?); there are iface, qpairs, blocksz, framesz, framecnt, qdisc_bypass, fanout_mode",
            ),
            (
                ",iface=a-name-of-16-byt",
                "iface=a-name-of-16-byt: no interface can have this name (1 to 15 bytes, no /)",
            ),
            (",iface=lo,qpairs=0", "qpairs=0: expected queue pairs, 1 to 256"),
            (",iface=lo,qpairs=257", "qpairs=257: expected queue pairs, 1 to 256"),
            (",iface=lo,qdisc_bypass=2", "qdisc_bypass=2: expected 0 or 1"),
            (
                ",iface=lo,fanout_mode=best",
                "fanout_mode=best: expected one of hash, lb, cpu, rollover, rnd, qm",
            ),
        ] {
            let error = options(&format!("net_af_packet0{parameters}")).unwrap_err().to_string();
            assert_eq!(error, format!("net_af_packet0: {expected}"));
        }
    }
}
