//! One side of a virtio link: which program plays it, and with what options.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::testpmd::PEER;

/// MiB of memory that each program is given.
pub(super) const MEMORY_MIB: usize = 256;
/// Descriptors in each ring.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Bursts that go round: half a ring of packets, at the usual 32 in a burst, so that each side finds room for what
/// it got.
const FIRST_BURSTS: u16 = 4;

/// Whose program plays a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Player {
    Ours,
    Dpdk,
}

impl fmt::Display for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "wirerate",
            Self::Dpdk => "DPDK",
        })
    }
}

/// The two ends of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `net_virtio_user`: the driver of the rings, whose memory is shared.
    Virtio,
    /// `net_vhost`: the device, which copies out of that memory and into it.
    Vhost,
}

/// What the two do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// The same packets go round: each side sends what it receives.
    RoundTrip,
    /// The driver sends, the device receives and drops.
    ToVhost,
    /// The other way.
    ToVirtio,
}

impl Traffic {
    pub(super) const ALL: [Self; 3] = [Self::RoundTrip, Self::ToVhost, Self::ToVirtio];

    /// The side whose received packets count.
    pub(super) fn receiver(self) -> Role {
        match self {
            Self::RoundTrip | Self::ToVirtio => Role::Virtio,
            Self::ToVhost => Role::Vhost,
        }
    }

    /// Whether a side only sends. The cycles that testpmd counts then have the waiting for room in them.
    pub(super) fn only_sends(self, role: Role) -> bool {
        self != Self::RoundTrip && self.receiver() != role
    }

    fn mode(self, role: Role) -> &'static str {
        match self {
            Self::RoundTrip => "io",
            _ if self.receiver() == role => "rxonly",
            _ => "txonly",
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundTrip => "round trip",
            Self::ToVhost => "virtio to vhost",
            Self::ToVirtio => "vhost to virtio",
        })
    }
}

/// The form of the rings, as the driver's side asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rings {
    pub(super) packed: bool,
    pub(super) mergeable: bool,
    pub(super) in_order: bool,
}

impl Rings {
    /// The devargs of a driver that asks for such rings at `socket`, behind its name.
    pub(super) fn parameters(self, socket: &Path) -> String {
        let [packed, mergeable, in_order] = [self.packed, self.mergeable, self.in_order].map(u8::from);
        let socket = socket.display();
        format!(
            "path={socket},queues=1,queue_size={QUEUE_SIZE},packed_vq={packed},mrg_rxbuf={mergeable},in_order={in_order}"
        )
    }
}

/// The devargs of the device at `socket`, behind its name.
pub(super) fn vhost_parameters(socket: &Path) -> String {
    format!("iface={},queues=1", socket.display())
}

impl fmt::Display for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.packed { "packed" } else { "split" })?;
        f.write_str(if self.mergeable { ", mergeable" } else { "" })?;
        f.write_str(if self.in_order { ", in order" } else { "" })
    }
}

/// What is the same in all runs.
#[derive(Debug)]
pub(super) struct Setting {
    /// Our testpmd.
    pub(super) ours: PathBuf,
    /// Processors: of the virtio side and of the vhost side.
    pub(super) cpus: [u32; 2],
    pub(super) burst: u16,
    /// Whether both sides get huge pages.
    pub(super) huge: bool,
    /// `setpriv`, which lets the kernel end a program when this one is killed; where it is installed.
    pub(super) setpriv: Option<PathBuf>,
    /// Seconds after which our own programs end by themselves.
    pub(super) last_resort: u64,
}

/// A side of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) player: Player,
    pub(super) role: Role,
    pub(super) traffic: Traffic,
    pub(super) rings: Rings,
    /// The run's own folder: the socket is in it, and what DPDK leaves behind.
    pub(super) folder: &'a Path,
}

