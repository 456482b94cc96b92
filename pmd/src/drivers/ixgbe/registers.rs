//! The registers of an 82599, by the names of its datasheet (331520, section 8.2.3), and how they are waited for.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use wirerate_eal::mmio::Mmio;

use super::chip::Family;
use super::error::IxgbeError;

/// Bytes of registers that are used here: up to that of the link's analog side.
pub(super) const LEN: usize = 0x1_5000;

/// Device control (8.2.3.1.1): no more requests of the bus, reset of the link, reset of the rest.
pub(super) const CTRL: usize = 0x00000;
pub(super) const CTRL_MASTER_DISABLE: u32 = 1 << 2;
pub(super) const CTRL_LRST: u32 = 1 << 3;
pub(super) const CTRL_RST: u32 = 1 << 26;
/// Device status (8.2.3.1.2): the number of the port on the chip; requests of the bus may be outstanding.
pub(super) const STATUS: usize = 0x00008;
pub(super) const STATUS_LAN_ID_SHIFT: u32 = 2;
pub(super) const STATUS_MASTER_ENABLE: u32 = 1 << 19;
/// Extended device control (8.2.3.1.3): no snooping is never asked for; a driver is there, for the firmware.
pub(super) const CTRL_EXT: usize = 0x00018;
pub(super) const CTRL_EXT_NS_DIS: u32 = 1 << 16;
pub(super) const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;

/// Pins (8.2.3.1.4): the third lets the module's laser shine while it is low.
pub(super) const ESDP: usize = 0x00020;
pub(super) const ESDP_SDP3: u32 = 1 << 3;
/// The two wires to the module in the cage (8.2.3.1.5).
pub(super) const I2CCTL: usize = 0x00028;
pub(super) const I2CCTL_CLK_IN: u32 = 1 << 0;
pub(super) const I2CCTL_CLK_OUT: u32 = 1 << 1;
pub(super) const I2CCTL_DATA_IN: u32 = 1 << 2;
pub(super) const I2CCTL_DATA_OUT: u32 = 1 << 3;

/// Flow control (8.2.3.3): the pause that is asked for, when it is asked for again, how full the packet buffer is then and
/// when it ends, whether it is asked for at all.
pub(super) const fn fcttv(pair: usize) -> usize {
    0x03200 + 4 * pair
}
pub(super) const FCRTL: usize = 0x03220;
pub(super) const FCRTL_XONE: u32 = 1 << 31;
pub(super) const FCRTH: usize = 0x03260;
pub(super) const FCRTH_FCEN: u32 = 1 << 31;
pub(super) const FCRTV: usize = 0x032a0;
pub(super) const FCCFG: usize = 0x03d00;
pub(super) const FCCFG_TFCE: u32 = 1 << 3;
/// Pause frames that come in (8.2.3.22.34): they are not received, and are obeyed.
pub(super) const MFLCN: usize = 0x04294;
pub(super) const MFLCN_DPF: u32 = 1 << 1;
pub(super) const MFLCN_RFCE: u32 = 1 << 3;

/// EEPROM control (8.2.3.2.1): there is one, and its settings were taken over.
pub(super) const EEC: usize = 0x10010;
pub(super) const EEC_PRES: u32 = 1 << 8;
pub(super) const EEC_AUTO_RD: u32 = 1 << 9;
/// EEPROM size is 2 to the power of this field and 6, in words (8.2.3.2.1).
pub(super) const EEC_SIZE_SHIFT: u32 = 11;
/// EEPROM read (8.2.3.2.2): start, done, the word's address, the word.
pub(super) const EERD: usize = 0x10014;
pub(super) const EERD_START: u32 = 1 << 0;
pub(super) const EERD_DONE: u32 = 1 << 1;
pub(super) const EERD_ADDRESS_SHIFT: u32 = 2;
pub(super) const EERD_DATA_SHIFT: u32 = 16;
/// Manageability's control of the EEPROM (8.2.3.2.4): the configuration of port 0 is done; port 1 has the next bit.
pub(super) const EEMNGCTL: usize = 0x10110;
pub(super) const EEMNGCTL_CFG_DONE: u32 = 1 << 18;

