//! Device arguments: `net_af_packet0,iface=eth1,qpairs=2`.

use core::fmt;
use core::str::FromStr;

use super::PortError;
use super::error::did_you_mean;

/// A device by its driver's name, a number, and parameters.
///
/// A driver takes its parameters out one by one and then calls [`finish`](Self::finish), which refuses what
/// nobody took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevArgs {
    name: String,
    parameters: Vec<(String, String)>,
    taken: Vec<&'static str>,
}

impl DevArgs {
    /// Reads `name,key=value,key=value`. A key may come more than once; a key without `=` has the value `1`.
    ///
    /// # Errors
    /// [`PortError::DevArgs`] when there is no name or an empty key.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let wrong =
            |problem: &str| PortError::DevArgs { devargs: text.to_owned(), problem: problem.to_owned() };
        let mut parts = text.split(',').map(str::trim);
        let name = parts.next().unwrap_or_default();
        if name.is_empty() {
            return Err(wrong(
                "no driver is named; write for instance net_ring0 or net_af_packet0,iface=eth1",
            ));
        }
        if name.contains('=') {
            return Err(wrong("it starts with a parameter; the driver's name comes first"));
        }
        let mut parameters = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, "1"));
            if key.is_empty() {
                return Err(wrong("a parameter has no name"));
            }
            parameters.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { name: name.to_owned(), parameters, taken: Vec::new() })
    }

    /// The device's name, number and all.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name without the number: the driver's.
    #[must_use]
    pub fn driver(&self) -> &str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit())
    }

    /// Takes all values of `key`, in order.
    pub fn take_all(&mut self, key: &'static str) -> Vec<String> {
        self.taken.push(key);
        self.parameters.extract_if(.., |(name, _)| name == key).map(|(_, value)| value).collect()
    }

    /// Takes the value of `key`, if it was given.
    ///
    /// # Errors
    /// [`PortError::BadParameter`] when it was given twice, or is no `T`; `expected` says what a `T` is.
    pub fn take<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Result<Option<T>, PortError> {
        let mut values = self.take_all(key);
        let Some(value) = values.pop() else { return Ok(None) };
        if !values.is_empty() {
            return Err(self.bad(key, &value, "given more than once"));
        }
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => Err(self.bad(key, &value, &format!("expected {expected}"))),
        }
    }

    /// Takes the value of `key`, which is 0 or 1 (also `off`, `on`); false when it was not given.
    ///
    /// # Errors
    /// [`PortError::BadParameter`] when it is something else.
    pub fn take_flag(&mut self, key: &'static str) -> Result<bool, PortError> {
        match self.take::<String>(key, "0 or 1")?.as_deref() {
            None | Some("0" | "off") => Ok(false),
            Some("1" | "on") => Ok(true),
            Some(other) => Err(self.bad(key, other, "expected 0 or 1")),
        }
    }

    /// An error about a parameter of this device.
    #[must_use]
    pub fn bad(&self, key: &str, value: &str, problem: &str) -> PortError {
        PortError::BadParameter {
            device: self.name.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            problem: problem.to_owned(),
        }
    }

    /// An error about a parameter that is missing.
    #[must_use]
    pub fn missing(&self, key: &'static str, purpose: &'static str) -> PortError {
        PortError::MissingParameter { device: self.name.clone(), key, purpose }
    }

    /// Refuses parameters that nobody took.
    ///
    /// # Errors
    /// [`PortError::UnknownParameter`] names the first of them and the ones there are.
    pub fn finish(self) -> Result<String, PortError> {
        let Some((key, _)) = self.parameters.into_iter().next() else { return Ok(self.name) };
        let hint = did_you_mean(&key, self.taken.iter().copied());
        let known = if self.taken.is_empty() { "none".to_owned() } else { self.taken.join(", ") };
        Err(PortError::UnknownParameter { device: self.name, key, hint, known })
    }
}

impl fmt::Display for DevArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.parameters.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_driver_and_parameters_are_told_apart() {
        let mut args = DevArgs::parse("net_pcap12,rx_pcap=a.pcap,rx_pcap=b.pcap,infinite_rx").unwrap();
        assert_eq!((args.name(), args.driver()), ("net_pcap12", "net_pcap"));
        assert_eq!(args.take_all("rx_pcap"), ["a.pcap", "b.pcap"]);
        assert!(args.take_flag("infinite_rx").unwrap());
        assert_eq!(args.finish().unwrap(), "net_pcap12");
    }

    #[test]
    fn what_nobody_took_is_refused_with_the_nearest_name() {
        let mut args = DevArgs::parse("net_af_packet0,ifaec=eth1").unwrap();
        assert_eq!(args.take::<String>("iface", "an interface").unwrap(), None);
        let error = args.finish().unwrap_err().to_string();
        assert_eq!(
            error,
            "net_af_packet0: no parameter is called \"ifaec\" (did you mean \"iface\"?); there are iface"
        );
    }

    #[test]
    fn wrong_values_say_what_was_expected() {
        let mut args = DevArgs::parse("net_null0,size=big").unwrap();
        let error = args.take::<u16>("size", "bytes, 14 to 65535").unwrap_err().to_string();
        assert_eq!(error, "net_null0: size=big: expected bytes, 14 to 65535");
        let mut args = DevArgs::parse("net_null0,size=64,size=65").unwrap();
        let error = args.take::<u16>("size", "bytes").unwrap_err().to_string();
        assert_eq!(error, "net_null0: size=65: given more than once");
    }

    #[test]
    fn names_are_needed() {
        for text in ["", ",size=1", "size=1", "net_null0,=3"] {
            assert!(matches!(DevArgs::parse(text), Err(PortError::DevArgs { .. })), "{text:?}");
        }
    }
}
