//! Buffers of f32 that are kept for the next tensor of similar size.
//!
//! Fresh memory costs a page fault every 4 KiB, which for activations takes as long as computing them. A dropped buffer
//! goes to a free list and is handed out again without being cleared.

use std::alloc::{Layout, alloc_zeroed};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::super::range;
use crate::error::{Error, throw};

/// A buffer of f32 that returns to the free list when dropped.
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
}

/// Smaller buffers are not kept.
const POOLED: usize = 4 * 1024;
/// Bytes that may be kept beyond the peak in any case: the sizes of one caption's tensors differ, and each that is missing
/// costs its page faults.
const SLACK: usize = 64 << 20;
/// Bytes of tensors alive now, and the most that ever were.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static FREE: Mutex<FreeList> = Mutex::new(FreeList { by_size: BTreeMap::new(), elements: 0 });

struct FreeList {
    by_size: BTreeMap<usize, Vec<Vec<f32>>>,
    elements: usize,
}

impl FreeList {
    /// The smallest kept buffer that holds `len` and wastes at most a quarter.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let size = *self.by_size.range(len..=len + len / 4).next()?.0;
        let list = self.by_size.get_mut(&size)?;
        let data = list.pop()?;
        if list.is_empty() {
            self.by_size.remove(&size);
        }
        self.elements -= size;
        Some(data)
    }

    fn give(&mut self, data: Vec<f32>) {
        self.elements += data.len();
        self.by_size.entry(data.len()).or_default().push(data);
    }

    /// Frees the largest kept buffers until at most `limit` elements are kept.
    fn trim(&mut self, limit: usize) {
        while self.elements > limit {
            let Some((&size, _)) = self.by_size.last_key_value() else { return };
            self.take(size);
        }
    }
}

impl Buffer {
    /// `len` elements whose contents are unspecified. Leaves the computation with `OutOfMemory` where there is no room.
    pub fn uninit(len: usize) -> Buffer {
        let live = LIVE.fetch_add(len * 4, Ordering::Relaxed) + len * 4;
        let peak = PEAK.fetch_max(live, Ordering::Relaxed).max(live);
        if len < POOLED {
            return Buffer { data: vec![0.0; len], len };
        }
        let kept = {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = free.take(len);
            if kept.is_none() {
                // Kept buffers that do not fit must not add up. What a step needed at its peak is needed again in the
                // next, so the limit is of that and not of what is alive now.
                free.trim((peak + (peak / 16).max(SLACK)).saturating_sub(live) / 4);
            }
            kept
        };
        let data = kept.or_else(|| zeroed(len)).or_else(|| {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).trim(0);
            zeroed(len)
        });
        let Some(data) = data else {
            LIVE.fetch_sub(len * 4, Ordering::Relaxed);
            throw(Error::OutOfMemory {
                device: "the CPU".to_string(),
                asked: len * 4,
                live: live - len * 4,
                total: total_memory(),
                by: range::path(),
                advice: None,
            })
        };
        Buffer { data, len }
    }

    pub fn from_vec(data: Vec<f32>) -> Buffer {
        LIVE.fetch_add(data.len() * 4, Ordering::Relaxed);
        Buffer { len: data.len(), data }
    }

    pub fn as_slice(&self) -> &[f32] {
        &self.data[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

/// `len` zeros, or none where memory does not suffice. The system clears pages as they are touched.
fn zeroed(len: usize) -> Option<Vec<f32>> {
    let layout = Layout::array::<f32>(len).ok().filter(|layout| layout.size() > 0)?;
    // A system that promises more than it has would end the process later.
    if layout.size() > total_memory() {
        return None;
    }
    // SAFETY: the layout is not empty, and is that of a vector of this capacity; all bits 0 is the float 0.
    unsafe {
        let memory = alloc_zeroed(layout).cast::<f32>();
        (!memory.is_null()).then(|| Vec::from_raw_parts(memory, len, len))
    }
}

/// Bytes that this process may have, where the system tells in Linux's manner: of the machine, or of its own limit.
fn total_memory() -> usize {
    static TOTAL: OnceLock<usize> = OnceLock::new();
    let number = |file: &str, key: &str, unit: usize| -> Option<usize> {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?.to_owned();
        line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(unit)
    };
    *TOTAL.get_or_init(|| {
        let machine = number("/proc/meminfo", "MemTotal:", 1 << 10);
        let limit = number("/proc/self/limits", "Max address space", 1);
        [machine, limit].into_iter().flatten().min().unwrap_or(usize::MAX)
    })
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        let mut copy = Buffer::uninit(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        LIVE.fetch_sub(self.len * 4, Ordering::Relaxed);
        if self.data.len() >= POOLED {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).give(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_the_next_of_like_size() {
        let first = Buffer::uninit(1_000_003);
        let at = first.as_slice().as_ptr();
        drop(first);
        let second = Buffer::uninit(1_000_000);
        assert_eq!(second.as_slice().as_ptr(), at);
        assert_eq!(second.as_slice().len(), 1_000_000);
    }
}