/// Semaphores (8.2.3.4.9): between drivers, which reading takes; and of software against firmware.
pub(super) const SWSM: usize = 0x10140;
pub(super) const SWSM_SMBI: u32 = 1 << 0;
pub(super) const SWSM_SWESMBI: u32 = 1 << 1;
/// What software and firmware have taken (8.2.3.4.11); the firmware's bits are 5 above the software's.
pub(super) const SW_FW_SYNC: usize = 0x10160;
/// On an X540, against the firmware: reading takes it. And the device itself uses the flash.
pub(super) const SYNC_REGSMP: u32 = 1 << 31;
pub(super) const SYNC_FLASH: u32 = 1 << 4;
pub(super) const SYNC_EEPROM: u32 = 1 << 0;
pub(super) const SYNC_PHY0: u32 = 1 << 1;
pub(super) const SYNC_MAC_CSR: u32 = 1 << 3;
pub(super) const SYNC_FIRMWARE_SHIFT: u32 = 5;

/// Interrupt causes, which reading clears, and the masks of which writing ones takes them out (8.2.3.5).
pub(super) const EICR: usize = 0x00800;
pub(super) const EIMS: usize = 0x00880;
pub(super) const EIMC: usize = 0x00888;
/// The link has changed.
pub(super) const LSC: u32 = 1 << 20;
pub(super) const EIMC_ALL: u32 = 0x7fff_ffff;
pub(super) const fn eimc_ex(index: usize) -> usize {
    0x00ab0 + 4 * index
}

/// The same for 64 vectors, 32 to a register.
pub(super) const fn eims_ex(index: usize) -> usize {
    0x00aa0 + 4 * index
}
/// Vectors that clear themselves when they are told of (8.2.3.5.5), and that mask themselves (8.2.3.5.10).
pub(super) const EIAC: usize = 0x00810;
pub(super) const fn eiam_ex(index: usize) -> usize {
    0x00ad0 + 4 * index
}
/// How far apart a vector's interrupts are (8.2.3.5.12), in units of 2 µs at 10 Gb/s. There are 24 at these places.
pub(super) const fn eitr(vector: usize) -> usize {
    0x00820 + 4 * vector
}
pub(super) const EITR_SHIFT: u32 = 3;
/// Which vectors queues have, two queues a register (8.2.3.5.16), and what is not a queue's (8.2.3.5.17).
pub(super) const fn ivar(pair: usize) -> usize {
    0x00900 + 4 * pair
}
pub(super) const IVAR_MISC: usize = 0x00a00;
pub(super) const IVAR_VALID: u32 = 0x80;
/// Kinds of interrupts (8.2.3.5.18): many vectors; reading EICR clears what is not a queue's only; messages mask by
/// themselves; messages that wait can be seen.
pub(super) const GPIE: usize = 0x00898;
pub(super) const GPIE_MULTIPLE_MSIX: u32 = 1 << 4;
pub(super) const GPIE_OCD: u32 = 1 << 5;
pub(super) const GPIE_EIAME: u32 = 1 << 30;
pub(super) const GPIE_PBA: u32 = 1 << 31;

/// Filter control (8.2.3.7.1): all multicast, all unicast, broadcast.
pub(super) const FCTRL: usize = 0x05080;
pub(super) const FCTRL_MPE: u32 = 1 << 8;
pub(super) const FCTRL_UPE: u32 = 1 << 9;
pub(super) const FCTRL_BAM: u32 = 1 << 10;
/// VLAN control (8.2.3.7.2): only frames of the table's VLANs, and those without a tag.
pub(super) const VLNCTRL: usize = 0x05088;
pub(super) const VLNCTRL_VFE: u32 = 1 << 30;
/// The VLANs that are received, a bit each (8.2.3.7.11).
pub(super) const fn vfta(index: usize) -> usize {
    0x0a000 + 4 * index
}
/// Checksums of receive (8.2.3.7.5): descriptors tell of hashes and not of fragments' checksums.
pub(super) const RXCSUM: usize = 0x05000;
pub(super) const RXCSUM_PCSD: u32 = 1 << 13;
/// Several receive queues (8.2.3.7.12): RSS, and the headers that it hashes.
pub(super) const MRQC: usize = 0x05818;
pub(super) const MRQC_RSS: u32 = 1 << 0;
pub(super) const MRQC_FIELDS_SHIFT: u32 = 16;
/// RSS: the key (8.2.3.7.14), and the table of queues (8.2.3.7.15), four to a register;
/// an X550's goes on at another place.
pub(super) const fn rssrk(index: usize) -> usize {
    0x05c80 + 4 * index
}
pub(super) const fn reta(index: usize) -> usize {
    if index < 32 { 0x05c00 + 4 * index } else { 0x0ee80 + 4 * (index - 32) }
}

