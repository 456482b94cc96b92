//! Frames to the other end and back, compared byte by byte.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use wirerate_pmd::Burst;
use wirerate_pmd::packet::MAX_BURST;
use wirerate_pmd::port::Queues;
use wirerate_tests::frames::{Random, SHORTEST};

use super::ends::{LIMIT, Ours};
use super::variant::Variant;

/// Where a frame has its number.
const NUMBER: Range<usize> = 14..22;

/// Frame `number` of a queue: its length and each byte tell which it is.
fn frame(queue: usize, number: usize, longest: usize, into: &mut Vec<u8>) {
    let mut random = Random::new(((queue as u64) << 32) + number as u64 + 1);
    let len = match number {
        0 => SHORTEST,
        1 => longest,
        // Most are short, so that rings fill with frames and not with bytes.
        _ if number.is_multiple_of(4) => SHORTEST + random.below(longest - SHORTEST + 1),
        _ => SHORTEST + random.below(200),
    };
    into.resize(len, 0);
    random.fill(into);
    // Addresses of stations, and not of groups.
    into[0] = 2;
    into[6] = 2;
    into[NUMBER].copy_from_slice(&(number as u64).to_be_bytes());
}

/// The frames of one queue: what is out, and what is to come next.
#[derive(Debug)]
struct Stream {
    queue: usize,
    sent: usize,
    came: usize,
    /// Buffers that each frame takes which is out.
    out: VecDeque<usize>,
    waiting: Burst,
}

/// Sends `count` frames by each queue, waits for each to come back, and checks that they come in order, none is lost or
/// doubled, and every byte is as it was.
///
/// No more are out at a time than half of the other end's ring has buffers for: DPDK drops what it cannot send at once.
pub(super) fn exchange(ours: &mut Ours, count: usize) -> Result<()> {
    let variant = ours.variant();
    let pool = ours.pool.clone();
    let (port, queues) = ours.parts()?;
    let mut streams: Vec<Stream> = (0..usize::from(variant.pairs)).map(Stream::new).collect();
    let mut last = Instant::now();
    while streams.iter().any(|stream| stream.came < count) {
        for stream in &mut streams {
            stream.send(queues, &pool, variant, count)?;
            if stream.receive(queues, variant).with_context(|| format!("{:?}", port.xstats()))? {
                last = Instant::now();
            }
        }
        ensure!(
            last.elapsed() < LIMIT,
            "no frame came for {LIMIT:?}: {}; {:?}",
            streams
                .iter()
                .map(|stream| format!("queue {}: {} sent, {} came", stream.queue, stream.sent, stream.came))
                .collect::<Vec<_>>()
                .join(", "),
            port.xstats()
        );
    }
    // What is doubled comes later than what it doubles.
    std::thread::sleep(std::time::Duration::from_millis(2));
    for stream in &mut streams {
        ensure!(!stream.receive(queues, variant)?, "queue {}: frames came that were not sent", stream.queue);
    }
    Ok(())
}

/// Sends some frames by each queue and waits for none.
pub(super) fn send_some(ours: &mut Ours) -> Result<()> {
    let (variant, pool) = (ours.variant(), ours.pool.clone());
    let (_, queues) = ours.parts()?;
    for queue in 0..usize::from(variant.pairs) {
        Stream::new(queue).send(queues, &pool, variant, 20)?;
    }
    Ok(())
}

impl Stream {
    fn new(queue: usize) -> Self {
        Self { queue, sent: 0, came: 0, out: VecDeque::new(), waiting: Burst::new(MAX_BURST) }
    }

    fn send(
        &mut self,
        queues: &mut Queues,
        pool: &wirerate_pmd::MbufPool,
        variant: Variant,
        count: usize,
    ) -> Result<()> {
        let window = usize::from(variant.size) / 2;
        let mut bytes = Vec::new();
        while self.sent < count && self.waiting.room() > 0 {
            frame(self.queue, self.sent, variant.longest(), &mut bytes);
            // The header of a packet needs room too.
            let buffers = (bytes.len() + 12).div_ceil(variant.data_room());
            if self.out.iter().sum::<usize>() + buffers > window {
                break;
            }
            let packet = pool.alloc_from(&bytes).context("the pool is empty")?;
            self.waiting.push(packet).ok().context("the burst is full")?;
            self.out.push_back(buffers);
            self.sent += 1;
        }
        let queue = queues.tx.get_mut(self.queue).context("no such queue")?;
        let _ = queue.tx_burst(&mut self.waiting);
        Ok(())
    }

    /// Whether any came.
    fn receive(&mut self, queues: &mut Queues, variant: Variant) -> Result<bool> {
        let mut burst = Burst::new(32);
        let queue = queues.rx.get_mut(self.queue).context("no such queue")?;
        queue.rx_burst(&mut burst);
        let any = !burst.is_empty();
        let mut expected = Vec::new();
        for packet in burst.drain() {
            frame(self.queue, self.came, variant.longest(), &mut expected);
            let came = packet.segments().flatten().copied().collect::<Vec<u8>>();
            if came != expected {
                let at = came.iter().zip(&expected).position(|(one, two)| one != two);
                let number = came
                    .get(NUMBER)
                    .map(|bytes| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)));
                anyhow::bail!(
                    "queue {}, frame {}: {} bytes came instead of {}, the first other one is {at:?}; it looks like frame {number:?}",
                    self.queue,
                    self.came,
                    came.len(),
                    expected.len()
                );
            }
            self.came += 1;
            self.out.pop_front();
        }
        Ok(any)
    }
}
