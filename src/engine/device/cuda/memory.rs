//! The device's memory: blocks that are kept for the next tensor of like size.
//!
//! Asking the driver costs a wait for all work, so a block that is given back is kept. One stream does all work in
//! order, so whoever gets the block next uses it after whoever had it.

use cudarc::driver::result::DriverError;
use cudarc::driver::{result, sys};
use std::collections::BTreeMap;
use std::sync::{LazyLock, MutexGuard, PoisonError};

use super::launch::{In, Out};
use super::{DType, Gpu, described};
use crate::engine::device::range;
use crate::error::{Error, throw};

pub struct Pool {
    /// Addresses of free blocks by their size in bytes.
    free: BTreeMap<usize, Vec<u64>>,
    usage: Usage,
}

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
        Pool { free: BTreeMap::new(), usage: Usage { total, ..Usage::default() } }
    }

    fn take(&mut self, size: usize) -> Option<u64> {
        let address = self.free.get_mut(&size)?.pop()?;
        self.usage.kept -= size;
        Some(address)
    }

    fn give(&mut self, address: u64, size: usize) {
        self.free.entry(size).or_default().push(address);
        self.usage.kept += size;
        self.usage.live -= size;
    }
}

/// A block of the device's memory, seen as elements of one type; it goes back to the pool when dropped.
pub struct Buffer {
    gpu: Gpu,
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

    /// `len` elements whose contents are unspecified.
    pub fn scratch_of(&self, dtype: DType, len: usize) -> Buffer {
        let bytes = len * dtype.bytes();
        let size = if exact() { bytes.max(1) } else { block_size(bytes) };
        let mut pool = self.pool();
        let address = match pool.take(size) {
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
        Buffer { gpu: self.clone(), address, len, dtype, size }
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

    /// Gives what is kept back to the driver.
    pub fn release_kept(&self) {
        self.synchronize();
        let mut pool = self.pool();
        for address in std::mem::take(&mut pool.free).into_values().flatten() {
            // SAFETY: the block came from the driver and nothing uses it.
            if let Err(error) = unsafe { result::free_sync(address) } {
                eprintln!("cuda:{}: cuMemFree failed: {}", self.ordinal(), described(error));
            }
        }
        pool.usage.kept = 0;
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

    /// For writing.
    pub fn out(&mut self) -> Out {
        Out::new(self.address, self.len, self.dtype)
    }

    /// For reading.
    pub fn view(&self) -> In {
        In::new(self.address, self.len, self.dtype)
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
        let mut copy = self.gpu.scratch_of(self.dtype, self.len);
        self.gpu.copy(copy.out(), self.view());
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = self.gpu.pool();
        pool.give(self.address, self.size);
        if exact() {
            pool.take(self.size);
            // SAFETY: the block came from the driver, which waits for the work that uses it. Errors are told by the next
            // call: this may run while a computation is being left because of one.
            let _ = unsafe {
                result::ctx::set_current(self.gpu.0.context).and_then(|()| result::free_sync(self.address))
            };
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
}