/// Tables of 128 words: multicast hashes (8.2.3.7.7), VLANs (8.2.3.7.11), unicast hashes (8.2.3.27.17).
pub(super) const TABLES: [usize; 3] = [0x05200, 0x0a000, 0x0f400];
pub(super) const TABLE_WORDS: usize = 128;
/// Receive addresses (8.2.3.7.8, 8.2.3.7.9), and to which pools their packets go (8.2.3.7.10).
pub(super) const ADDRESSES: usize = 128;
pub(super) const fn ral(index: usize) -> usize {
    0x0a200 + 8 * index
}
pub(super) const fn rah(index: usize) -> usize {
    0x0a204 + 8 * index
}
pub(super) const RAH_AV: u32 = 1 << 31;
pub(super) const fn mpsar(index: usize) -> usize {
    0x0a600 + 4 * index
}

/// Receive descriptor rings (8.2.3.8.1 to 8.2.3.8.7). The first 64 have these places.
pub(super) const fn rdbal(queue: usize) -> usize {
    0x01000 + 0x40 * queue
}
pub(super) const fn rdbah(queue: usize) -> usize {
    0x01004 + 0x40 * queue
}
pub(super) const fn rdlen(queue: usize) -> usize {
    0x01008 + 0x40 * queue
}
pub(super) const fn rdh(queue: usize) -> usize {
    0x01010 + 0x40 * queue
}
pub(super) const fn srrctl(queue: usize) -> usize {
    0x01014 + 0x40 * queue
}
pub(super) const fn rdt(queue: usize) -> usize {
    0x01018 + 0x40 * queue
}
pub(super) const fn rxdctl(queue: usize) -> usize {
    0x01028 + 0x40 * queue
}
/// Bits of SRRCTL: one buffer for a descriptor of the advanced kind, and what has no descriptor is dropped.
pub(super) const SRRCTL_ADVANCED: u32 = 1 << 25;
pub(super) const SRRCTL_DROP_EN: u32 = 1 << 28;
/// Bits of RXDCTL and TXDCTL.
pub(super) const DCTL_ENABLE: u32 = 1 << 25;
/// Of RXDCTL alone: tags are taken out.
pub(super) const RXDCTL_VME: u32 = 1 << 30;
pub(super) const DCTL_SWFLSH: u32 = 1 << 26;
/// Direct cache access of a receive queue (8.2.3.11.1); bit 12 has to be 0 (4.6.7).
pub(super) const fn dca_rxctrl(queue: usize) -> usize {
    0x0100c + 0x40 * queue
}
pub(super) const DCA_RXCTRL_MUST_BE_0: u32 = 1 << 12;
/// Receive control (8.2.3.8.10).
pub(super) const RXCTRL: usize = 0x03000;
pub(super) const RXCTRL_RXEN: u32 = 1 << 0;
/// Receive DMA control (8.2.3.8.8): its set-up is done, and what 4.6.7 asks for.
pub(super) const RDRXCTL: usize = 0x02f00;
pub(super) const RDRXCTL_CRC_STRIP: u32 = 1 << 1;
pub(super) const RDRXCTL_DMAIDONE: u32 = 1 << 3;
pub(super) const RDRXCTL_RSCFRSTSIZE: u32 = 0x1f << 17;
pub(super) const RDRXCTL_RSCACKC: u32 = 1 << 25;
pub(super) const RDRXCTL_FCOE_WRFIX: u32 = 1 << 26;
/// Receive packet buffers (8.2.3.8.9).
pub(super) const fn rxpbsize(index: usize) -> usize {
    0x03c00 + 4 * index
}
/// Security of receive (8.2.3.12.5, 8.2.3.12.6): the path is halted, and is empty.
pub(super) const SECRXCTRL: usize = 0x08d00;
pub(super) const SECRXCTRL_RX_DIS: u32 = 1 << 1;
pub(super) const SECRXSTAT: usize = 0x08d04;
pub(super) const SECRXSTAT_RDY: u32 = 1 << 0;

