//! A virtual function while it is there: brought up with rings, and made to let go of them again.

use std::thread;
use std::time::Duration;

use wirerate_eal::pci::PciFunction;

use super::registers::{
    LEN, VFCTRL, VFCTRL_RST, VFLINKS, VFPSRTYPE, VFPSRTYPE_RQPL_SHIFT, VFTDBAL, VTEICR, VTEIMC, VTEIMC_ALL,
    vftdwbah, vftdwbal, vftxdctl,
};
use super::talk::Talk;
use super::{DEVICES, VENDOR};
use crate::drivers::interrupts::Interrupts;
use crate::drivers::ixgbe::error::IxgbeError;
use crate::drivers::ixgbe::init::Filter;
use crate::drivers::ixgbe::link;
use crate::drivers::ixgbe::queues::{IxgbeLanes, Mappings, QueuePlan};
use crate::drivers::ixgbe::registers::{DCTL_ENABLE, DCTL_SWFLSH, Registers, rxdctl};
use crate::net::MacAddress;
use crate::port::Link;

/// The device is not to be touched for so long after a reset (4.2.1.6.2 asks for 10 ms).
const SETTLE: Duration = Duration::from_millis(10);
/// Queues that a function has registers of.
const QUEUES: usize = 8;

/// How a function is to be started.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) queues: QueuePlan,
    pub(super) mac: MacAddress,
    pub(super) filter: Filter,
    /// Addresses that are received for, too.
    pub(super) addresses: Vec<MacAddress>,
    /// VLANs whose frames are received.
    pub(super) vlans: Vec<u16>,
    /// Bytes of the longest frame, frame check sequence included and tags not.
    pub(super) longest: u32,
}

/// What is known of a function once it was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Its address, if the port's administrator has one for it.
    pub(super) mac: Option<MacAddress>,
    /// The most queues each way.
    pub(super) queues: u16,
}

/// A virtual function.
#[derive(Debug)]
pub(super) struct Unit<F: PciFunction> {
    name: String,
    /// Not at rest: the device may use memory.
    awake: bool,
    /// The port's administrator lets it have a link.
    may_have_link: bool,
    pub(super) talk: Talk,
    pub(super) mappings: Option<Mappings>,
    pub(super) registers: Registers<F::Bar>,
    /// The last that is dropped.
    pub(super) function: F,
}

impl<F: PciFunction> Unit<F> {
    /// Finds the function, resets it, and asks the physical one about it. It is at rest afterwards.
    ///
    /// # Errors
    /// [`IxgbeError`] says why it cannot be driven.
    pub(super) fn open(name: &str, function: F) -> Result<(Self, Found), IxgbeError> {
        let identity = function.config_read(0);
        if identity == u32::MAX {
            return Err(IxgbeError::Gone);
        }
        let (vendor, device) = (identity as u16, (identity >> 16) as u16);
        if vendor != VENDOR || !DEVICES.contains(&device) {
            return Err(IxgbeError::Foreign { vendor, device });
        }
        let registers = Registers::new(function.bar(0)?, LEN)?;
        // Whatever it did before, it does not reach memory from here on.
        function.set_bus_master(false)?;
        let name = name.to_owned();
        let mut unit = Self {
            name,
            awake: false,
            may_have_link: true,
            talk: Talk::default(),
            mappings: None,
            registers,
            function,
        };
        unit.reset()?;
        let mac = unit.talk.begin(&unit.registers)?;
        let queues = unit.talk.queues(&unit.registers)?;
        Ok((unit, Found { mac, queues }))
    }

    /// Resets the function: it lets go of all memory, and its interrupts are off. Other registers of its queues are put as a
    /// power-on does, because this reset does not (4.2.2.2).
    fn reset(&mut self) -> Result<(), IxgbeError> {
        let registers = &self.registers;
        registers.here()?;
        registers.write(VTEIMC, VTEIMC_ALL);
        let _ = registers.read(VTEICR);
        for queue in 0..QUEUES {
            registers.write(vftxdctl(queue), DCTL_SWFLSH);
            registers.change(rxdctl(queue), DCTL_ENABLE, DCTL_SWFLSH);
        }
        registers.write(VFPSRTYPE, 0);
        registers.flush();
        registers.write(VFCTRL, VFCTRL_RST);
        registers.flush();
        thread::sleep(SETTLE);
        registers.write(VTEIMC, VTEIMC_ALL);
        let _ = registers.read(VTEICR);
        for queue in 0..QUEUES {
            registers.write(vftxdctl(queue), 0);
            registers.write(rxdctl(queue), 0);
            registers.write(vftdwbal(queue), 0);
            registers.write(vftdwbah(queue), 0);
        }
        registers.here()
    }

