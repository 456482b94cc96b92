//! How a port is to be, by its devargs.

use crate::port::{DevArgs, PortError};

/// Descriptors in each ring at most, unless `queue_size` says so.
const USUAL_SIZE: u16 = 1024;

/// The parameters of a virtio device on PCI.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The most pairs of queues, if it was given.
    pub(super) queues: Option<u16>,
    /// Descriptors in each ring, if it was given.
    pub(super) queue_size: Option<u16>,
    /// Whether a received packet may lie in several buffers.
    pub(super) mergeable: bool,
    /// Whether buffers may be used in order.
    pub(super) in_order: bool,
    /// Whether rings are to be packed, or must not be; as the device offers, if it was not given.
    pub(super) packed: Option<bool>,
    /// Megabits a second, as shown.
    pub(super) speed: Option<u32>,
}

impl Options {
    /// Takes them out of devargs; returns the device's name, too.
    ///
    /// # Errors
    /// [`PortError`] when a parameter is unknown or out of range.
    pub(super) fn take(mut args: DevArgs) -> Result<(String, Self), PortError> {
        const SIZE: &str = "descriptors, 2 to 32768";
        const QUEUES: &str = "pairs of queues, 1 to 128";
        for (key, why) in [
            ("vectorized", "there is one data path here, and it needs no choice"),
            ("vdpa", "vDPA devices are not driven here"),
        ] {
            if args.take_flag(key)? {
                return Err(args.bad(key, "1", why));
            }
        }
        let queues = args.take::<u16>("queues", QUEUES)?;
        if let Some(queues) = queues.filter(|queues| !(1..=128).contains(queues)) {
            return Err(args.bad("queues", &queues.to_string(), &format!("expected {QUEUES}")));
        }
        let queue_size = args.take::<u16>("queue_size", SIZE)?;
        if let Some(size) = queue_size.filter(|size| !(2..=32768).contains(size)) {
            return Err(args.bad("queue_size", &size.to_string(), &format!("expected {SIZE}")));
        }
        let mut flag = |key| match args.take::<u8>(key, "0 or 1")? {
            Some(value) if value > 1 => Err(args.bad(key, &value.to_string(), "expected 0 or 1")),
            value => Ok(value.map(|on| on == 1)),
        };
        let (mergeable, in_order) = (flag("mrg_rxbuf")?.unwrap_or(true), flag("in_order")?.unwrap_or(true));
        let packed = flag("packed_vq")?;
        let speed = args.take("speed", "megabits a second")?;
        let name = args.finish()?;
        Ok((name, Self { queues, queue_size, mergeable, in_order, packed, speed }))
    }

    /// The most descriptors in a ring, of a device that has up to `largest`.
    pub(super) fn most(&self, largest: u16) -> u16 {
        self.queue_size.unwrap_or(USUAL_SIZE).min(largest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn take(parameters: &str) -> Result<(String, Options), PortError> {
        Options::take(DevArgs::parse(&format!("0000:00:03.0{parameters}")).unwrap())
    }

    #[test]
    fn parameters_are_taken_and_what_cannot_be_is_refused() {
        let (name, options) =
            take(",queue_size=512,queues=4,packed_vq=0,in_order=0,mrg_rxbuf=0,speed=10000,vectorized=0")
                .unwrap();
        assert_eq!((name.as_str(), options.most(256), options.most(1024)), ("0000:00:03.0", 256, 512));
        assert_eq!((options.queues, options.packed, options.speed), (Some(4), Some(false), Some(10_000)));
        assert!(!options.mergeable && !options.in_order);
        let (_, options) = take("").unwrap();
        assert_eq!((options.most(32768), options.packed), (1024, None));
        assert!(options.mergeable && options.in_order);
        for (parameters, problem) in [
            (",vectorized=1", "vectorized=1: there is one data path"),
            (",vdpa=1", "vDPA"),
            (",queue_size=1", "2 to 32768"),
            (",queues=129", "1 to 128"),
            (",packed_vq=2", "0 or 1"),
            (",pakced_vq=1", "did you mean \"packed_vq\""),
        ] {
            let error = take(parameters).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
