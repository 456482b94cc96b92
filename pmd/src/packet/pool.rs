//! Pools of mbufs.

use core::fmt;
use core::mem::MaybeUninit;

use thiserror::Error;
use wirerate_eal::{Eal, MemoryError, MemoryRequest};
use wirerate_mempool::{AuditError, Counts, HeapMemory, Memory, MmapMemory, PoolConfig, PoolError, RawPool};

use super::header::BUFFER_OFFSET;
use super::{Burst, HEADROOM, Mbuf};

/// Bytes of a cache line.
const LINE: usize = 64;

/// How a pool of mbufs is to be.
#[derive(Debug, Clone)]
pub struct MbufPoolConfig {
    name: String,
    count: usize,
    data_room: usize,
    cache: usize,
    shared: bool,
}

impl MbufPoolConfig {
    /// Bytes behind the headroom by default (DPDK's `RTE_MBUF_DEFAULT_DATAROOM`).
    pub const DEFAULT_DATA_ROOM: usize = 2048;

    /// A pool of `count` mbufs with [`DEFAULT_DATA_ROOM`](Self::DEFAULT_DATA_ROOM) bytes of data behind the
    /// headroom, and caches of 256 mbufs a thread.
    #[must_use]
    pub fn new(name: impl Into<String>, count: usize) -> Self {
        Self { name: name.into(), count, data_room: Self::DEFAULT_DATA_ROOM, cache: 256, shared: false }
    }

    /// Bytes for data in each mbuf, without the headroom: 1 to 65,407.
    #[must_use]
    pub fn data_room(mut self, bytes: usize) -> Self {
        self.data_room = bytes;
        self
    }

    /// Mbufs that each thread may keep at hand; 0 keeps none.
    #[must_use]
    pub fn cache(mut self, mbufs: usize) -> Self {
        self.cache = mbufs;
        self
    }

    /// Whether the memory can be handed to another process by a descriptor, as vhost-user needs it. Without
    /// huge pages, memory that need not be shared may get transparent ones.
    #[must_use]
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    fn buffer_len(&self) -> Result<u16, MbufPoolError> {
        let asked = self.data_room;
        let whole = asked.checked_add(HEADROOM).and_then(|bytes| u16::try_from(bytes).ok());
        whole.filter(|_| asked > 0).ok_or(MbufPoolError::DataRoom { asked })
    }

    /// An odd number of cache lines, so that the headers of neighbouring mbufs fall into different sets of
    /// the first-level cache.
    fn object_size(&self) -> Result<usize, MbufPoolError> {
        let lines = (BUFFER_OFFSET + usize::from(self.buffer_len()?)).div_ceil(LINE);
        Ok((lines | 1) * LINE)
    }

    fn raw(&self) -> Result<PoolConfig, MbufPoolError> {
        Ok(PoolConfig::new(self.name.clone(), self.count, self.object_size()?).align(LINE).cache(self.cache))
    }

    /// Bytes of memory that the pool needs in one piece.
    ///
    /// # Errors
    /// [`MbufPoolError::DataRoom`] when the data room is out of range.
    pub fn memory_len(&self) -> Result<usize, MbufPoolError> {
        Ok(self.raw()?.memory_len())
    }
}

/// Why a pool of mbufs could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MbufPoolError {
    /// The data room is out of range.
    #[error("a data room of {asked} bytes cannot be: 1 to {} are possible", u16::MAX as usize - HEADROOM)]
    DataRoom {
        /// Bytes asked for.
        asked: usize,
    },
    /// No memory for it.
    #[error("no memory for mbuf pool \"{name}\": {source}")]
    Memory {
        /// The pool's name.
        name: String,
        /// What the environment said.
        source: MemoryError,
    },
    /// The pool itself refused.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// A pool of mbufs; clones are handles to the same pool.
///
/// The memory stays until the last handle and the last mbuf are gone, so a packet may outlive the pool's
/// handles.
#[derive(Clone)]
pub struct MbufPool {
    raw: RawPool,
    buffer_len: u16,
}

impl MbufPool {
    /// A pool in the environment's memory: huge pages where there are any.
    ///
    /// # Errors
    /// [`MbufPoolError`] when the configuration is out of range or there is not enough memory.
    pub fn new(eal: &Eal, config: &MbufPoolConfig) -> Result<Self, MbufPoolError> {
        let request = MemoryRequest::new(config.memory_len()?)
            .align(LINE)
            .name(config.name.clone())
            .shared(config.shared);
        let region = eal
            .reserve(request)
            .map_err(|source| MbufPoolError::Memory { name: config.name.clone(), source })?;
        Self::with_memory(config, vec![Box::new(region)])
    }

