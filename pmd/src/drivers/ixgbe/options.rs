//! How a port is to be, by its devargs.

use super::descriptor::STEP;
use super::flow::FlowControl;
use super::tx::LEAST_SIZE;
use crate::port::{DevArgs, PortError};

/// Queues each way at most: each has statistics of its own, and RSS spreads over as many (8.2.3.7.12).
pub(super) const MOST_QUEUES: u16 = 16;
/// Descriptors in a ring at most, as DPDK has it; the register takes more (8.2.3.8.3).
const MOST_SIZE: u16 = 4096;
/// Descriptors in each ring at most, unless `queue_size` says so.
const USUAL_SIZE: u16 = 1024;

/// The parameters of an 82599.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// The most queues each way, if it was given.
    pub(super) queues: Option<u16>,
    /// Descriptors in each ring, if it was given.
    queue_size: Option<u16>,
    /// Which way frames are paused.
    pub(super) flow: FlowControl,
    /// Whether modules are used that are not known to work.
    pub(super) any_module: bool,
}

impl Options {
    /// Takes them out of devargs; returns the device's name, too.
    ///
    /// # Errors
    /// [`PortError`] when a parameter is unknown or out of range.
    pub(super) fn take(mut args: DevArgs) -> Result<(String, Self), PortError> {
        const SIZE: &str = "descriptors, 128 to 4096 in steps of 8";
        const QUEUES: &str = "queues each way, 1 to 16";
        let queues = args.take::<u16>("queues", QUEUES)?;
        if let Some(queues) = queues.filter(|queues| !(1..=MOST_QUEUES).contains(queues)) {
            return Err(args.bad("queues", &queues.to_string(), &format!("expected {QUEUES}")));
        }
        let queue_size = args.take::<u16>("queue_size", SIZE)?;
        let fits = |size: &u16| (LEAST_SIZE..=MOST_SIZE).contains(size) && size.is_multiple_of(STEP);
        if let Some(size) = queue_size.filter(|size| !fits(size)) {
            return Err(args.bad("queue_size", &size.to_string(), &format!("expected {SIZE}")));
        }
        let flow = args.take("flow_ctrl", "none, rx, tx or full")?.unwrap_or_default();
        let any_module = args.take_flag("allow_unsupported_sfp")?;
        Ok((args.finish()?, Self { queues, queue_size, flow, any_module }))
    }

    /// The most descriptors in a ring.
    pub(super) fn most(&self) -> u16 {
        self.queue_size.unwrap_or(USUAL_SIZE)
    }

    /// Descriptors in a ring for which the application has asked for so many.
    pub(super) fn size(&self, asked: u16) -> u16 {
        let usual = asked.clamp(LEAST_SIZE, USUAL_SIZE).next_multiple_of(STEP);
        self.queue_size.unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn take(parameters: &str) -> Result<(String, Options), PortError> {
        Options::take(DevArgs::parse(&format!("0000:03:00.0{parameters}")).unwrap())
    }

    #[test]
    fn parameters_are_taken_and_what_cannot_be_is_refused() {
        let (name, options) = take(",queue_size=512,queues=4").unwrap();
        assert_eq!((name.as_str(), options.most(), options.size(64)), ("0000:03:00.0", 512, 512));
        assert_eq!(options.queues, Some(4));
        let (_, options) = take("").unwrap();
        assert_eq!((options.most(), options.queues), (1024, None));
        assert_eq!((options.flow, options.any_module), (FlowControl::default(), false));
        for (mode, obeys, asks) in
            [("none", false, false), ("rx", true, false), ("tx", false, true), ("full", true, true)]
        {
            let (_, options) = take(&format!(",flow_ctrl={mode},allow_unsupported_sfp=1")).unwrap();
            assert_eq!((options.flow, options.any_module), (FlowControl { obeys, asks }, true));
        }
        let sizes = [1, 129, 500, 1024, 65535].map(|asked| options.size(asked));
        assert_eq!(sizes, [128, 136, 504, 1024, 1024]);
        for (parameters, problem) in [
            (",queue_size=120", "128 to 4096"),
            (",queue_size=4104", "128 to 4096"),
            (",queue_size=130", "in steps of 8"),
            (",queues=17", "1 to 16"),
            (",queues=0", "1 to 16"),
            (",flow_ctrl=both", "none, rx, tx or full"),
            (",queue_sizes=512", "did you mean \"queue_size\""),
        ] {
            let error = take(parameters).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
