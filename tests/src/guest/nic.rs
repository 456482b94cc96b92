//! Network interfaces of a guest, and their words on QEMU's command line.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

/// A virtio-net device whose other side is a program that serves vhost-user.
///
/// All of virtio-net's offloads are on, and buffers can be merged: QEMU offers both, and Linux takes them where the
/// other side offers them too.
#[derive(Debug, Clone)]
pub struct Nic {
    socket: PathBuf,
    mac: String,
    queues: u16,
    packed: bool,
    listens: bool,
}

impl Nic {
    /// A device that is served on this socket, with one pair of queues and an address that no other has. QEMU connects
    /// to the socket, and again when the other side has gone and come back.
    #[must_use]
    pub fn vhost_user(socket: &Path) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mac = format!("52:54:00:77:{high:02x}:{low:02x}");
        Self { socket: socket.to_owned(), mac, queues: 1, packed: false, listens: false }
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

    /// With QEMU listening on the socket, and the other side to connect.
    #[must_use]
    pub fn listening(mut self) -> Self {
        self.listens = true;
        self
    }

    /// What QEMU is told of it as device `index`.
    pub(super) fn arguments(&self, index: usize) -> [String; 6] {
        let Self { socket, mac, queues, packed, listens } = self;
        let path = socket.display();
        let meets = if *listens { "server=on" } else { "reconnect=1" };
        let on = |is: bool| if is { "on" } else { "off" };
        // Under TCG, QEMU 7.2 crashes with vhost-user and MSI-X: no vectors.
        [
            "-chardev".to_owned(),
            format!("socket,id=chardev{index},path={path},{meets}"),
            "-netdev".to_owned(),
            format!("vhost-user,id=net{index},chardev=chardev{index},queues={queues}"),
            "-device".to_owned(),
            format!(
                "virtio-net-pci,netdev=net{index},mac={mac},disable-legacy=on,vectors=0,mq={},packed={}",
                on(*queues > 1),
                on(*packed)
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_address() {
        let (one, two) =
            (Nic::vhost_user(Path::new("/a")), Nic::vhost_user(Path::new("/a")).queues(2).packed());
        assert_ne!(one.mac, two.mac);
        assert!(one.arguments(0)[5].ends_with("mq=off,packed=off"));
        assert!(two.arguments(0)[5].ends_with("mq=on,packed=on"));
        assert!(two.arguments(3)[3].ends_with("id=net3,chardev=chardev3,queues=2"));
        assert!(two.arguments(3)[1].ends_with("id=chardev3,path=/a,reconnect=1"));
        assert!(two.listening().arguments(3)[1].ends_with("id=chardev3,path=/a,server=on"));
    }
}