    /// A pool in ordinary memory, for programs and tests without an environment.
    ///
    /// # Errors
    /// [`MbufPoolError`] when the configuration is out of range or there is not enough memory.
    pub fn on_heap(config: &MbufPoolConfig) -> Result<Self, MbufPoolError> {
        let len = config.memory_len()?;
        let memory: Box<dyn Memory> = match MmapMemory::new(len) {
            Ok(memory) => Box::new(memory),
            Err(_) => Box::new(HeapMemory::new(len, LINE).map_err(PoolError::from)?),
        };
        Self::with_memory(config, vec![memory])
    }

    /// A pool in memory that the caller brings.
    ///
    /// # Errors
    /// [`MbufPoolError`] when the configuration is out of range or the memory is too small.
    pub fn with_memory(config: &MbufPoolConfig, memory: Vec<Box<dyn Memory>>) -> Result<Self, MbufPoolError> {
        let buffer_len = config.buffer_len()?;
        let raw = RawPool::with_init(config.raw()?, memory, |object, info| {
            // SAFETY: the pool hands out each object once before its first use, with the size and alignment
            // of `raw()`, which has room for header, extension and `buffer_len` bytes.
            unsafe { Mbuf::initialise(object, info.handle, buffer_len, info.device_address) };
        })?;
        Ok(Self { raw, buffer_len })
    }

    /// An empty packet, or none when every mbuf is in use.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the object was just taken out of this pool, which initialised it.
        self.raw.get().map(|object| unsafe { Mbuf::from_home(object) })
    }

    /// Adds `count` empty packets to `burst` (no more than it has room for): all of them, or none and false
    /// when the pool has fewer.
    #[inline]
    pub fn alloc_bulk(&self, burst: &mut Burst, count: usize) -> bool {
        burst.fill(self, count)
    }

    /// A packet with these bytes, chained over as many mbufs as they need; none when the pool has too few.
    #[must_use]
    pub fn alloc_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut packet = self.alloc()?;
        self.extend(&mut packet, bytes)?;
        Some(packet)
    }

    /// Adds bytes at the end of `packet`, chaining more mbufs to it as needed. None when the pool has too
    /// few; the packet then has some of the bytes.
    #[must_use]
    pub fn extend(&self, packet: &mut Mbuf, bytes: &[u8]) -> Option<()> {
        packet.extend_by(bytes, || self.alloc())
    }

    /// Bytes for data in a fresh packet's first segment.
    #[must_use]
    pub fn data_room(&self) -> usize {
        usize::from(self.buffer_len) - HEADROOM
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.raw.name()
    }

    /// How many mbufs are free, cached and in use.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.raw.counts()
    }

    /// Checks, while no other thread uses the pool, that every free mbuf is there exactly once.
    ///
    /// # Errors
    /// [`AuditError`] names the first mbuf that is not.
    pub fn audit(&self) -> Result<(), AuditError> {
        self.raw.audit()
    }

    /// The untyped pool underneath, for its memory.
    #[inline]
    #[must_use]
    pub fn raw(&self) -> &RawPool {
        &self.raw
    }
}

impl Mbuf {
    /// An empty packet of the pool that this one came from; none when every mbuf there is in use, or when nobody
    /// has a handle to that pool any more. What a device can reach of this packet, it can reach of that one.
    #[must_use]
    pub fn alloc_alike(&self) -> Option<Self> {
        let mut object = [MaybeUninit::uninit()];
        // SAFETY: this packet is an object of that pool, and in use.
        unsafe { self.pool_handle().get_bulk(&mut object) }.ok()?;
        let [object] = object;
        // SAFETY: `get_bulk` has written it with an object of the pool, which initialised it.
        Some(unsafe { Self::from_home(object.assume_init()) })
    }

    /// Adds bytes at the end, chaining mbufs of `alloc` as needed. None when it has too few; the packet then has
    /// some of the bytes.
    pub(crate) fn extend_by(&mut self, bytes: &[u8], mut alloc: impl FnMut() -> Option<Self>) -> Option<()> {
        let fits = bytes.len().min(self.tailroom());
        let (here, mut rest) = bytes.split_at(fits);
        self.append_slice(here);
        while !rest.is_empty() {
            let mut segment = alloc()?;
            let (here, after) = rest.split_at(rest.len().min(segment.tailroom()));
            segment.append_slice(here);
            self.chain(segment).ok()?;
            rest = after;
        }
        Some(())
    }
}

impl fmt::Debug for MbufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MbufPool")
            .field("name", &self.name())
            .field("data_room", &self.data_room())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
