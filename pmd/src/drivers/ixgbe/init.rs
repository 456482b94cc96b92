//! Bringing the device from whatever it was into a known state, and the general set-up of both directions: the sequence of
//! datasheet 4.6.3, with 4.6.7 and 4.6.8 as far as they are not about single queues.

use std::thread;
use std::time::Duration;

use wirerate_eal::mmio::Mmio;

use super::error::IxgbeError;
use super::registers::{
    ADDRESSES, CTRL, CTRL_EXT, CTRL_EXT_DRV_LOAD, CTRL_EXT_NS_DIS, CTRL_MASTER_DISABLE, CTRL_RST, DMATXCTL,
    DMATXCTL_TE, DTXMXSZRQ, DTXMXSZRQ_NO_DCB, EEC, EEC_AUTO_RD, EEMNGCTL, EEMNGCTL_CFG_DONE, EICR, EIMC,
    EIMC_ALL, FCTRL, FCTRL_BAM, FCTRL_MPE, FCTRL_UPE, HLREG0, HLREG0_JUMBOEN, HLREG0_RXCRCSTRP,
    HLREG0_TXCRCEN, HLREG0_TXPADEN, MAXFRS, MAXFRS_SHIFT, MTQC, PACKET_BUFFERS, RAH_AV, RDRXCTL,
    RDRXCTL_CRC_STRIP, RDRXCTL_DMAIDONE, RDRXCTL_FCOE_WRFIX, RDRXCTL_RSCACKC, RDRXCTL_RSCFRSTSIZE, RTTDCS,
    RTTDCS_ARBDIS, RXCSUM, RXCSUM_PCSD, RXCTRL, RXCTRL_RXEN, Registers, SECRXCTRL, SECRXCTRL_RX_DIS,
    SECRXSTAT, SECRXSTAT_RDY, STATUS, STATUS_LAN_ID_SHIFT, STATUS_MASTER_ENABLE, SYNC_PHY0, TABLE_WORDS,
    TABLES, TXPBSIZE_ALL, TXPBTHRESH_ALL, eimc_ex, mpsar, rah, ral, rxpbsize, txpbsize, txpbthresh,
};
use super::semaphore::Taken;
use crate::net::MacAddress;

/// How long requests of the bus may be outstanding (5.2.5.3.2).
const MASTER_TIME: Duration = Duration::from_millis(100);
/// How long a reset may take. It takes microseconds.
const RESET_TIME: Duration = Duration::from_millis(100);
/// How long each further step of 4.6.3 may take.
const STEP_TIME: Duration = Duration::from_millis(500);
/// How long the data path may take to halt, which takes microseconds; the thread may be kept from looking.
const HALT_TIME: Duration = Duration::from_millis(100);

/// Resets the device: it lets go of all memory, and is as its EEPROM says. Interrupts are off (4.6.3, steps 1 to 5).
///
/// # Errors
/// [`IxgbeError::Gone`], and [`IxgbeError::Late`] for the step that is not done.
pub(super) fn reset<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    registers.here()?;
    interrupts_off(registers);
    stop_requests(registers)?;
    // 4.2.1.6: the reset of software and that of the link together are the global one.
    let family = registers.family();
    if family.has_one_semaphore() {
        // Not while the firmware talks to the PHY.
        let _taken = Taken::take(registers, "way to the PHY", SYNC_PHY0 << port(registers))?;
        registers.set(CTRL, family.reset_bits());
        registers.flush();
    } else {
        registers.set(CTRL, family.reset_bits());
    }
    thread::sleep(family.settle());
    registers.wait("a reset", CTRL, family.reset_bits(), 0, RESET_TIME)?;
    // The reset has undone that (4.6.3.1).
    interrupts_off(registers);
    registers.wait("reading the EEPROM's settings", EEC, EEC_AUTO_RD, EEC_AUTO_RD, STEP_TIME)?;
    let done = EEMNGCTL_CFG_DONE << port(registers);
    match registers.wait("the firmware's configuration", EEMNGCTL, done, done, STEP_TIME) {
        // Without its firmware the device works, too.
        Err(error @ IxgbeError::Late { .. }) => tracing::warn!("{error}"),
        done => {
            done?;
        }
    }
    registers.wait("the set-up of DMA", RDRXCTL, RDRXCTL_DMAIDONE, RDRXCTL_DMAIDONE, STEP_TIME)?;
    Ok(())
}

/// Which of the chip's two ports it is.
pub(super) fn port<B: Mmio>(registers: &Registers<B>) -> u32 {
    registers.read(STATUS) >> STATUS_LAN_ID_SHIFT & 1
}

/// Masks all interrupts and forgets those that wait (4.6.3.1).
fn interrupts_off<B: Mmio>(registers: &Registers<B>) {
    registers.write(EIMC, EIMC_ALL);
    for index in 0..2 {
        registers.write(eimc_ex(index), u32::MAX);
    }
    let _ = registers.read(EICR);
    registers.flush();
}

/// Keeps the device from asking anything more of the bus, and waits for what it has asked (5.2.5.3.2).
fn stop_requests<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    registers.clear(RXCTRL, RXCTRL_RXEN);
    registers.set(CTRL, CTRL_MASTER_DISABLE);
    match registers.wait("ending its requests of the bus", STATUS, STATUS_MASTER_ENABLE, 0, MASTER_TIME) {
        Err(error @ IxgbeError::Late { .. }) => {
            // 5.2.5.3.2: then it takes two resets.
            tracing::warn!("{error}; it is reset twice");
            registers.set(CTRL, CTRL_RST);
            thread::sleep(registers.family().settle());
            Ok(())
        }
        done => done.map(|_| ()),
    }
}

