//! A pool's buffers as `bytes::Bytes`, and filled through `bytes::BufMut`.
#![cfg(feature = "bytes")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use wirerate_mempool::{Pool, PooledBuf};

const LEN: usize = 256;

fn pool() -> Pool<[u8]> {
    Pool::buffers("bytes", 4, LEN).unwrap()
}

#[test]
fn bytes_own_a_buffer_without_a_copy_and_send_it_home_from_any_thread() {
    let pool = pool();
    let mut buffer = pool.get().unwrap();
    buffer[..5].copy_from_slice(b"hello");
    let at = buffer.as_ptr();
    let whole = Bytes::from_owner(buffer);
    assert_eq!(whole.as_ptr(), at, "no copy");
    let part = whole.slice(..5);
    assert_eq!(part.as_ptr(), at);
    drop(whole);
    assert_eq!(pool.counts().in_use, 1);
    thread::spawn(move || {
        let again = part.clone();
        drop(part);
        assert_eq!(&again[..], b"hello");
    })
    .join()
    .unwrap();
    assert_eq!(pool.counts().in_use, 0, "the last one was dropped there");
    pool.audit().unwrap();
}

#[test]
fn a_frozen_buffer_is_its_filled_part_without_a_copy() {
    let pool = pool();
    let mut buffer = PooledBuf::new(pool.get().unwrap());
    let at = buffer.chunk_mut().as_mut_ptr().cast_const();
    buffer.put_slice(b"..hello");
    buffer.advance(2);
    let frozen = buffer.freeze();
    assert_eq!(&frozen[..], b"hello");
    assert_eq!(frozen.as_ptr(), at.wrapping_add(2));
    drop(pool);
    assert_eq!(&frozen[..], b"hello", "it outlives the pool");
    assert!(PooledBuf::new(Pool::buffers("one", 1, 1).unwrap().get().unwrap()).freeze().is_empty());
}

#[test]
fn what_does_not_fit_panics_and_changes_nothing() {
    let pool = pool();
    let mut buffer = PooledBuf::new(pool.get().unwrap());
    buffer.put_bytes(1, LEN - 3);
    type Put = fn(&mut PooledBuf);
    let puts: [Put; 5] = [
        |buffer| buffer.put_slice(&[2; 4]),
        |buffer| buffer.put_u32(2),
        |buffer| buffer.put_bytes(2, 4),
        |buffer| buffer.put(&[2; 4][..]),
        // SAFETY: all of the buffer is initialised.
        |buffer| unsafe { buffer.advance_mut(4) },
    ];
    for put in puts {
        assert!(catch_unwind(AssertUnwindSafe(|| put(&mut buffer))).is_err());
        assert_eq!((buffer.remaining_mut(), buffer.len()), (3, LEN - 3));
    }
    assert!(catch_unwind(AssertUnwindSafe(|| buffer.advance(LEN - 2))).is_err());
    assert_eq!(buffer.remaining(), LEN - 3);
    buffer.put_slice(&[2; 3]);
    assert!(!buffer.has_remaining_mut() && buffer.chunk_mut().len() == 0);
    assert_eq!(buffer[LEN - 4..], [1, 2, 2, 2]);
}

#[test]
fn what_was_read_into_a_buffer_is_its_filled_part() {
    let pool = pool();
    let mut buffer = pool.get().unwrap();
    buffer.fill(9);
    let mut filled = PooledBuf::with_filled(buffer, 10);
    assert_eq!((filled.remaining(), filled.remaining_mut(), filled.capacity()), (10, LEN - 10, LEN));
    filled.put_u8(1);
    filled[0] = 0;
    assert_eq!(filled[..], [0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1]);
    assert_eq!(filled.into_inner()[..11], [0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1]);
    let (few, whole) = (pool.get().unwrap(), pool.get().unwrap());
    assert!(catch_unwind(AssertUnwindSafe(|| PooledBuf::with_filled(few, LEN + 1))).is_err());
    assert_eq!(PooledBuf::with_filled(whole, LEN).remaining_mut(), 0);
    assert_eq!(pool.counts().in_use, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>),
    PutInt(u64, usize),
    Fill(u8, usize),
    Chunk(u8, usize),
    Advance(usize),
    GetU16,
    Truncate(usize),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Put),
        2 => (any::<u64>(), 1..=8_usize).prop_map(|(value, bytes)| Step::PutInt(value, bytes)),
        2 => (any::<u8>(), 0..40_usize).prop_map(|(byte, n)| Step::Fill(byte, n)),
        2 => (any::<u8>(), 0..40_usize).prop_map(|(byte, n)| Step::Chunk(byte, n)),
        2 => (0..30_usize).prop_map(Step::Advance),
        2 => Just(Step::GetU16),
        1 => (0..LEN).prop_map(Step::Truncate),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    /// It is a `BytesMut` that has room for so much and no more.
    #[test]
    fn it_does_what_bytes_mut_does_as_far_as_there_is_room(steps in proptest::collection::vec(step(), 0..60)) {
        let pool = pool();
        let mut buffer = PooledBuf::new(pool.get().unwrap());
        let mut model = BytesMut::new();
        let mut room = LEN;
        for step in steps {
            let put = match &step {
                Step::Put(bytes) => bytes.len(),
                Step::PutInt(_, n) | Step::Fill(_, n) | Step::Chunk(_, n) => *n,
                _ => 0,
            };
            if put > room {
                continue;
            }
            room -= put;
            match step {
                Step::Put(bytes) => {
                    buffer.put_slice(&bytes);
                    model.put_slice(&bytes);
                }
                Step::PutInt(value, n) => {
                    buffer.put_uint(value, n);
                    model.put_uint(value, n);
                }
                Step::Fill(byte, n) => {
                    buffer.put_bytes(byte, n);
                    model.put_bytes(byte, n);
                }
                Step::Chunk(byte, n) => {
                    buffer.chunk_mut()[..n].copy_from_slice(&vec![byte; n]);
                    // SAFETY: just written.
                    unsafe { buffer.advance_mut(n) };
                    model.put_bytes(byte, n);
                }
                Step::Advance(n) => {
                    let n = n.min(model.len());
                    buffer.advance(n);
                    model.advance(n);
                }
                Step::GetU16 => prop_assert_eq!(buffer.try_get_u16(), model.try_get_u16()),
                Step::Truncate(n) => {
                    room += model.len().saturating_sub(n);
                    buffer.truncate(n);
                    model.truncate(n);
                }
                Step::Clear => {
                    room = LEN;
                    buffer.clear();
                    model.clear();
                }
            }
            prop_assert_eq!(&buffer[..], &model[..]);
            prop_assert_eq!(buffer.chunk(), &model[..]);
            prop_assert_eq!((buffer.remaining(), buffer.remaining_mut()), (model.len(), room));
            prop_assert_eq!(buffer.chunk_mut().len(), room);
            prop_assert_eq!(buffer.capacity(), LEN);
        }
        prop_assert_eq!(&buffer.freeze()[..], &model[..]);
        prop_assert_eq!(pool.counts().in_use, 0);
    }
}
