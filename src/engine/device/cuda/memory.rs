//! The device's memory: blocks that are kept for the next tensor of like size.
//!
//! Asking the driver costs a wait for all work, so a block that is given back is kept. One stream does all work in
//! order, so whoever gets the block next uses it after whoever had it.

use cudarc::driver::result::DriverError;
use cudarc::driver::{result, sys};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, MutexGuard, PoisonError};

use super::{DType, Gpu, described};
use crate::engine::device::range;
use crate::error::{Error, note, throw};

/// Addresses of free blocks by their size in bytes.
type Free = BTreeMap<usize, Vec<u64>>;

pub struct Pool {
    /// What each arena keeps; the device's own is [`SHARED`].
    free: HashMap<u64, Free>,
    usage: Usage,
}

/// The arena of all that is made outside of one.
const SHARED: u64 = 0;

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held by tensors now.
    pub live: usize,
    /// The most that was ever held.
    pub peak: usize,
    /// Kept for tensors to come.
    pub kept: usize,
    /// What the device has.
    pub total: usize,
}

/// Blocks below this size are multiples of [`STEP`], others waste at most an eighth.
const LARGE: usize = 1 << 20;
const STEP: usize = 512;

/// `ENGINE_EXACT_MEMORY=1` asks the driver for each block and gives it back at once: a checking driver then sees every
/// step over an end.
fn exact() -> bool {
    static EXACT: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("ENGINE_EXACT_MEMORY").is_some_and(|v| v == "1"));
    *EXACT
}

/// The size of the block that serves a request.
fn block_size(bytes: usize) -> usize {
    if bytes <= LARGE {
        bytes.max(1).next_multiple_of(STEP)
    } else {
        bytes.next_multiple_of(1 << (bytes.ilog2() - 3))
    }
}

impl Pool {
    pub fn new(total: usize) -> Pool {
        Pool { free: HashMap::from([(SHARED, Free::new())]), usage: Usage { total, ..Usage::default() } }
    }

    fn take(&mut self, arena: u64, size: usize) -> Option<u64> {
        let address = self.free.get_mut(&arena)?.get_mut(&size)?.pop()?;
        self.usage.kept -= size;
        Some(address)
    }

    /// Keeps a block for its arena, or for everyone where that is gone; says for which.
    fn give(&mut self, arena: u64, address: u64, size: usize) -> u64 {
        let arena = if self.free.contains_key(&arena) { arena } else { SHARED };
        self.free.entry(arena).or_default().entry(size).or_default().push(address);
        self.usage.kept += size;
        self.usage.live -= size;
        arena
    }

    fn close(&mut self, arena: u64) {
        for (size, mut blocks) in self.free.remove(&arena).unwrap_or_default() {
            self.free.entry(SHARED).or_default().entry(size).or_default().append(&mut blocks);
        }
    }
}

/// Memory of its own for a captured graph: a block that was made inside is given out again only inside, so that
/// nobody else writes what a replay uses. When the arena is dropped, its blocks serve everyone.
pub struct Arena {
    gpu: Gpu,
    id: u64,
}

thread_local! {
    /// Device and id of the arenas that this thread is inside of, innermost last.
    static INSIDE: RefCell<Vec<(usize, u64)>> = const { RefCell::new(Vec::new()) };
}

/// While this lives, the thread's new blocks of the device come from an arena.
#[must_use = "an arena is left when its guard is dropped"]
pub struct Inside<'a>(std::marker::PhantomData<(&'a Arena, *const ())>);

impl Arena {
    pub fn enter(&self) -> Inside<'_> {
        INSIDE.with_borrow_mut(|inside| inside.push((self.gpu.ordinal(), self.id)));
        Inside(std::marker::PhantomData)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(|inside| inside.pop());
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.gpu.pool().close(self.id);
    }
}

/// A block of the device's memory, seen as elements of one type; it goes back to its arena when dropped.
pub struct Buffer {
    gpu: Gpu,
    arena: u64,
    address: u64,
    len: usize,
    dtype: DType,
    size: usize,
}

impl Gpu {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn usage(&self) -> Usage {
        self.pool().usage
    }

