//! Models of the 82599 on vfio-user sockets: QEMU's guests have them as PCI functions, and their drivers, which others
//! wrote, judge them.
//!
//! A thread serves each socket, and another keeps all cards going: it steps them while there is something to do, and
//! sleeps until a register is written or a frame comes. What a driver did that it may not do is kept as the models' faults,
//! which tests ask for ([`NicServer::expect_no_fault`]) and `wirerate-nic-server` prints.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vfio_bindings::bindings::vfio;
use vfio_user::{IrqInfo, Server, ServerRegion};
use wirerate_eal::pci::PciAddress;
use wirerate_nic::registers::{Access, BAR_LEN, TABLE, VF_BAR_LEN};
use wirerate_nic::{Card, Eeprom, Settings, cable};

use crate::wait;

mod backend;
mod plug;
mod pump;
#[cfg(test)]
mod tests;

use backend::Backend;
use plug::Plug;
pub use plug::Wires;
use pump::Pump;

/// Bytes of the region that has the MSI-X table, which QEMU emulates.
const MSIX_LEN: u64 = 0x4000;
/// Vectors of MSI-X of a virtual function, and its BAR that has their table.
const VF_VECTORS: u32 = 3;
const VF_MSIX_BAR: u32 = 3;
/// Bytes of configuration space.
const CONFIG_LEN: u64 = 4096;
/// Vectors of MSI-X.
const VECTORS: u32 = 64;
/// Time for a server to end, once nobody is connected any more.
const END: Duration = Duration::from_secs(2);

/// Where the cable of a card leads.
#[derive(Debug)]
pub enum Cable {
    /// Nowhere: the link stays down.
    None,
    /// To the next card, whose own is to be `None`.
    Next,
    /// To datagrams, a frame each.
    Wires(Wires),
}

/// What cards are like.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Of all that the datasheet leaves open; when accesses come is not.
    pub seed: u64,
    /// Whether configuration space lists MSI-X: without, drivers have to do with MSI.
    pub has_msix: bool,
    /// Whether it is a virtual function, whose physical one is played.
    pub is_virtual: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { seed: 1, has_msix: true, is_virtual: false }
    }
}

/// Cards that are served. Their sockets go away with the value.
#[derive(Debug)]
pub struct NicServer {
    cards: Vec<Arc<Card>>,
    sockets: Vec<PathBuf>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pump: Option<Pump>,
}

impl NicServer {
    /// Serves a card for each of `cables`, on the sockets `nic0`, `nic1`... in `folder`, which is the caller's own.
    ///
    /// # Errors
    /// When a socket cannot be made, or a cable leads to a card that is not there.
    pub fn start(folder: &Path, manner: Manner, cables: Vec<Cable>) -> Result<Self> {
        Self::on(sockets(folder, cables.len()), manner, cables)
    }

    /// The same, on sockets that are named.
    ///
    /// # Errors
    /// When a socket cannot be made, or a cable leads to a card that is not there.
    pub fn on(sockets: Vec<PathBuf>, manner: Manner, cables: Vec<Cable>) -> Result<Self> {
        ensure!(sockets.len() == cables.len(), "as many sockets as cables");
        let leads = |index: usize| !matches!(cables[index], Cable::None);
        let mut cards = Vec::new();
        for index in 0..cables.len() {
            let number = u8::try_from(index).ok().filter(|number| *number < 8).context("too many cards")?;
            let is_led_to = index > 0 && matches!(cables[index - 1], Cable::Next);
            let settings = Settings {
                seed: manner.seed.wrapping_add(index as u64),
                eeprom: Eeprom::new([0x90, 0xe2, 0xba, 0x12, 0x34, 0x56 + number]),
                cable: leads(index) || is_led_to,
                is_virtual: manner.is_virtual,
                ..Settings::default()
            };
            let address = PciAddress::new(0, 3, number, 0).context("no PCI address")?;
            cards.push(Card::new(address, settings));
        }
        let mut plugs = Vec::new();
        for (index, cable_of) in cables.into_iter().enumerate() {
            match cable_of {
                Cable::None => {}
                Cable::Next => {
                    let next = cards.get(index + 1).context("a cable leads to a card that is not there")?;
                    let (near, far) = cable();
                    cards[index].model().set_wire(Box::new(near));
                    next.model().set_wire(Box::new(far));
                }
                Cable::Wires(wires) => {
                    let plug = Plug::new(wires)?;
                    plugs.push(plug.waits_on()?);
                    cards[index].model().set_wire(Box::new(plug));
                }
            }
        }
        let ends = Arc::new(AtomicBool::new(false));
        let pump = Pump::start(cards.clone(), plugs)?;
        let mut server = Self { cards, sockets: Vec::new(), ends, threads: Vec::new(), pump: None };
        for (card, socket) in server.cards.clone().into_iter().zip(sockets) {
            let listener =
                Server::new(&socket, true, interrupts(manner.is_virtual), regions(manner.is_virtual))
                    .with_context(|| format!("making {}", socket.display()))?;
            server.sockets.push(socket);
            let (ends, mut backend) = (Arc::clone(&server.ends), Backend::new(card, pump.work(), manner));
            server.threads.push(std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    // One that breaks off is as one that goes: the next may come.
                    if let Err(error) = listener.run(&mut backend) {
                        eprintln!("vfio-user: {error}");
                    }
                    backend.leave();
                }
            }));
        }
        server.pump = Some(pump);
        Ok(server)
    }

    /// Where QEMU finds card `index`.
    ///
    /// # Errors
    /// When there is no such card.
    pub fn socket(&self, index: usize) -> Result<&Path> {
        Ok(self.sockets.get(index).context("no such card")?)
    }

    /// Card `index`, to be looked at or disturbed.
    ///
    /// # Errors
    /// When there is no such card.
    pub fn card(&self, index: usize) -> Result<&Arc<Card>> {
        self.cards.get(index).context("no such card")
    }

    /// Checks that no driver has broken a rule of the datasheet.
    ///
    /// # Errors
    /// When one has, with all that it did.
    pub fn expect_no_fault(&self) -> Result<()> {
        let faults = self.faults();
        ensure!(faults.is_empty(), "drivers broke rules:\n{}", faults.join("\n"));
        Ok(())
    }

    /// Forgets the rules that were broken until now, at these registers, on purpose: what tests a card does so.
    ///
    /// # Errors
    /// When other registers' rules were broken, or there are too many to tell.
    pub fn forgive(&self, registers: &[&str]) -> Result<()> {
        for card in &self.cards {
            let mut model = card.model();
            let count = model.faults().count();
            let faults = model.take_faults();
            ensure!(count == faults.len() as u64, "{count} rules were broken");
            let others = faults.iter().filter(|fault| {
                let name = fault.register.split('[').next().unwrap_or_default();
                !registers.contains(&name)
            });
            let others: Vec<String> = others.map(ToString::to_string).collect();
            ensure!(
                others.is_empty(),
                "rules beside those of {registers:?} were broken:\n{}",
                others.join("\n")
            );
        }
        Ok(())
    }

    /// The rules that were broken, one a line.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, card) in self.cards.iter().enumerate() {
            let model = card.model();
            lines.extend(model.faults().list().iter().map(|fault| format!("card {index}: fault: {fault}")));
            let more = model.faults().count() - model.faults().list().len() as u64;
            if more > 0 {
                lines.push(format!("card {index}: {more} faults more"));
            }
        }
        lines
    }

    /// The counters of the cards that are not zero, without clearing them, one a line.
    #[must_use]
    pub fn counters(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, card) in self.cards.iter().enumerate() {
            let model = card.model();
            for register in TABLE.iter().filter(|register| register.access == Access::ReadClear) {
                for at in 0..register.count {
                    let value = model.kept(register.name, register.first + at);
                    if value != 0 {
                        lines.push(format!("card {index}: {} {value}", register.named(at)));
                    }
                }
            }
        }
        lines
    }
}

