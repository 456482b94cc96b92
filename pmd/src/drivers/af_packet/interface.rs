//! A network interface by its name: what it is, and what can be changed about it (netdevice(7), ioctls).

use core::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_char, c_int, c_ulong, ifreq};

use crate::net::MacAddress;

/// The longest name, in bytes.
pub(super) const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// An interface of the network namespace in which this was made.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    control: OwnedFd,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// `struct ethtool_cmd`: the link's settings.
#[repr(C)]
#[derive(Default)]
struct EthtoolSettings {
    command: u32,
    supported: u32,
    advertising: u32,
    speed: u16,
    duplex: u8,
    port: u8,
    phy_address: u8,
    transceiver: u8,
    autonegotiation: u8,
    mdio_support: u8,
    max_tx_packets: u32,
    max_rx_packets: u32,
    speed_high: u16,
    mdix: u8,
    mdix_control: u8,
    partner_advertising: u32,
    reserved: [u32; 2],
}

const ETHTOOL_GSET: u32 = 0x01;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETH_FLAG_LRO: u32 = 1 << 15;

impl Interface {
    /// The interface called `name`, which need not be there.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        // Any socket can ask about interfaces; one of this family exists whatever the kernel was built with,
        // and needs no privilege.
        // SAFETY: a system call without pointers.
        let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given out this descriptor, and nobody else has it.
        let control = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { name: name.to_owned(), control })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn request(&self) -> ifreq {
        // SAFETY: an `ifreq` is bytes, integers and a pointer that nobody follows unasked: zeros are a value.
        let mut request: ifreq = unsafe { core::mem::zeroed() };
        // A name that is too long is refused before it gets here; cut, it would name nothing.
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes().take(MAX_NAME)) {
            *to = from as c_char;
        }
        request
    }

    fn ioctl(&self, code: c_ulong, request: &mut ifreq) -> io::Result<()> {
        // SAFETY: each code that is used here reads and writes one `ifreq`; where that has a pointer, `ethtool`
        // has put one to a live value there.
        let result =
            unsafe { libc::ioctl(self.control.as_raw_fd(), code as _, core::ptr::from_mut(request)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn asked(&self, code: c_ulong) -> io::Result<ifreq> {
        let mut request = self.request();
        self.ioctl(code, &mut request)?;
        Ok(request)
    }

    /// Has the driver of the interface fill in `value`.
    ///
    /// # Safety
    /// `value` starts with an ethtool command and is as long as what that command writes.
    unsafe fn ethtool<T>(&self, value: &mut T) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = core::ptr::from_mut(value).cast();
        self.ioctl(libc::SIOCETHTOOL as c_ulong, &mut request)
    }

    /// Its number, if it is there.
    pub(super) fn index(&self) -> io::Result<c_int> {
        let request = self.asked(libc::SIOCGIFINDEX as c_ulong)?;
        // SAFETY: the kernel has filled in this field.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// What kind of link it is (`ARPHRD_*`), and its station address.
    pub(super) fn hardware(&self) -> io::Result<(u16, MacAddress)> {
        let request = self.asked(libc::SIOCGIFHWADDR as c_ulong)?;
        // SAFETY: the kernel has filled in this field.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = MacAddress::default();
        for (to, from) in mac.0.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok((address.sa_family, mac))
    }

    pub(super) fn set_mac(&self, mac: MacAddress) -> io::Result<()> {
        let mut request = self.asked(libc::SIOCGIFHWADDR as c_ulong)?;
        // SAFETY: the kernel has filled in this field; only the address is changed, not its kind.
        let address = unsafe { &mut request.ifr_ifru.ifru_hwaddr };
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as c_char;
        }
        self.ioctl(libc::SIOCSIFHWADDR as c_ulong, &mut request)
    }

    /// The largest payload in bytes.
    pub(super) fn mtu(&self) -> io::Result<usize> {
        let request = self.asked(libc::SIOCGIFMTU as c_ulong)?;
        // SAFETY: the kernel has filled in this field.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        usize::try_from(mtu).map_err(|_| io::Error::other(format!("an MTU of {mtu}")))
    }

    pub(super) fn set_mtu(&self, mtu: usize) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu =
            c_int::try_from(mtu).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        self.ioctl(libc::SIOCSIFMTU as c_ulong, &mut request)
    }

    fn flags(&self) -> io::Result<c_int> {
        let request = self.asked(libc::SIOCGIFFLAGS as c_ulong)?;
        // SAFETY: the kernel has filled in this field.
        Ok(c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
    }

    /// Whether it was switched on, with or without a carrier.
    pub(super) fn is_up(&self) -> bool {
        self.flags().is_ok_and(|flags| flags & libc::IFF_UP != 0)
    }

    /// Whether it is there, switched on, and has a carrier.
    pub(super) fn is_running(&self) -> bool {
        const BOTH: c_int = libc::IFF_UP | libc::IFF_RUNNING;
        self.flags().is_ok_and(|flags| flags & BOTH == BOTH)
    }

    /// Megabits a second, where it knows.
    pub(super) fn speed(&self) -> Option<u32> {
        const UNKNOWN: u32 = u32::MAX;
        let mut settings = EthtoolSettings { command: ETHTOOL_GSET, ..EthtoolSettings::default() };
        // SAFETY: `ETHTOOL_GSET` writes a `struct ethtool_cmd`, 44 bytes, which is what this is.
        unsafe { self.ethtool(&mut settings) }.ok()?;
        let speed = u32::from(settings.speed_high) << 16 | u32::from(settings.speed);
        Some(speed).filter(|&speed| speed != 0 && speed != UNKNOWN && speed != u32::from(u16::MAX))
    }

    fn ethtool_value(&self, command: u32) -> io::Result<u32> {
        let mut value = EthtoolValue { command, value: 0 };
        // SAFETY: both commands that are used write a `struct ethtool_value`, which is what this is.
        unsafe { self.ethtool(&mut value) }?;
        Ok(value.value)
    }

    /// Whether received frames may be merged into longer ones (GRO, LRO).
    pub(super) fn merges_frames(&self) -> bool {
        self.ethtool_value(ETHTOOL_GGRO).is_ok_and(|on| on != 0)
            || self.ethtool_value(ETHTOOL_GFLAGS).is_ok_and(|flags| flags & ETH_FLAG_LRO != 0)
    }
}

const _: () = assert!(size_of::<EthtoolSettings>() == 44);

/// The names of all interfaces in this thread's network namespace, in the order of their numbers.
pub(super) fn all_names() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: the list, if there is one, ends with an entry without a name; each name is a C string. It is
    // freed once, and what is kept of it are copies.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return names;
        }
        let mut entry = list;
        while !(*entry).if_name.is_null() {
            names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every network namespace has a loopback interface, and asking about it needs no privilege.

    #[test]
    fn the_loopback_interface_is_known() {
        let lo = Interface::new("lo").unwrap();
        assert!(lo.index().unwrap() > 0);
        assert_eq!(lo.hardware().unwrap(), (libc::ARPHRD_LOOPBACK, MacAddress::default()));
        assert!(lo.mtu().unwrap() >= 1500);
        assert_eq!(lo.speed(), None);
        assert!(all_names().contains(&"lo".to_owned()));
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error_and_down() {
        let none = Interface::new("wirerate-none").unwrap();
        assert_eq!(none.index().unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(none.mtu().is_err() && none.hardware().is_err());
        assert!(!none.is_up() && !none.is_running() && !none.merges_frames());
    }
}