    pub fn arena(&self) -> Arena {
        static NEXT: AtomicU64 = AtomicU64::new(SHARED + 1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.pool().free.insert(id, Free::new());
        Arena { gpu: self.clone(), id }
    }

    /// The arena that this thread is inside of.
    fn current_arena(&self) -> u64 {
        let of_this = |&&(ordinal, _): &&(usize, u64)| ordinal == self.ordinal();
        INSIDE.with_borrow(|inside| inside.iter().rev().find(of_this).map_or(SHARED, |&(_, id)| id))
    }

    /// `len` elements whose contents are unspecified.
    pub fn scratch_of(&self, dtype: DType, len: usize) -> Buffer {
        let bytes = len * dtype.bytes();
        let size = if exact() { bytes.max(1) } else { block_size(bytes) };
        let arena = self.current_arena();
        let mut pool = self.pool();
        let address = match pool.take(arena, size) {
            Some(address) => address,
            None => {
                drop(pool);
                let address = self.new_block(size);
                pool = self.pool();
                address
            }
        };
        pool.usage.live += size;
        pool.usage.peak = pool.usage.peak.max(pool.usage.live);
        Buffer { gpu: self.clone(), arena, address, len, dtype, size }
    }

    /// `len` numbers of f32 whose contents are unspecified.
    pub fn scratch(&self, len: usize) -> Buffer {
        self.scratch_of(DType::F32, len)
    }

    /// A new block; where there is no room, what is kept is given back to the driver first.
    fn new_block(&self, size: usize) -> u64 {
        self.bind();
        let ask = || -> Result<u64, DriverError> {
            // SAFETY: nothing is read from the block before it was written.
            unsafe { result::malloc_sync(size) }
        };
        let full = |e: &DriverError| e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        match ask() {
            Err(error) if full(&error) => {
                self.release_kept();
                ask().unwrap_or_else(|error| {
                    if full(&error) { self.out_of_memory(size) } else { self.check("cuMemAlloc", Err(error)) }
                })
            }
            other => self.check("cuMemAlloc", other),
        }
    }

    /// Gives what is kept back to the driver, but for what arenas keep: graphs use it.
    pub fn release_kept(&self) {
        self.synchronize();
        let mut pool = self.pool();
        let shared = pool.free.get_mut(&SHARED).map(std::mem::take).unwrap_or_default();
        for (size, blocks) in shared {
            pool.usage.kept -= size * blocks.len();
            for address in blocks {
                // SAFETY: the block came from the driver and nothing uses it.
                if let Err(error) = unsafe { result::free_sync(address) } {
                    note(format_args!("cuda:{}: cuMemFree failed: {}", self.ordinal(), described(error)));
                }
            }
        }
    }

    fn out_of_memory(&self, asked: usize) -> ! {
        let Usage { live, total, .. } = self.usage();
        throw(Error::OutOfMemory {
            device: format!("{self:?}"),
            asked,
            live,
            total,
            by: range::path(),
            advice: None,
        })
    }

    /// A buffer with these values.
    pub fn upload_f32(&self, values: &[f32]) -> Buffer {
        let buffer = self.scratch(values.len());
        self.write(buffer.address, values);
        buffer
    }
}

impl Buffer {
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The values, widened to f32, once all work before is done.
    pub fn download(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => {
                let mut values = vec![0.0f32; self.len];
                self.gpu.read(&mut values, self.address);
                values
            }
            DType::Bf16 => {
                let mut values = vec![half::bf16::ZERO; self.len];
                self.gpu.read(&mut values, self.address);
                values.into_iter().map(half::bf16::to_f32).collect()
            }
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        let copy = self.gpu.scratch_of(self.dtype, self.len);
        self.gpu.copy_memory(copy.address, self.address, self.len * self.dtype.bytes());
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = self.gpu.pool();
        let arena = pool.give(self.arena, self.address, self.size);
        if exact() && arena == SHARED {
            pool.take(SHARED, self.size);
            // SAFETY: the block came from the driver, which waits for the work that uses it. Errors are told by the next
            // call: this may run while a computation is being left because of one.
            let _ = self.gpu.make_current().and_then(|()| unsafe { result::free_sync(self.address) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_waste_at_most_an_eighth_beyond_the_small() {
        for bytes in [1, 511, 512, 513, 4096, LARGE, LARGE + 1, 3_000_001, 1 << 30, (1 << 30) + 1] {
            let size = block_size(bytes);
            assert!(size >= bytes && size.is_multiple_of(STEP), "{bytes} {size}");
            assert!(bytes < LARGE || size - bytes <= bytes / 8, "{bytes} {size}");
            assert_eq!(block_size(size), size);
        }
    }

    #[test]
    fn an_arenas_blocks_are_given_out_inside_it_alone() {
        let mut pool = Pool::new(1 << 20);
        pool.free.insert(7, Free::new());
        pool.usage.live = 3 * STEP;
        pool.give(SHARED, 0x1000, STEP);
        pool.give(7, 0x2000, STEP);
        assert_eq!((pool.take(7, STEP), pool.take(7, STEP)), (Some(0x2000), None));
        assert_eq!((pool.take(SHARED, STEP), pool.take(SHARED, STEP)), (Some(0x1000), None));
        pool.usage.live = 3 * STEP;
        pool.give(7, 0x2000, STEP);
        pool.close(7);
        pool.give(7, 0x3000, STEP);
        assert_eq!(pool.usage, Usage { live: STEP, kept: 2 * STEP, ..pool.usage });
        assert_eq!((pool.take(SHARED, STEP), pool.take(SHARED, STEP)), (Some(0x3000), Some(0x2000)));
    }
}
