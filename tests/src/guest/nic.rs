//! Network interfaces of a guest, and their words on QEMU's command line.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Map, Value, json};

use super::Wire;

/// The model that interfaces have unless another is named.
const VIRTIO: &str = "virtio-net-pci";
/// QEMU's device for those that others serve.
const VFIO_USER: &str = "vfio-user-pci";
/// The first slot for interfaces on the guest's first PCI bus: QEMU's own devices are below and above.
const FIRST_SLOT: usize = 0x10;

/// Who is at an interface's other side.
#[derive(Debug, Clone)]
enum Backend {
    /// A program that serves vhost-user on this socket.
    VhostUser { socket: PathBuf, listens: bool },
    /// A test, on these sockets.
    Wire { near: PathBuf, far: PathBuf },
    /// All interfaces of the guest with the same number.
    Hub(u16),
    /// An interface of the namespace that QEMU runs in.
    Tap(String),
    /// A program that serves the whole device by vfio-user on this socket.
    VfioUser(PathBuf),
}

/// A network device of a guest, virtio-net unless another model is named.
///
/// All of virtio-net's offloads are on, and buffers can be merged: QEMU offers both, and Linux takes them where the
/// other side offers them too.
#[derive(Debug, Clone)]
pub struct Nic {
    backend: Backend,
    model: String,
    mac: String,
    queues: u16,
    packed: bool,
    merges: bool,
    spreads: bool,
    is_translated: bool,
    can_be_unplugged: bool,
}

impl Nic {
    /// A device that is served on this socket, with one pair of queues and an address that no other has. QEMU connects
    /// to the socket, and again when the other side has gone and come back.
    #[must_use]
    pub fn vhost_user(socket: &Path) -> Self {
        Self::new(Backend::VhostUser { socket: socket.to_owned(), listens: false })
    }

    /// A device at the other end of `wire`. It has one pair of queues.
    #[must_use]
    pub fn wire(wire: &Wire) -> Self {
        let (near, far) = wire.ends();
        Self::new(Backend::Wire { near: near.to_owned(), far: far.to_owned() })
    }

    /// A device on a hub inside of QEMU: what it sends reaches all others of the guest on the hub of this number.
    #[must_use]
    pub fn hub(number: u16) -> Self {
        Self::new(Backend::Hub(number))
    }

    /// A device whose other side is a tap interface of this name, which is there, in the namespace that QEMU runs in
    /// ([`super::Machine::inside`]).
    #[must_use]
    pub fn tap(name: &str) -> Self {
        Self::new(Backend::Tap(name.to_owned()))
    }

    /// A device that is served whole, as a PCI function, by vfio-user on this socket: whatever it is, it has its own
    /// address, queues and abilities. It takes a QEMU from the cache ([`super::Emulator`]), and is alone behind a root port.
    #[must_use]
    pub fn vfio_user(socket: &Path) -> Self {
        Self::new(Backend::VfioUser(socket.to_owned())).model(VFIO_USER).pluggable()
    }

    /// Whether it takes a QEMU that has devices by vfio-user.
    pub(super) fn is_vfio_user(&self) -> bool {
        matches!(self.backend, Backend::VfioUser(_))
    }