/// Transmit descriptor rings (8.2.3.9.5 to 8.2.3.9.10).
pub(super) const fn tdbal(queue: usize) -> usize {
    0x06000 + 0x40 * queue
}
pub(super) const fn tdbah(queue: usize) -> usize {
    0x06004 + 0x40 * queue
}
pub(super) const fn tdlen(queue: usize) -> usize {
    0x06008 + 0x40 * queue
}
pub(super) const fn tdh(queue: usize) -> usize {
    0x06010 + 0x40 * queue
}
pub(super) const fn tdt(queue: usize) -> usize {
    0x06018 + 0x40 * queue
}
pub(super) const fn txdctl(queue: usize) -> usize {
    0x06028 + 0x40 * queue
}
/// Direct cache access of a transmit queue (8.2.3.11.2): write-backs may overtake each other, which must not be.
pub(super) const fn dca_txctrl(queue: usize) -> usize {
    0x0600c + 0x40 * queue
}
pub(super) const DCA_TXCTRL_WRITE_BACK_RO: u32 = 1 << 11;
/// Transmit DMA control (8.2.3.9.2).
pub(super) const DMATXCTL: usize = 0x04a80;
pub(super) const DMATXCTL_TE: u32 = 1 << 0;
/// The most bytes that transmission asks for at a time (8.2.3.9.1); this is for a port without DCB (4.6.11.3.4).
pub(super) const DTXMXSZRQ: usize = 0x08100;
pub(super) const DTXMXSZRQ_NO_DCB: u32 = 0xfff;
/// Arbiter of transmission (8.2.3.10.4); off while queues are set up.
pub(super) const RTTDCS: usize = 0x04900;
pub(super) const RTTDCS_ARBDIS: u32 = 1 << 6;
/// Transmit queues (8.2.3.9.15): all 64 in one packet buffer.
pub(super) const MTQC: usize = 0x08120;
/// Transmit packet buffers (8.2.3.9.13, 8.2.3.9.16): one of 160 KiB, from which sending may begin below 160 KiB.
pub(super) const fn txpbsize(index: usize) -> usize {
    0x0cc00 + 4 * index
}
pub(super) const TXPBSIZE_ALL: u32 = 160 << 10;
pub(super) const fn txpbthresh(index: usize) -> usize {
    0x04950 + 4 * index
}
pub(super) const TXPBTHRESH_ALL: u32 = 160;
/// Packet buffers each way.
pub(super) const PACKET_BUFFERS: usize = 8;

/// Highlander control (8.2.3.22.8): checksums of frames are added and taken off, long frames are taken, short ones padded.
pub(super) const HLREG0: usize = 0x04240;
pub(super) const HLREG0_TXCRCEN: u32 = 1 << 0;
pub(super) const HLREG0_RXCRCSTRP: u32 = 1 << 1;
pub(super) const HLREG0_JUMBOEN: u32 = 1 << 2;
pub(super) const HLREG0_TXPADEN: u32 = 1 << 10;
/// The longest frame, frame check sequence and all but VLAN tags, in the upper half (8.2.3.22.13).
pub(super) const MAXFRS: usize = 0x04268;
pub(super) const MAXFRS_SHIFT: u32 = 16;
/// The link's mode (8.2.3.22.19, 8.2.3.22.22): 10 Gb/s by a serial interface, of the kind that SFP+ has.
pub(super) const AUTOC: usize = 0x042a0;
pub(super) const AUTOC_RESTART_AN: u32 = 1 << 12;
pub(super) const AUTOC_LMS: u32 = 7 << 13;
pub(super) const AUTOC_LMS_10G_SERIAL: u32 = 3 << 13;
pub(super) const AUTOC2: usize = 0x042a8;
pub(super) const AUTOC2_SERIAL_PMA: u32 = 3 << 16;
pub(super) const AUTOC2_SERIAL_SFI: u32 = 2 << 16;
pub(super) const AUTOC2_LINK_DISABLE: u32 = 7 << 28;
/// How far negotiation is (8.2.3.22.23); 0 until the analog side works.
pub(super) const ANLP1: usize = 0x042b0;
pub(super) const ANLP1_AN_STATE: u32 = 0xf << 16;
/// The analog side of the link (8.2.3.22.32).
pub(super) const CORECTL: usize = 0x14f00;
/// MDIO (8.2.3.22.11, 8.2.3.22.12): the register, the device and the PHY that are meant, what is done, and that it is to be
/// done and is under way; and the word, as it is written below and read above.
pub(super) const MSCA: usize = 0x0425c;
pub(super) const MSCA_DEVICE_SHIFT: u32 = 16;
pub(super) const MSCA_PHY_SHIFT: u32 = 21;
pub(super) const MSCA_WRITE: u32 = 1 << 26;
pub(super) const MSCA_READ: u32 = 3 << 26;
pub(super) const MSCA_COMMAND: u32 = 1 << 30;
pub(super) const MSRWD: usize = 0x04260;
/// The link's state (8.2.3.22.20). An X550 has speeds in between.
pub(super) const LINKS: usize = 0x042a4;
pub(super) const LINKS_UP: u32 = 1 << 30;
pub(super) const LINKS_IN_BETWEEN: u32 = 1 << 27;
pub(super) const LINKS_SPEED_SHIFT: u32 = 28;