impl Side<'_> {
    /// Where the two meet.
    pub(super) fn socket(folder: &Path) -> PathBuf {
        folder.join("vhost.sock")
    }

    /// Where DPDK reads that several bursts are to go round: its option `--tx-first` sends one.
    pub(super) fn first_commands(folder: &Path) -> PathBuf {
        folder.join("first")
    }

    /// The text of that file.
    pub(super) fn first_commands_text() -> String {
        format!("start tx_first {FIRST_BURSTS}\n")
    }

    /// The whole command line.
    pub(super) fn command(&self, setting: &Setting) -> Command {
        let program = match self.player {
            Player::Ours => setting.ours.as_path(),
            Player::Dpdk => Path::new(PEER),
        };
        let mut command = match &setting.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // DPDK keeps its run-time files there, and leaves folders behind.
        command.env("RUNTIME_DIRECTORY", self.folder);
        command.args(self.environment(setting)).arg("--").args(self.options(setting));
        command
    }

    fn environment(&self, setting: &Setting) -> Vec<String> {
        let cpu = setting.cpus[usize::from(self.role == Role::Vhost)];
        let lcores = match self.player {
            Player::Ours => format!("--lcores=1@{cpu}"),
            // DPDK's main core does not forward, and sleeps beside the one that does.
            Player::Dpdk => format!("--lcores=0@{cpu},1@{cpu}"),
        };
        // DPDK refuses the two together.
        let pages = if setting.huge { "--in-memory" } else { "--no-huge" };
        let mut arguments = vec![lcores, "--no-pci".to_owned(), pages.to_owned()];
        arguments.extend(["-m".to_owned(), MEMORY_MIB.to_string()]);
        if self.player == Player::Dpdk {
            arguments.extend(["--no-telemetry", "--no-shconf"].map(str::to_owned));
            // All that the other side maps has to fit into eight files.
            arguments.push("--single-file-segments".to_owned());
            let role = if self.role == Role::Virtio { "virtio" } else { "vhost" };
            arguments.push(format!("--file-prefix={role}"));
        }
        arguments.extend(["--vdev".to_owned(), self.device()]);
        arguments
    }

    fn device(&self) -> String {
        let socket = Self::socket(self.folder);
        match self.role {
            Role::Vhost => format!("net_vhost0,{}", vhost_parameters(&socket)),
            Role::Virtio => format!("net_virtio_user0,{}", self.rings.parameters(&socket)),
        }
    }

    fn options(&self, setting: &Setting) -> Vec<String> {
        let mut arguments = vec![
            format!("--forward-mode={}", self.traffic.mode(self.role)),
            format!("--burst={}", setting.burst),
            format!("--rxd={QUEUE_SIZE}"),
            format!("--txd={QUEUE_SIZE}"),
        ];
        arguments.extend(["--nb-cores=1", "--mbcache=250", "--total-num-mbufs=16384"].map(str::to_owned));
        arguments.extend(["--stats-period=1", "--record-core-cycles", "--no-mlockall"].map(str::to_owned));
        // The driver's side begins: what it sends lies in its ring until the device comes for it.
        if self.traffic == Traffic::RoundTrip && self.role == Role::Virtio {
            arguments.push(match self.player {
                Player::Ours => format!("--tx-first={FIRST_BURSTS}"),
                Player::Dpdk => {
                    format!("--cmdline-file={}", Self::first_commands(self.folder).display())
                }
            });
        }
        if self.player == Player::Ours {
            arguments.push(format!("--duration={}", setting.last_resort));
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(player: Player, role: Role, traffic: Traffic) -> String {
        let setting = Setting {
            ours: "/bin/testpmd".into(),
            cpus: [2, 5],
            burst: 32,
            huge: false,
            setpriv: None,
            last_resort: 99,
        };
        let rings = Rings { packed: true, mergeable: false, in_order: true };
        let side = Side { player, role, traffic, rings, folder: Path::new("/tmp/x") };
        let command = side.command(&setting);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn both_programs_get_the_same_work() {
        let device = "net_virtio_user0,path=/tmp/x/vhost.sock,queues=1,queue_size=256,packed_vq=1,mrg_rxbuf=0,in_order=1";
        let ours = line(Player::Ours, Role::Virtio, Traffic::RoundTrip);
        let theirs = line(Player::Dpdk, Role::Virtio, Traffic::RoundTrip);
        for line in [&ours, &theirs] {
            assert!(line.contains(device) && line.contains("--forward-mode=io --burst=32"), "{line}");
        }
        assert!(ours.starts_with("/bin/testpmd --lcores=1@2 ") && ours.contains("--tx-first=4"), "{ours}");
        assert!(theirs.contains("--lcores=0@2,1@2") && theirs.contains("--cmdline-file=/tmp/x/first"));

        let receiver = line(Player::Dpdk, Role::Vhost, Traffic::ToVhost);
        assert!(receiver.contains("net_vhost0,iface=/tmp/x/vhost.sock,queues=1"), "{receiver}");
        assert!(receiver.contains("--forward-mode=rxonly") && receiver.contains("1@5"), "{receiver}");
        let sender = line(Player::Ours, Role::Virtio, Traffic::ToVhost);
        assert!(sender.contains("--forward-mode=txonly") && !sender.contains("first"), "{sender}");
        assert!(line(Player::Ours, Role::Vhost, Traffic::ToVirtio).contains("--forward-mode=txonly"));
        assert!(line(Player::Ours, Role::Virtio, Traffic::ToVirtio).contains("--forward-mode=rxonly"));
    }
}