    fn new(backend: Backend) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Self {
            backend,
            model: VIRTIO.to_owned(),
            mac: format!("52:54:00:77:{high:02x}:{low:02x}"),
            queues: 1,
            packed: false,
            merges: true,
            spreads: false,
            is_translated: true,
            can_be_unplugged: false,
        }
    }

    /// Of another of QEMU's models: `e1000e`. What is special to virtio is not for it.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        model.clone_into(&mut self.model);
        self
    }

    /// With so many pairs of queues. The other side has to have as many.
    #[must_use]
    pub fn queues(mut self, pairs: u16) -> Self {
        self.queues = pairs;
        self
    }

    /// With packed virtqueues.
    #[must_use]
    pub fn packed(mut self) -> Self {
        self.packed = true;
        self
    }

    /// With each packet in a receive buffer of its own.
    #[must_use]
    pub fn without_merging(mut self) -> Self {
        self.merges = false;
        self
    }

    /// That spreads what it receives over its queues by a hash, as the driver wishes (RSS).
    #[must_use]
    pub fn spreading(mut self) -> Self {
        self.spreads = true;
        self
    }

    /// With QEMU listening on the socket of vhost-user, and the other side to connect.
    #[must_use]
    pub fn listening(mut self) -> Self {
        if let Backend::VhostUser { listens, .. } = &mut self.backend {
            *listens = true;
        }
        self
    }

    /// With device addresses that are physical ones, even where the guest has an IOMMU.
    #[must_use]
    pub fn past_iommu(mut self) -> Self {
        self.is_translated = false;
        self
    }

    /// In a slot of its own that can be emptied and filled while the guest runs.
    #[must_use]
    pub fn pluggable(mut self) -> Self {
        self.can_be_unplugged = true;
        self
    }

    /// Its address as Ethernet writes it.
    #[must_use]
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// Where the guest finds device `index`: on its first bus, or alone on the bus behind that.
    pub(super) fn place(&self, index: usize) -> String {
        let slot = format!("/sys/bus/pci/devices/0000:00:{:02x}.0", FIRST_SLOT + index);
        if self.can_be_unplugged { format!("{slot}/0000:*:00.0") } else { slot }
    }

    /// What QEMU is told of it as device `index` of a guest with or without an IOMMU.
    pub(super) fn arguments(&self, index: usize, has_iommu: bool) -> Vec<String> {
        let mut words = Vec::new();
        if let Backend::VhostUser { socket, listens } = &self.backend {
            let meets = if *listens { "server=on" } else { "reconnect=1" };
            words.push("-chardev".to_owned());
            words.push(format!("socket,id=chardev{index},path={},{meets}", socket.display()));
        }
        if let Some(netdev) = self.netdev(index) {
            words.push("-netdev".to_owned());
            words.push(netdev);
        }
        if self.can_be_unplugged {
            let (slot, chassis) = (FIRST_SLOT + index, index + 1);
            words.push("-device".to_owned());
            words.push(format!("pcie-root-port,id=port{index},chassis={chassis},addr={slot:#x}"));
        }
        words.push("-device".to_owned());
        if self.is_vfio_user() {
            // A socket has no form but this.
            words.push(self.plug(index, has_iommu).to_string());
            return words;
        }
        let mut device = self.model.clone();
        for (key, value) in self.properties(index, has_iommu) {
            let value = match value {
                Value::Bool(true) => "on".to_owned(),
                Value::Bool(false) => "off".to_owned(),
                Value::String(text) => text,
                other => other.to_string(),
            };
            device += &format!(",{key}={value}");
        }
        words.push(device);
        words
    }

    /// What QEMU's monitor is told to plug it in again.
    pub(super) fn plug(&self, index: usize, has_iommu: bool) -> Value {
        let mut words = self.properties(index, has_iommu);
        words.insert("driver".to_owned(), json!(self.model));
        Value::Object(words)
    }

    /// What QEMU is told of the other side; nothing where it has no part in that.
    fn netdev(&self, index: usize) -> Option<String> {
        let queues = self.queues;
        let netdev = match &self.backend {
            Backend::VfioUser(_) => return None,
            Backend::VhostUser { .. } => {
                format!("vhost-user,id=net{index},chardev=chardev{index},queues={queues}")
            }
            Backend::Wire { near, far } => format!(
                "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                far.display(),
                near.display()
            ),
            Backend::Hub(number) => format!("hubport,id=net{index},hubid={number}"),
            Backend::Tap(name) => {
                let queues = if queues > 1 { format!(",queues={queues}") } else { String::new() };
                format!("tap,id=net{index},ifname={name},script=no,downscript=no,vhost=off{queues}")
            }
        };
        Some(netdev)
    }

    fn properties(&self, index: usize, has_iommu: bool) -> Map<String, Value> {
        let mut words = Map::new();
        let mut set = |key: &str, value: Value| drop(words.insert(key.to_owned(), value));
        set("id", json!(format!("nic{index}")));
        if let Backend::VfioUser(socket) = &self.backend {
            set("socket", json!({ "type": "unix", "path": socket }));
        } else {
            set("netdev", json!(format!("net{index}")));
            set("mac", json!(self.mac));
        }
        if self.can_be_unplugged {
            set("bus", json!(format!("port{index}")));
        } else {
            set("addr", json!(format!("{:#x}", FIRST_SLOT + index)));
        }
        if self.model == VIRTIO {
            set("disable-legacy", json!("on"));
            set("mq", json!(self.queues > 1));
            set("packed", json!(self.packed));
            set("mrg_rxbuf", json!(self.merges));
            if self.spreads {
                set("rss", json!(true));
            }
            let serves_itself = matches!(self.backend, Backend::VhostUser { .. });
            if serves_itself {
                // Under TCG, QEMU 7.2 crashes with vhost-user and MSI-X.
                set("vectors", json!(0));
            } else {
                // One for each queue, one for the configuration, one for the control queue.
                set("vectors", json!(2 * self.queues + 2));
            }
            // Behind an IOMMU, QEMU 7.2 and vhost-user move no packet.
            if has_iommu && self.is_translated && !serves_itself {
                set("iommu_platform", json!(true));
                set("ats", json!(true));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_address() {
        let path = Path::new("/a");
        let (one, two) = (Nic::vhost_user(path), Nic::vhost_user(path).queues(2).packed());
        assert_ne!(one.mac(), two.mac());
        let has = |words: &[String], expected: &[&str]| {
            for word in expected {
                assert!(words.iter().any(|it| it.contains(word)), "no {word} in {words:?}");
            }
        };
        let words = one.arguments(0, true);
        has(&words, &["mq=off", "packed=off", "mrg_rxbuf=on", "vectors=0"]);
        assert!(!words.iter().any(|word| word.contains("iommu_platform")));
        let words = two.arguments(3, false);
        assert_eq!(words[1], "socket,id=chardev3,path=/a,reconnect=1");
        assert_eq!(words[3], "vhost-user,id=net3,chardev=chardev3,queues=2");
        has(&words, &["mq=on", "packed=on"]);
        has(&two.listening().arguments(3, false), &["id=chardev3,path=/a,server=on"]);
    }

    #[test]
    fn a_device_is_the_same_when_it_is_plugged_in_again() {
        let nic = Nic::hub(7).pluggable().without_merging();
        let words = nic.arguments(1, true);
        assert_eq!(words[1], "hubport,id=net1,hubid=7");
        assert_eq!(words[3], "pcie-root-port,id=port1,chassis=2,addr=0x11");
        let again = nic.plug(1, true);
        assert_eq!(again["driver"], VIRTIO);
        for word in words[5].split(',').skip(1) {
            let (key, value) = word.split_once('=').unwrap();
            let is_on = again[key].as_bool().map(|is_on| if is_on { "on" } else { "off" });
            let text = is_on.or(again[key].as_str()).map_or_else(|| again[key].to_string(), str::to_owned);
            assert_eq!(text, value, "{key}");
        }
        assert_eq!(again["mrg_rxbuf"], false);
        assert_eq!(again["iommu_platform"], true);
        assert_eq!(nic.clone().past_iommu().plug(1, true)["iommu_platform"], Value::Null);
        assert_eq!(nic.plug(1, false)["iommu_platform"], Value::Null);
        assert_eq!(nic.place(1), "/sys/bus/pci/devices/0000:00:11.0/0000:*:00.0");
    }

    #[test]
    fn a_device_by_vfio_user_is_told_its_socket_and_nothing_else() {
        let nic = Nic::vfio_user(Path::new("/a"));
        let words = nic.arguments(2, true);
        assert_eq!(words[..2], ["-device", "pcie-root-port,id=port2,chassis=3,addr=0x12"]);
        let device: Value = serde_json::from_str(&words[3]).unwrap();
        let socket = json!({ "type": "unix", "path": "/a" });
        let expected = json!({ "driver": VFIO_USER, "id": "nic2", "bus": "port2", "socket": socket });
        assert_eq!((words.len(), device), (4, expected));
    }

    #[test]
    fn other_models_are_told_nothing_of_virtio() {
        let words = Nic::tap("tap0").model("e1000e").queues(2).arguments(0, true);
        assert!(words[1].ends_with("ifname=tap0,script=no,downscript=no,vhost=off,queues=2"));
        assert!(words[3].starts_with("e1000e,") && !words[3].contains("packed"), "{words:?}");
    }
}
