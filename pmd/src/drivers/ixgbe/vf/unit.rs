//! A virtual function while it is there: brought up with rings, and made to let go of them again.

use std::thread;
use std::time::Duration;

use wirerate_eal::pci::PciFunction;

use super::registers::{
    LEN, VECTORS, VFCTRL, VFCTRL_RST, VFLINKS, VFPSRTYPE, VFPSRTYPE_RQPL_SHIFT, VFTDBAL, VTEIAC, VTEIAM,
    VTEICR, VTEIMC, VTEIMC_ALL, VTEIMS, VTIVAR_MISC, vftdwbah, vftdwbal, vftxdctl, vteitr, vtivar,
};
use super::talk::Talk;
use super::{DEVICES, VENDOR};
use crate::drivers::interrupts::Interrupts;
use crate::drivers::ixgbe::chip::Family;
use crate::drivers::ixgbe::error::IxgbeError;
use crate::drivers::ixgbe::init::Filter;
use crate::drivers::ixgbe::interrupt::{INTERVAL, Places};
use crate::drivers::ixgbe::link;
use crate::drivers::ixgbe::queues::{IxgbeLanes, Mappings, QueuePlan};
use crate::drivers::ixgbe::registers::{DCTL_ENABLE, DCTL_SWFLSH, EITR_SHIFT, IVAR_VALID, Registers, rxdctl};
use crate::net::MacAddress;
use crate::port::Link;

/// The device is not to be touched for so long after a reset (4.2.1.6.2 asks for 10 ms).
const SETTLE: Duration = Duration::from_millis(10);
/// Queues that a function has registers of.
const QUEUES: usize = 8;
/// Where queues ask for interrupts.
const OF_VF: Places = Places { cause: VTEICR, set: VTEIMS, clear: VTEIMC };

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
    pub(super) interrupts: Interrupts,
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
        let registers = Registers::new(function.bar(0)?, LEN, Family::I82599)?;
        // Whatever it did before, it does not reach memory from here on.
        function.set_bus_master(false)?;
        let name = name.to_owned();
        let mut unit = Self {
            name,
            awake: false,
            may_have_link: true,
            talk: Talk::default(),
            interrupts: Interrupts::None,
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
        if matches!(self.interrupts, Interrupts::None) {
            let receives = plan.queues.receives;
            self.interrupts = Interrupts::enable(&self.name, &self.function, receives, VECTORS);
        }
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
            plan.queues.receive(registers, (&OF_VF, &self.interrupts), mappings, lanes)?;
        }
        self.interrupts_on(plan.queues.receives);
        self.registers.here()
    }

    /// Lets the function tell of the mailbox, and of packets once a queue asks for that.
    fn interrupts_on(&self, receives: u16) {
        let (registers, interrupts) = (&self.registers, &self.interrupts);
        let Some(own) = interrupts.config_vector() else { return };
        let entry = |vector: u16| IVAR_VALID | u32::from(vector);
        for pair in 0..receives.div_ceil(2) {
            let of = |queue| interrupts.receive_vector(queue).filter(|_| queue < receives).map_or(0, entry);
            registers.write(vtivar(pair.into()), of(2 * pair) | of(2 * pair + 1) << 16);
        }
        registers.write(VTIVAR_MISC, entry(own));
        let queues = (1..=interrupts.receive_vectors()).fold(0, |bits, vector| bits | 1 << vector);
        registers.write(VTEIAC, queues | 1 << own);
        registers.write(VTEIAM, queues);
        for vector in 0..=usize::from(interrupts.receive_vectors().min(1)) {
            registers.write(vteitr(vector), INTERVAL << EITR_SHIFT);
        }
        registers.write(VTEIMS, 1 << own);
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
        Ok(if lost || !self.may_have_link { down } else { link::decode(links, Family::I82599) })
    }

    /// As [`pause`](Self::pause), and it tells nothing any more.
    pub(super) fn halt(&mut self) {
        self.pause();
        if !matches!(std::mem::take(&mut self.interrupts), Interrupts::None) {
            self.function.disable_interrupts();
        }
    }

    /// Makes the function let go of all memory, whether it works or is gone. Rings and packets can be dropped afterwards. It
    /// can be started anew, by the same interrupts.
    pub(super) fn pause(&mut self) {
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
    }
}

impl<F: PciFunction> Drop for Unit<F> {
    fn drop(&mut self) {
        self.halt();
    }
}
