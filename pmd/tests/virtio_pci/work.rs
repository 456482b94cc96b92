//! What the model does with its rings: packets that are sent come back, and commands are answered.

use wirerate_pmd::virtqueue::{AnyDeviceRing, Chain, DeviceRing, Features, Head};

use super::model::{DRIVER_OK, Inner, NEEDS_RESET};

/// Descriptor flag: the device writes.
const WRITE: u16 = 2;
/// Bytes of the header before each packet.
const HEADER: usize = 12;

macro_rules! each {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyDeviceRing::Split($ring) => $call,
            AnyDeviceRing::Packed($ring) => $call,
        }
    };
}

/// Does all that can be done.
pub(crate) fn work(device: &mut Inner) {
    if device.status & DRIVER_OK == 0 || device.status & NEEDS_RESET != 0 {
        return;
    }
    for pair in 0..device.settings.pairs {
        let (rx_at, tx_at) = (usize::from(2 * pair), usize::from(2 * pair + 1));
        if 2 * pair == device.control() {
            break;
        }
        let (Some(mut rx), Some(mut tx)) =
            (device.queues[rx_at].ring.take(), device.queues[tx_at].ring.take())
        else {
            continue;
        };
        let (called, returned) = each!(&mut tx, tx => each!(&mut rx, rx => pass(device, rx, tx)));
        (device.queues[rx_at].ring, device.queues[tx_at].ring) = (Some(rx), Some(tx));
        if called {
            let vector = device.queues[rx_at].vector;
            device.interrupt(vector, 1);
        }
        if returned {
            let vector = device.queues[tx_at].vector;
            device.interrupt(vector, 1);
        }
    }
    let control = usize::from(device.control());
    if device.features().contains(Features::CTRL_VQ)
        && !device.settings.silent
        && let Some(mut ring) = device.queues[control].ring.take()
    {
        each!(&mut ring, ring => obey(device, ring));
        device.queues[control].ring = Some(ring);
    }
}

/// A chain: its head, what is to be read, and where to write.
type Work = (Head, Vec<u8>, Vec<(u64, usize)>);

/// The next chain, if there is one.
fn next<R: DeviceRing>(device: &mut Inner, ring: &mut R) -> Option<Work> {
    let mut heads = [Head::default()];
    match ring.look(&mut heads) {
        Ok(0) => return None,
        Ok(_) => {}
        Err(broken) => {
            device.fault(format!("a ring is broken: {broken}"));
            return None;
        }
    }
    let mut chain = Chain::new();
    if let Err(bad) = ring.chain(&heads[0], &device.memory(), &mut chain) {
        device.fault(format!("a chain is bad: {bad}"));
    }
    device.split += u64::from(chain.len() > 2 && chain.iter().all(|part| part.flags & WRITE == 0));
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for part in chain {
        let len = part.len as usize;
        if part.flags & WRITE != 0 {
            written.push((part.address, len));
        } else if let Some(place) = device.host(part.address, len) {
            let start = read.len();
            read.resize(start + len, 0);
            // SAFETY: so many bytes are mapped there, which the driver has given to the device.
            unsafe { place.as_ptr().copy_to_nonoverlapping(read[start..].as_mut_ptr(), len) };
        }
    }
    Some((heads[0], read, written))
}

fn write(device: &mut Inner, address: u64, bytes: &[u8]) {
    if let Some(place) = device.host(address, bytes.len()) {
        // SAFETY: as in `next`.
        unsafe { place.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

/// Passes packets from a transmit ring to a receive ring, as long as there are buffers; says whether each driver's side is
/// to be told.
fn pass<R: DeviceRing, T: DeviceRing>(device: &mut Inner, rx: &mut R, tx: &mut T) -> (bool, bool) {
    let mergeable = device.features().contains(Features::MRG_RXBUF);
    while rx.has_available() {
        let Some((tx_head, mut packet, _)) = next(device, tx) else { break };
        if packet.len() < HEADER {
            device.fault(format!("a packet of {} bytes, header and all", packet.len()));
        }
        packet[..HEADER].fill(0);
        let mut heads = [Head::default(); 64];
        let found = rx.look(&mut heads).unwrap_or(0);
        // Each buffer is one chain; as many as the packet takes.
        let (mut left, mut used, mut first) = (packet.len(), Vec::new(), None);
        for head in heads.iter().take(found) {
            let mut chain = Chain::new();
            if rx.chain(head, &device.memory(), &mut chain).is_err() {
                device.fault("a receive buffer is bad");
            }
            let room: usize = chain.iter().map(|part| part.len as usize).sum();
            let take = room.min(left);
            let start = packet.len() - left;
            let mut at = start;
            for part in &chain {
                let end = (at + part.len as usize).min(start + take);
                write(device, part.address, &packet[at..end]);
                at = end;
            }
            first.get_or_insert(chain[0].address);
            used.push(take as u32);
            left -= take;
            if left == 0 || !mergeable {
                break;
            }
        }
        if left > 0 && mergeable {
            // It waits for more buffers.
            break;
        }
        let mut header = [0; HEADER];
        header[10..].copy_from_slice(&(used.len() as u16).to_le_bytes());
        write(device, first.unwrap_or(0), &header);
        rx.give_back(&heads[..used.len()], |at| used[at]);
        tx.give_back(&[tx_head], |_| 0);
    }
    (rx.wants_call(), tx.wants_call())
}

/// Carries out commands.
fn obey<R: DeviceRing>(device: &mut Inner, ring: &mut R) {
    while let Some((head, bytes, written)) = next(device, ring) {
        let [class, number, data @ ..] = &bytes[..] else {
            device.fault("a command without a number");
            return;
        };
        let refused = device.settings.refuses == Some((*class, *number));
        device.commands.push((*class, *number, data.to_vec()));
        if (*class, *number) == (3, 0) {
            device.link &= !2;
        }
        match written[..] {
            [(address, 1)] => write(device, address, &[refused.into()]),
            _ => device.fault(format!("a command with answers at {written:x?}")),
        }
        ring.give_back(&[head], |_| 1);
    }
}
