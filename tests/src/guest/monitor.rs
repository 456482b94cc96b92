//! QEMU's monitor: orders to it while a guest runs, and what it tells by itself.
//!
//! The protocol (QEMU's `docs/interop/qmp-spec`) is a line of JSON for each message. To an order comes an answer,
//! `return` or `error`; between them come events.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::wait;

/// Time for QEMU to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// The test's end.
#[derive(Debug)]
pub(super) struct Monitor {
    line: UnixStream,
    /// What came after the last whole message.
    rest: Vec<u8>,
    /// What was told and nobody has asked for yet.
    events: Vec<Value>,
}

impl Monitor {
    /// Connects to the socket of a QEMU that runs.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        Self::on(UnixStream::connect(path).context("connecting to QEMU's monitor")?)
    }

    fn on(line: UnixStream) -> Result<Self> {
        line.set_nonblocking(true)?;
        let mut monitor = Self { line, rest: Vec::new(), events: Vec::new() };
        let greeting = monitor.next(ANSWER)?;
        ensure!(greeting.get("QMP").is_some(), "QEMU's monitor greets by {greeting}");
        monitor.order("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Gives an order, and what it returns.
    pub(super) fn order(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let message = json!({ "execute": name, "arguments": arguments });
        self.line.write_all(format!("{message}\n").as_bytes()).context("writing to QEMU's monitor")?;
        loop {
            let mut answer = self.next(ANSWER).with_context(|| format!("the answer to {message}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {message}: {error}");
            }
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
            self.events.push(answer);
        }
    }

    /// Waits for an event of this name that `is_meant`, and forgets it.
    pub(super) fn event(
        &mut self,
        name: &str,
        limit: Duration,
        is_meant: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        loop {
            let found = self.events.iter().position(|it| it["event"] == name && is_meant(&it["data"]));
            if let Some(at) = found {
                self.events.remove(at);
                return Ok(());
            }
            let message = self.next(limit).with_context(|| format!("waiting for QEMU's {name}"))?;
            self.events.push(message);
        }
    }

    /// The next message, if it comes in time.
    fn next(&mut self, limit: Duration) -> Result<Value> {
        let mut message = None;
        wait::until("QEMU's monitor", limit, || {
            loop {
                if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = self.rest.drain(..=end).collect();
                    message = Some(serde_json::from_slice(&line).context("QEMU's monitor sent no JSON")?);
                    return Ok(true);
                }
                let mut chunk = [0; 4096];
                match self.line.read(&mut chunk) {
                    Ok(0) => bail!("QEMU's monitor was closed"),
                    Ok(count) => self.rest.extend_from_slice(&chunk[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error).context("reading from QEMU's monitor"),
                }
            }
        })?;
        message.context("no message")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::thread;

    use super::*;

    #[test]
    fn events_between_an_order_and_its_answer_are_kept() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let qemu = thread::spawn(move || {
            let mut orders = BufReader::new(far.try_clone().unwrap());
            let mut read = || {
                let mut line = String::new();
                orders.read_line(&mut line).unwrap();
                serde_json::from_str::<Value>(&line).unwrap()["execute"].as_str().unwrap().to_owned()
            };
            far.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            assert_eq!(read(), "qmp_capabilities");
            far.write_all(b"{\"return\": {}}\r\n").unwrap();
            assert_eq!(read(), "one");
            far.write_all(b"{\"event\": \"GONE\", \"data\": {\"device\": \"a\"}}\r\n{\"ret").unwrap();
            thread::sleep(Duration::from_millis(50));
            far.write_all(b"urn\": 7}\r\n{\"event\": \"GONE\", \"data\": {\"device\": \"b\"}}\r\n").unwrap();
            assert_eq!(read(), "two");
            far.write_all(b"{\"error\": {\"desc\": \"no such thing\"}}\r\n").unwrap();
        });
        let mut monitor = Monitor::on(near).unwrap();
        assert_eq!(monitor.order("one", &json!({})).unwrap(), 7);
        let limit = Duration::from_secs(5);
        monitor.event("GONE", limit, |data| data["device"] == "b").unwrap();
        monitor.event("GONE", limit, |data| data["device"] == "a").unwrap();
        let error = monitor.order("two", &json!({})).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error:#}");
        qemu.join().unwrap();
        assert!(monitor.event("GONE", limit, |_| true).is_err(), "the line is closed");
    }
}