/// A register is looked at so often before it is given up: where others keep the processor busy, the time may be over
/// after the first look.
const LEAST_LOOKS: u32 = 8;

/// The registers of one port.
#[derive(Debug)]
pub(super) struct Registers<B> {
    bar: Arc<B>,
    family: Family,
}

impl<B: Mmio> Registers<B> {
    /// Over the registers of BAR 0 of a device of `family`, of which `needed` bytes are used.
    ///
    /// # Errors
    /// [`IxgbeError::Registers`] when there are not so many.
    pub(super) fn new(bar: Arc<B>, needed: usize, family: Family) -> Result<Self, IxgbeError> {
        match bar.len() {
            found if found < needed => Err(IxgbeError::Registers { found, needed }),
            _ => Ok(Self { bar, family }),
        }
    }

    /// Whose they are.
    pub(super) const fn family(&self) -> Family {
        self.family
    }

    /// The registers themselves.
    pub(super) fn bar(&self) -> &Arc<B> {
        &self.bar
    }

    pub(super) fn read(&self, register: usize) -> u32 {
        self.bar.read32(register)
    }

    pub(super) fn write(&self, register: usize, value: u32) {
        self.bar.write32(register, value);
    }

    /// Sets and clears bits of a register.
    pub(super) fn change(&self, register: usize, clear: u32, set: u32) {
        self.write(register, self.read(register) & !clear | set);
    }

    pub(super) fn set(&self, register: usize, bits: u32) {
        self.change(register, 0, bits);
    }

    pub(super) fn clear(&self, register: usize, bits: u32) {
        self.change(register, bits, 0);
    }

    /// Waits until what came before has reached the device: a read does not overtake writes.
    pub(super) fn flush(&self) {
        let _ = self.read(STATUS);
    }

    /// Whether the device does not answer any more. No status has all its bits set.
    pub(super) fn is_gone(&self) -> bool {
        self.read(STATUS) == u32::MAX
    }

    /// Fails if the device does not answer.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`].
    pub(super) fn here(&self) -> Result<(), IxgbeError> {
        if self.is_gone() { Err(IxgbeError::Gone) } else { Ok(()) }
    }

    /// Waits until the bits `mask` of a register are `wanted`, which makes `what` done, and returns it.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`], and [`IxgbeError::Late`] when it takes longer than `limit`.
    pub(super) fn wait(
        &self,
        what: &'static str,
        register: usize,
        mask: u32,
        wanted: u32,
        limit: Duration,
    ) -> Result<u32, IxgbeError> {
        let (begun, mut looks) = (Instant::now(), 0);
        loop {
            // Asked before the look, so that one look comes after the limit, and several in all, however long the thread slept.
            let over = looks >= LEAST_LOOKS && begun.elapsed() >= limit;
            let value = self.read(register);
            if value == u32::MAX {
                self.here()?;
            }
            if value & mask == wanted {
                return Ok(value);
            }
            if over {
                return Err(IxgbeError::Late { what, register, value, milliseconds: limit.as_millis() });
            }
            looks += 1;
            thread::sleep(Duration::from_micros(100));
        }
    }
}
