//! A device while it is there: brought up with rings, and made to let go of them again.

use wirerate_eal::pci::PciFunction;

use super::chip::{Chip, Family};
use super::error::IxgbeError;
use super::filters;
use super::flow::{self, FlowControl};
use super::init::{self, Filter};
use super::interrupt::{self, MOST_VECTORS};
use super::link::{self, Media};
use super::phy;
use super::queues::{IxgbeLanes, Mappings, QueuePlan};
use super::registers::{DCTL_ENABLE, DCTL_SWFLSH, LEN, Registers, rxdctl, tdbal, txdctl};
use super::sfp::{self, Module};
use super::stats;
use crate::drivers::interrupts::Interrupts;
use crate::net::MacAddress;
use crate::port::RssConfig;

/// How a device is to be started.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) queues: QueuePlan,
    pub(super) mac: MacAddress,
    pub(super) filter: Filter,
    pub(super) flow: FlowControl,
    /// Whether modules are used that are not known to work.
    pub(super) any_module: bool,
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
    /// The module in the cage, once it was found.
    module: Option<Module>,
    any_module: bool,
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
        let chip = Chip::of(vendor, device).ok_or(IxgbeError::Foreign { vendor, device })?;
        let (family, media) = (chip.family, chip.media);
        if family != Family::I82599 {
            tracing::warn!(
                "{name}: this driver was run against no model and no card of an {}, only against a model of the 82599",
                family.name()
            );
        }
        let registers = Registers::new(function.bar(0)?, LEN, family)?;
        // Whatever it did before, it does not reach memory from here on.
        function.set_bus_master(false)?;
        let unit = Self {
            name: name.to_owned(),
            awake: false,
            media,
            module: None,
            any_module: false,
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
        self.any_module = plan.any_module;
        self.start_link()?;
        stats::clear(&self.registers);
        stats::prepare(&self.registers);
        init::prepare(&self.registers, plan.mac);
        flow::set_up(&self.registers, plan.flow);
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

    /// Sets up the module, if there is one, and the link.
    fn start_link(&mut self) -> Result<(), IxgbeError> {
        self.module = None;
        if self.media == Media::Sfp && !self.find_module()? {
            tracing::warn!("{}: there is no module in its cage; one that is put in is used", self.name);
        }
        if self.media == Media::Copper
            && let Err(error) = phy::power_up(&self.registers, init::port(&self.registers))
        {
            if let IxgbeError::Gone = error {
                return Err(error);
            }
            tracing::warn!("{}: {error}; the link is as the firmware has it", self.name);
        }
        link::set_up(&self.registers, self.media)
    }

    /// Looks for a module and sets it up; whether there is one.
    fn find_module(&mut self) -> Result<bool, IxgbeError> {
        let port = init::port(&self.registers);
        let Some(module) = Module::find(&self.registers, port)? else { return Ok(false) };
        module.check(&self.registers, self.any_module)?;
        sfp::initialise(&self.registers, &module, port)?;
        sfp::laser_on(&self.registers);
        tracing::info!("{}: the module in its cage is {module}", self.name);
        self.module = Some(module);
        Ok(true)
    }

    /// Uses a module that was put into a cage which was empty.
    ///
    /// # Errors
    /// [`IxgbeError`] when it cannot be used; it is looked for again then.
    pub(super) fn look_for_module(&mut self) -> Result<(), IxgbeError> {
        if self.media == Media::Sfp && self.module.is_none() && self.find_module()? {
            link::set_up(&self.registers, self.media)?;
        }
        Ok(())
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
