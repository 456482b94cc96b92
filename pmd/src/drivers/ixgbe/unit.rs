//! A device while it is there: brought up with rings, and made to let go of them again.

use wirerate_eal::pci::PciFunction;

use super::error::IxgbeError;
use super::filters;
use super::init::{self, Filter};
use super::interrupt::{self, MOST_VECTORS};
use super::link::{self, Media};
use super::queues::{IxgbeLanes, Mappings, QueuePlan};
use super::registers::{DCTL_ENABLE, DCTL_SWFLSH, LEN, Registers, rxdctl, tdbal, txdctl};
use super::stats;
use crate::drivers::interrupts::Interrupts;
use crate::net::MacAddress;
use crate::port::RssConfig;

/// The vendor, and the devices: those with a cage for SFP+ modules, and those for backplanes or CX4 (DPDK's and Linux's lists).
pub(super) const VENDOR: u16 = 0x8086;
pub(super) const SFP: [u16; 6] = [0x10fb, 0x1507, 0x1529, 0x154a, 0x154d, 0x1557];
pub(super) const BACKPLANE: [u16; 6] = [0x10f7, 0x10f8, 0x10f9, 0x1514, 0x1517, 0x152a];

/// How a device is to be started.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) queues: QueuePlan,
    pub(super) mac: MacAddress,
    pub(super) filter: Filter,
    /// The only VLANs that are received; none receives all.
    pub(super) vlans: Option<Vec<u16>>,
    /// How received frames are spread over queues.
    pub(super) rss: Option<RssConfig>,
    /// Addresses that are received for, too.
    pub(super) addresses: Vec<MacAddress>,
    /// Bytes of the longest frame, frame check sequence included and tags not.
    pub(super) longest: u32,
}

/// A device.
#[derive(Debug)]
pub(super) struct Unit<F: PciFunction> {
    name: String,
    /// Not at rest: the device may use memory.
    awake: bool,
    media: Media,
    pub(super) interrupts: Interrupts,
    pub(super) mappings: Option<Mappings>,
    pub(super) registers: Registers<F::Bar>,
    /// The last that is dropped.
    pub(super) function: F,
}

impl<F: PciFunction> Unit<F> {
    /// Finds the device, resets it, and asks it for its address. It is at rest afterwards.
    ///
    /// # Errors
    /// [`IxgbeError`] says why it cannot be driven.
    pub(super) fn open(name: &str, function: F) -> Result<(Self, MacAddress), IxgbeError> {
        let identity = function.config_read(0);
        if identity == u32::MAX {
            return Err(IxgbeError::Gone);
        }
        let (vendor, device) = (identity as u16, (identity >> 16) as u16);
        let media = match device {
            _ if vendor != VENDOR => None,
            _ if SFP.contains(&device) => Some(Media::Sfp),
            _ if BACKPLANE.contains(&device) => Some(Media::Backplane),
            _ => None,
        };
        let media = media.ok_or(IxgbeError::Foreign { vendor, device })?;
        let registers = Registers::new(function.bar(0)?, LEN)?;
        // Whatever it did before, it does not reach memory from here on.
        function.set_bus_master(false)?;
        let unit = Self {
            name: name.to_owned(),
            awake: false,
            media,
            interrupts: Interrupts::None,
            mappings: None,
            registers,
            function,
        };
        init::reset(&unit.registers)?;
        super::eeprom::check(&unit.registers)?;
        let mac = init::address(&unit.registers)?;
        Ok((unit, mac))
    }

    /// Brings the device up with rings in `lanes`, as `plan` says. The lanes are empty, and let nothing pass until the caller
    /// says so. When it fails the rings are still there; [`halt`](Self::halt) comes before they are dropped.
    ///
    /// # Errors
    /// [`IxgbeError`] says what the device does not do.
    pub(super) fn start(&mut self, plan: &Plan, lanes: &IxgbeLanes<F::Bar>) -> Result<(), IxgbeError> {
        self.awake = true;
        // 4.6.3, step by step.
        init::reset(&self.registers)?;
        self.function.set_bus_master(true)?;
        self.interrupts = Interrupts::enable(&self.name, &self.function, plan.queues.receives, MOST_VECTORS);
        link::set_up(&self.registers, self.media)?;
        stats::clear(&self.registers);
        stats::prepare(&self.registers);
        init::prepare(&self.registers, plan.mac);
        for (index, mac) in plan.addresses.iter().enumerate() {
            init::set_address(&self.registers, index + 1, Some(*mac));
        }
        init::set_filter(&self.registers, plan.filter);
        init::set_longest_frame(&self.registers, plan.longest);
        for vlan in plan.vlans.iter().flatten() {
            filters::set_vlan(&self.registers, *vlan, true);
        }
        filters::set_vlan_filter(&self.registers, plan.vlans.is_some());
        filters::set_rss(&self.registers, plan.rss.as_ref());
        let mappings = self.mappings.as_ref().ok_or(IxgbeError::NotMapped)?;
        if plan.queues.sends > 0 {
            init::transmit_on(&self.registers);
        }
        // SAFETY: the device was reset, so it uses no ring; the lanes are empty, and what was in those before was dropped when
        // the port stopped.
        unsafe {
            plan.queues.transmit(&self.registers, tdbal(0), mappings, lanes)?;
            plan.queues.receive(&self.registers, (&interrupt::OF_PORT, &self.interrupts), mappings, lanes)?;
        }
        if plan.queues.receives > 0 {
            init::receive_on(&self.registers)?;
        }
        interrupt::set_up(&self.registers, &self.interrupts, plan.queues.receives);
        self.registers.here()
    }

    /// Whether the device works.
    pub(super) fn is_awake(&self) -> bool {
        self.awake
    }

    /// Makes the device let go of all memory, whether it works or is gone. Rings and packets can be dropped afterwards.
    pub(super) fn halt(&mut self) {
        if !std::mem::replace(&mut self.awake, false) {
            return;
        }
        init::farewell(&self.registers);
        for queue in 0..usize::from(super::options::MOST_QUEUES) {
            self.registers.write(txdctl(queue), DCTL_SWFLSH);
            self.registers.change(rxdctl(queue), DCTL_ENABLE, DCTL_SWFLSH);
        }
        match init::reset(&self.registers) {
            Ok(()) => {}
            // It reaches nothing any more, as far as we can tell.
            Err(IxgbeError::Gone) => tracing::debug!("{}: there is no device to reset", self.name),
            Err(error) => {
                tracing::error!("{}: {error}", self.name);
                if !self.function.reset().unwrap_or(false) {
                    tracing::error!("{}: it cannot be reset by PCI either", self.name);
                }
            }
        }
        // If it has not heard of the reset it loses its way to memory by this.
        if let Err(error) = self.function.set_bus_master(false) {
            tracing::debug!("{}: {error}", self.name);
        }
        self.function.disable_interrupts();
        self.interrupts = Interrupts::None;
    }
}

impl<F: PciFunction> Drop for Unit<F> {
    fn drop(&mut self) {
        self.halt();
    }
}