    /// Brings the function up with rings in `lanes`, as `plan` says. The lanes are empty, and let nothing pass until the caller
    /// says so. When it fails the rings are still there; [`halt`](Self::halt) comes before they are dropped.
    ///
    /// # Errors
    /// [`IxgbeError`] says what the device or the physical function does not do.
    pub(super) fn start(&mut self, plan: &Plan, lanes: &IxgbeLanes<F::Bar>) -> Result<(), IxgbeError> {
        self.awake = true;
        self.reset()?;
        self.function.set_bus_master(true)?;
        let given = self.talk.begin(&self.registers)?;
        let queues = self.talk.queues(&self.registers)?;
        if queues < plan.queues.receives.max(plan.queues.sends) {
            return Err(IxgbeError::Refused { what: "as many queues as before" });
        }
        let (talk, registers) = (&mut self.talk, &self.registers);
        if given != Some(plan.mac) {
            talk.set_mac(registers, plan.mac)?;
        }
        // Before it, nothing may be received (7.10.3.3).
        talk.set_longest_frame(registers, plan.longest)?;
        let Filter { promiscuous, all_multicast } = plan.filter;
        let less =
            [Filter { promiscuous: false, all_multicast: promiscuous || all_multicast }, Filter::default()];
        // What is refused is no reason not to start: then as much as it lets.
        for filter in [plan.filter].into_iter().chain(less) {
            match talk.set_filter(registers, filter) {
                Err(error @ IxgbeError::Refused { .. }) => tracing::warn!("{}: {error}", self.name),
                done => {
                    done?;
                    break;
                }
            }
        }
        talk.set_addresses(registers, &plan.addresses)?;
        for vlan in &plan.vlans {
            talk.set_vlan(registers, *vlan, true)?;
        }
        self.may_have_link = talk.may_have_link(registers)?;
        let spread = plan.queues.receives.max(1).ilog2() << VFPSRTYPE_RQPL_SHIFT;
        registers.write(VFPSRTYPE, spread);
        let mappings = self.mappings.as_ref().ok_or(IxgbeError::NotMapped)?;
        // SAFETY: the function was reset, so it uses no ring; the lanes are empty, and what was in those before was dropped
        // when it was halted.
        unsafe {
            plan.queues.transmit(registers, VFTDBAL, mappings, lanes)?;
            // Its queues are polled.
            plan.queues.receive(registers, &Interrupts::None, mappings, lanes)?;
        }
        registers.here()
    }

    /// Whether the function works.
    pub(super) fn is_awake(&self) -> bool {
        self.awake
    }

    /// How the link is: the port's, as long as the physical function has not been reset.
    ///
    /// # Errors
    /// [`IxgbeError::Gone`].
    pub(super) fn link(&mut self) -> Result<Link, IxgbeError> {
        let links = self.registers.read(VFLINKS);
        if links == u32::MAX {
            self.registers.here()?;
        }
        let lost = self.talk.mailbox.is_lost(&self.registers)?;
        let down = Link { up: false, speed: None };
        Ok(if lost || !self.may_have_link { down } else { link::decode(links) })
    }

    /// Makes the function let go of all memory, whether it works or is gone. Rings and packets can be dropped afterwards.
    pub(super) fn halt(&mut self) {
        if !std::mem::replace(&mut self.awake, false) {
            return;
        }
        match self.reset() {
            Ok(()) => {}
            // It reaches nothing any more, as far as we can tell.
            Err(error) => tracing::debug!("{}: {error}", self.name),
        }
        // If it has not heard of the reset it loses its way to memory by this.
        if let Err(error) = self.function.set_bus_master(false) {
            tracing::debug!("{}: {error}", self.name);
        }
        self.function.disable_interrupts();
    }
}

impl<F: PciFunction> Drop for Unit<F> {
    fn drop(&mut self) {
        self.halt();
    }
}
