//! Frames through a forwarder in a guest, and a look at each that comes out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::Wire;
use crate::frames;

/// Time in which a frame at least has to come out.
const STALL: Duration = Duration::from_secs(10);
/// Time in which frames that nobody expects would come.
const SILENCE: Duration = Duration::from_millis(200);
/// How long to look at one wire, when both are silent.
const LOOK: Duration = Duration::from_millis(1);

/// In which order frames come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they went in.
    Kept,
    /// As they like: several queues take them.
    Any,
}

/// Sends `frames` frames of 60 to 1514 bytes into each wire at once, and checks that each comes out of the other
/// byte by byte as it went in, once, and in `order`. At most `window` are under way in each direction, so that
/// neither rings nor sockets overflow.
///
/// What the wires had before is thrown away. The forwarder must leave addresses as they are.
///
/// # Errors
/// When a frame is lost, changed, doubled, out of order, or none comes out for some seconds.
pub fn forward_and_compare(wires: [&Wire; 2], frames: usize, window: usize, order: Order) -> Result<()> {
    exchange(wires, frames, window, order, STALL)
}

fn exchange(wires: [&Wire; 2], frames: usize, window: usize, order: Order, stall: Duration) -> Result<()> {
    ensure!(window > 0, "no frame may be under way");
    for wire in wires {
        wire.drain(SILENCE)?;
    }
    let mut ways = [0, 1].map(|from| Way {
        input: wires[from],
        output: wires[1 - from],
        label: ["from the first to the second", "from the second to the first"][from],
        // Other frames in each direction.
        source: Box::new(frames::mixed(frames, 1 + from as u64)),
        refused: None,
        under_way: BTreeMap::new(),
        next: 0,
        arrived: 0,
    });
    let mut progress = Instant::now();
    loop {
        let mut moved = false;
        for way in &mut ways {
            moved |= way.fill(window)?;
            moved |= way.empty(order)?;
        }
        if ways.iter().all(|way| way.arrived == frames) {
            break;
        }
        if moved {
            progress = Instant::now();
        } else if progress.elapsed() > stall {
            let told: Vec<String> = ways.iter().map(Way::describe).collect();
            bail!("of {frames} frames each way, none came out for {stall:?}: {}", told.join("; "));
        } else {
            std::thread::sleep(LOOK);
        }
    }
    for wire in wires {
        if let Some(frame) = wire.receive(SILENCE)? {
            bail!("a frame too many came out: {}", name(&frame));
        }
    }
    Ok(())
}

/// One direction.
struct Way<'a> {
    input: &'a Wire,
    output: &'a Wire,
    label: &'static str,
    source: Box<dyn Iterator<Item = Vec<u8>>>,
    /// The next, which the wire had no room for.
    refused: Option<Vec<u8>>,
    /// What has gone in and not come out, by number.
    under_way: BTreeMap<u64, Vec<u8>>,
    /// Number of the next to go in.
    next: u64,
    arrived: usize,
}

impl Way<'_> {
    /// Sends what the window and the wire have room for; whether that was any.
    fn fill(&mut self, window: usize) -> Result<bool> {
        let before = self.next;
        while self.under_way.len() < window {
            let Some(frame) = self.refused.take().or_else(|| self.source.next()) else { break };
            if !self.input.try_send(&frame)? {
                self.refused = Some(frame);
                break;
            }
            self.under_way.insert(self.next, frame);
            self.next += 1;
        }
        Ok(self.next > before)
    }

    /// Checks what has come out; whether that was any.
    fn empty(&mut self, order: Order) -> Result<bool> {
        let before = self.arrived;
        while let Some(frame) = self.output.try_receive()? {
            let expected = match order {
                Order::Kept => self.under_way.keys().next().copied(),
                Order::Any => number(&frame),
            };
            let sent = expected.and_then(|number| self.under_way.remove(&number));
            if sent.as_ref() != Some(&frame) {
                let expected = sent.as_deref().map_or_else(|| "none".to_owned(), name);
                bail!("{}: {expected} was expected, and came {}", self.describe(), name(&frame));
            }
            self.arrived += 1;
        }
        Ok(self.arrived > before)
    }

    fn describe(&self) -> String {
        format!("{} {} went in, {} came out", self.label, self.next, self.arrived)
    }
}