impl Drop for NicServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Whoever waits for a connection has one, which ends at once.
            drop(UnixStream::connect(socket));
        }
        // A QEMU that is still connected keeps its thread, which ends with it.
        let all_end = || Ok(self.threads.iter().all(JoinHandle::is_finished));
        let _ = wait::until("servers to end", END, all_end);
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Where sockets are in a folder.
fn sockets(folder: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|index| folder.join(format!("nic{index}"))).collect()
}

/// Vectors of MSI-X that a function has.
fn vectors(is_virtual: bool) -> u32 {
    if is_virtual { VF_VECTORS } else { VECTORS }
}

/// The function's regions: BAR 0, the MSI-X table's, and configuration space.
fn regions(is_virtual: bool) -> Vec<ServerRegion> {
    let region = |index| {
        let size = match index {
            0 if is_virtual => VF_BAR_LEN as u64,
            0 => BAR_LEN as u64,
            VF_MSIX_BAR if is_virtual => MSIX_LEN,
            4 if !is_virtual => MSIX_LEN,
            vfio::VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_LEN,
            _ => 0,
        };
        let flags =
            if size > 0 { vfio::VFIO_REGION_INFO_FLAG_READ | vfio::VFIO_REGION_INFO_FLAG_WRITE } else { 0 };
        let argsz = size_of::<vfio::vfio_region_info>() as u32;
        let region_info = vfio::vfio_region_info { argsz, flags, index, size, ..Default::default() };
        ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
    };
    (0..vfio::VFIO_PCI_NUM_REGIONS).map(region).collect()
}

/// The function's interrupts: INTx, which masks itself, MSI, and MSI-X, which is all that a virtual one has.
fn interrupts(is_virtual: bool) -> Vec<IrqInfo> {
    let event = vfio::VFIO_IRQ_INFO_EVENTFD;
    let kind = |index| {
        let (count, flags) = match index {
            vfio::VFIO_PCI_INTX_IRQ_INDEX if !is_virtual => {
                (1, event | vfio::VFIO_IRQ_INFO_MASKABLE | vfio::VFIO_IRQ_INFO_AUTOMASKED)
            }
            vfio::VFIO_PCI_MSI_IRQ_INDEX if !is_virtual => (1, event | vfio::VFIO_IRQ_INFO_NORESIZE),
            vfio::VFIO_PCI_MSIX_IRQ_INDEX => (vectors(is_virtual), event | vfio::VFIO_IRQ_INFO_NORESIZE),
            _ => (0, 0),
        };
        IrqInfo { index, flags, count }
    };
    (0..vfio::VFIO_PCI_NUM_IRQS).map(kind).collect()
}

/// Descriptors from messages, as events.
fn events(files: Vec<std::fs::File>, count: usize) -> Vec<Option<OwnedFd>> {
    let mut events: Vec<Option<OwnedFd>> = files.into_iter().map(|file| Some(file.into())).collect();
    events.resize_with(count, || None);
    events
}