/// The station address that the EEPROM has given to the device (8.2.3.7.8), after a reset.
///
/// # Errors
/// [`IxgbeError::Address`] when it is none.
pub(super) fn address<B: Mmio>(registers: &Registers<B>) -> Result<MacAddress, IxgbeError> {
    let (low, high) = (registers.read(ral(0)), registers.read(rah(0)));
    if low == u32::MAX && high == u32::MAX {
        registers.here()?;
    }
    let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
    let mac = MacAddress([a, b, c, d, e, f]);
    if mac.0 == [0; 6] || mac.is_multicast() { Err(IxgbeError::Address(mac)) } else { Ok(mac) }
}

/// Receives frames for `mac` by entry `index` of the 128; none takes the entry out.
pub(super) fn set_address<B: Mmio>(registers: &Registers<B>, index: usize, mac: Option<MacAddress>) {
    let [a, b, c, d, e, f] = mac.unwrap_or(MacAddress([0; 6])).0;
    let valid = if mac.is_some() { RAH_AV } else { 0 };
    // Not valid while it is half written.
    registers.write(rah(index), 0);
    registers.write(ral(index), u32::from_le_bytes([a, b, c, d]));
    registers.write(rah(index), u32::from_le_bytes([e, f, 0, 0]) | valid);
}

/// Which frames are received, beside those for the addresses of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Filter {
    /// All.
    pub(super) promiscuous: bool,
    /// All for groups.
    pub(super) all_multicast: bool,
}

/// Chooses which frames are received; those for all stations always are.
pub(super) fn set_filter<B: Mmio>(registers: &Registers<B>, filter: Filter) {
    let mut set = FCTRL_BAM;
    if filter.promiscuous {
        set |= FCTRL_UPE;
    }
    if filter.promiscuous || filter.all_multicast {
        set |= FCTRL_MPE;
    }
    registers.change(FCTRL, FCTRL_UPE | FCTRL_MPE, set);
}

/// Takes frames of up to `bytes` bytes, frame check sequence included and VLAN tags not (8.2.3.22.13).
pub(super) fn set_longest_frame<B: Mmio>(registers: &Registers<B>, bytes: u32) {
    registers.change(MAXFRS, u32::MAX << MAXFRS_SHIFT, bytes << MAXFRS_SHIFT);
}

/// Sets up what all queues share, both ways, after a reset (4.6.7, 4.6.8). Neither direction is on afterwards.
pub(super) fn prepare<B: Mmio>(registers: &Registers<B>, mac: MacAddress) {
    registers.set(CTRL_EXT, CTRL_EXT_NS_DIS | CTRL_EXT_DRV_LOAD);
    // 4.6.7: the tables are not reset by the device itself.
    for table in TABLES {
        for word in 0..TABLE_WORDS {
            registers.write(table + 4 * word, 0);
        }
    }
    set_address(registers, 0, Some(mac));
    for index in 1..ADDRESSES {
        set_address(registers, index, None);
    }
    for index in 0..2 * ADDRESSES {
        registers.write(mpsar(index), 0);
    }
    // 4.6.11.3.4: no DCB and no virtualisation, so there is one packet buffer each way.
    for index in 0..PACKET_BUFFERS {
        let of_first = |all| if index == 0 { all } else { 0 };
        registers.write(rxpbsize(index), of_first(registers.family().packet_buffer()));
        registers.write(txpbsize(index), of_first(TXPBSIZE_ALL));
        registers.write(txpbthresh(index), of_first(TXPBTHRESH_ALL));
    }
    // Told in place of hashes, checksums of fragments would be, which nobody here wants.
    registers.write(RXCSUM, RXCSUM_PCSD);
    registers.write(DTXMXSZRQ, DTXMXSZRQ_NO_DCB);
    registers.set(RTTDCS, RTTDCS_ARBDIS);
    registers.write(MTQC, 0);
    registers.clear(RTTDCS, RTTDCS_ARBDIS);
    registers.set(HLREG0, HLREG0_TXCRCEN | HLREG0_TXPADEN | HLREG0_RXCRCSTRP | HLREG0_JUMBOEN);
    // It goes with the one of HLREG0, and these are as 4.6.7 says.
    let set = RDRXCTL_CRC_STRIP | RDRXCTL_RSCACKC | RDRXCTL_FCOE_WRFIX;
    registers.change(RDRXCTL, RDRXCTL_RSCFRSTSIZE, set);
}

/// Lets the device send; before its first queue is enabled (4.6.8).
pub(super) fn transmit_on<B: Mmio>(registers: &Registers<B>) {
    registers.set(DMATXCTL, DMATXCTL_TE);
}

/// Lets the device receive; after all else was set up (4.6.7: the data path is halted meanwhile).
///
/// # Errors
/// [`IxgbeError`] when the path is not halted.
pub(super) fn receive_on<B: Mmio>(registers: &Registers<B>) -> Result<(), IxgbeError> {
    registers.set(SECRXCTRL, SECRXCTRL_RX_DIS);
    let halted = registers.wait("halting reception", SECRXSTAT, SECRXSTAT_RDY, SECRXSTAT_RDY, HALT_TIME);
    registers.set(RXCTRL, RXCTRL_RXEN);
    registers.clear(SECRXCTRL, SECRXCTRL_RX_DIS);
    registers.flush();
    halted.map(|_| ())
}

/// Tells the firmware that the driver goes.
pub(super) fn farewell<B: Mmio>(registers: &Registers<B>) {
    registers.clear(CTRL_EXT, CTRL_EXT_DRV_LOAD);
}