/// The number that ends a frame of [`frames::mixed`].
fn number(frame: &[u8]) -> Option<u64> {
    frame.last_chunk().copied().map(u64::from_be_bytes)
}

/// A frame, to be read by people.
fn name(frame: &[u8]) -> String {
    let start: String = frame.iter().take(18).map(|byte| format!("{byte:02x}")).collect();
    format!("frame {:?} of {} bytes, {start}...", number(frame), frame.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::thread;

    use super::super::wire::tests::with_far_end;
    use super::*;

    /// Runs frames through `forwarder`, which gets each with its direction and its number, and says what to send on.
    fn run(
        order: Order,
        forwarder: impl Fn(usize, usize, Vec<u8>) -> Vec<Vec<u8>> + Send + Sync,
    ) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let (left, far_left) = with_far_end(folder.path(), "left");
        let (right, far_right) = with_far_end(folder.path(), "right");
        let pump = |way: usize, from: UnixDatagram, to: UnixDatagram| {
            from.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            to.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut frame = [0; 2000];
            let mut count = 0;
            while let Ok(length) = from.recv(&mut frame) {
                for out in forwarder(way, count, frame[..length].to_vec()) {
                    // The test may have given up.
                    let _ = to.send(&out);
                }
                count += 1;
            }
        };
        let (again_left, again_right) = (far_left.try_clone().unwrap(), far_right.try_clone().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| pump(0, far_left, again_right));
            scope.spawn(|| pump(1, far_right, again_left));
            let result = exchange([&left, &right], 500, 32, order, Duration::from_secs(1));
            // Now nobody waits for room in them.
            drop((left, right));
            result
        })
    }

    #[test]
    fn a_faithful_forwarder_passes() {
        run(Order::Kept, |_, _, frame| vec![frame]).unwrap();
    }

    #[test]
    fn every_other_is_found_out() {
        let refused = |what: &str, forwarder: fn(usize, usize, Vec<u8>) -> Vec<Vec<u8>>, order| {
            assert!(run(order, forwarder).is_err(), "{what} passed");
        };
        let changes = |way, count, mut frame: Vec<u8>| {
            frame[20] ^= u8::from(way == 1 && count == 300);
            vec![frame]
        };
        let doubles = |way, count, frame: Vec<u8>| vec![frame; 1 + usize::from(way == 0 && count == 499)];
        let pads = |_, count, mut frame: Vec<u8>| {
            frame.resize(frame.len() + usize::from(count == 7), 0);
            vec![frame]
        };
        let loses = |way, count, frame: Vec<u8>| vec![frame; usize::from(way != 1 || count != 499)];
        for order in [Order::Kept, Order::Any] {
            refused("a change", changes, order);
            refused("a frame twice", doubles, order);
            refused("a frame too long", pads, order);
        }
        refused("a loss", loses, Order::Any);
    }

    #[test]
    fn order_counts_only_where_it_is_asked_for() {
        use std::sync::Mutex;
        // Holds the frame 100 of each direction back until the next one has passed.
        let swapping = || {
            let held = [Mutex::new(None), Mutex::new(None)];
            move |way: usize, count: usize, frame: Vec<u8>| {
                let mut held = held[way].lock().unwrap();
                if count == 100 {
                    *held = Some(frame);
                    return Vec::new();
                }
                std::iter::once(frame).chain(held.take()).collect()
            }
        };
        run(Order::Any, swapping()).unwrap();
        assert!(run(Order::Kept, swapping()).is_err());
    }
}
