//! Buffers of f32 that are kept for the next tensor of similar size.
//!
//! Fresh memory costs a page fault every 4 KiB, which for activations takes as long as computing them. A dropped buffer
//! goes to a free list and is handed out again without being cleared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A buffer of f32 that returns to the free list when dropped.
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
}

/// Smaller buffers are not kept.
const POOLED: usize = 4 * 1024;
/// Bytes of tensors alive now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
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

/// Bytes of tensors alive now.
pub fn live_bytes() -> usize {
    LIVE.load(Ordering::Relaxed)
}

impl Buffer {
    /// `len` elements whose contents are unspecified.
    pub fn uninit(len: usize) -> Buffer {
        let live = LIVE.fetch_add(len * 4, Ordering::Relaxed) + len * 4;
        if len < POOLED {
            return Buffer { data: vec![0.0; len], len };
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let data = free.take(len).unwrap_or_else(|| {
            // Kept buffers that do not fit must not add up beside the live ones.
            free.trim((live / 4) / 4);
            vec![0.0; len]
        });
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
