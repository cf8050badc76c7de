//! Buffers of f32 that share a few large segments of memory.
//!
//! Fresh memory costs a page fault every 4 KiB, which for activations takes as long as computing them, and a pool of buffers of certain
//! sizes keeps what the next step cannot use. Buffers are therefore cut out of segments: the smallest gap that holds one is
//! taken, and neighboring gaps become one again. A step touches the same pages as the one before it.

use std::alloc::{Layout, alloc_zeroed};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::super::range;
use crate::error::{Error, throw};

/// `len` numbers, of a segment or of their own.
pub struct Buffer(Memory);

enum Memory {
    Own(Vec<f32>),
    Part(Part),
}

/// A part of a segment, from `start` on; nothing else refers to its numbers.
struct Part {
    segment: usize,
    start: NonNull<f32>,
    offset: usize,
    len: usize,
}

// SAFETY: a part is its owner's alone, as the numbers of a vector are.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

/// Shorter buffers have memory of their own.
const LEAST: usize = 4 * 1024;
/// Buffers begin at lines of the cache: their lengths are rounded up to so many numbers.
const LINE: usize = 16;
/// Numbers of a segment, unless one buffer is longer. Pages that no buffer has touched cost nothing.
const SEGMENT: usize = 1 << 28;

static ARENA: Mutex<Arena> = Mutex::new(Arena { segments: Vec::new() });

fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Arena {
    segments: Vec<Segment>,
}

struct Segment {
    start: NonNull<f32>,
    /// Where gaps begin, and how long they are.
    gaps: BTreeMap<usize, usize>,
    /// Numbers from the first on that buffers have touched.
    touched: usize,
}

// SAFETY: the segment's numbers are reached through its parts alone.
unsafe impl Send for Segment {}

impl Arena {
    /// A part of `len` numbers, whose contents are unspecified; none where the system has no more.
    fn take(&mut self, len: usize) -> Option<Part> {
        let size = len.next_multiple_of(LINE);
        let segments = self.segments.iter().enumerate();
        let gaps = segments.flat_map(|(i, s)| s.gaps.iter().map(move |(&offset, &gap)| (gap, i, offset)));
        // The end of a segment is its longest gap, and untouched for the most part.
        let (segment, offset) = match gaps.filter(|&(gap, ..)| gap >= size).min() {
            Some((_, segment, offset)) => (segment, offset),
            None => (self.grow(size)?, 0),
        };
        let end = offset + size;
        let beyond = end.saturating_sub(self.segments[segment].touched);
        // A system that promises more than it has would end the process later.
        if self.touched_bytes() + 4 * beyond > total_memory() {
            return None;
        }
        let Segment { start, gaps, touched } = &mut self.segments[segment];
        let gap = gaps.remove(&offset).expect("a gap begins there");
        if gap > size {
            gaps.insert(end, gap - size);
        }
        *touched = end.max(*touched);
        // SAFETY: the gap lies in the segment.
        Some(Part { segment, start: unsafe { start.add(offset) }, offset, len })
    }

    fn give(&mut self, part: &Part) {
        let gaps = &mut self.segments[part.segment].gaps;
        let (mut offset, mut size) = (part.offset, part.len.next_multiple_of(LINE));
        if let Some(next) = gaps.remove(&(offset + size)) {
            size += next;
        }
        if let Some((&before, gap)) =
            gaps.range_mut(..offset).next_back().filter(|(before, gap)| **before + **gap == offset)
        {
            (offset, size) = (before, *gap + size);
        }
        gaps.insert(offset, size);
    }

    /// Adds a segment that holds `size` numbers; returns its place.
    fn grow(&mut self, size: usize) -> Option<usize> {
        let start = |len: usize| Some((zeroed(len)?, len));
        let (start, len) = start(SEGMENT.max(size)).or_else(|| start(size))?;
        self.segments.push(Segment { start, gaps: BTreeMap::from([(0, len)]), touched: 0 });
        Some(self.segments.len() - 1)
    }

    fn touched_bytes(&self) -> usize {
        self.segments.iter().map(|s| 4 * s.touched).sum()
    }

    /// Bytes of the parts in use.
    fn held_bytes(&self) -> usize {
        let gaps =
            self.segments.iter().flat_map(|s| s.gaps.iter().map(|(at, gap)| (at + gap).min(s.touched) - at));
        self.touched_bytes() - 4 * gaps.sum::<usize>()
    }
}

impl Buffer {
    /// `len` elements whose contents are unspecified. Leaves the computation with `OutOfMemory` where there is no room.
    pub fn uninit(len: usize) -> Buffer {
        if len < LEAST {
            return Buffer(Memory::Own(vec![0.0; len]));
        }
        let part = arena().take(len);
        let Some(part) = part else {
            throw(Error::OutOfMemory {
                device: "the CPU".to_string(),
                asked: len * 4,
                live: arena().held_bytes(),
                total: total_memory(),
                by: range::path(),
                advice: None,
            })
        };
        Buffer(Memory::Part(part))
    }

    pub fn from_vec(data: Vec<f32>) -> Buffer {
        Buffer(Memory::Own(data))
    }

    pub fn as_slice(&self) -> &[f32] {
        match &self.0 {
            Memory::Own(data) => data,
            // SAFETY: the part has so many numbers, which the segment set to 0 or a buffer before it wrote.
            Memory::Part(Part { start, len, .. }) => unsafe {
                std::slice::from_raw_parts(start.as_ptr(), *len)
            },
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Memory::Own(data) => data,
            // SAFETY: as above.
            Memory::Part(Part { start, len, .. }) => unsafe {
                std::slice::from_raw_parts_mut(start.as_ptr(), *len)
            },
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        let mut copy = Buffer::uninit(self.as_slice().len());
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        arena().give(self);
    }
}

/// `len` zeros from the beginning of a line on, or none where memory does not suffice. They are never freed. The system clears pages
/// as they are touched, unless it is asked for an alignment: then all are touched now.
fn zeroed(len: usize) -> Option<NonNull<f32>> {
    let layout = Layout::array::<f32>(len.checked_add(LINE)?).ok()?;
    // SAFETY: the layout is not empty; all bits 0 is the float 0.
    let start = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<f32>())?;
    // SAFETY: there is a line more than `len` numbers.
    Some(unsafe { start.add(start.align_offset(4 * LINE)) })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of buffers of random sizes come and go: none shares a number with another, and once all are gone the
    /// segment is one gap again.
    #[test]
    fn parts_are_apart_and_gaps_grow_together() {
        let mut arena = Arena { segments: Vec::new() };
        let mut random = 1_u32;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % below
        };
        let mut alive: Vec<std::mem::ManuallyDrop<Part>> = Vec::new();
        for _ in 0..4000 {
            if alive.len() > 60 || draw(3) == 0 && !alive.is_empty() {
                let part = alive.swap_remove(draw(alive.len()));
                arena.give(&part);
            } else {
                let part = arena.take(1 + draw(5000)).unwrap();
                for other in &alive {
                    let [a, b] = [&part, &**other].map(|p| (p.offset, p.offset + p.len));
                    assert!(a.1 <= b.0 || b.1 <= a.0, "{a:?} and {b:?} overlap");
                }
                assert_eq!(part.start.as_ptr() as usize % (4 * LINE), 0);
                alive.push(std::mem::ManuallyDrop::new(part));
            }
        }
        let held: usize = alive.iter().map(|part| 4 * part.len.next_multiple_of(LINE)).sum();
        assert_eq!(arena.held_bytes(), held);
        let touched = arena.segments[0].touched;
        assert!(touched < 61 * 5008, "{touched} numbers touched for 61 buffers of at most 5008");
        alive.iter().for_each(|part| arena.give(part));
        assert_eq!(arena.segments.len(), 1);
        assert_eq!(arena.segments[0].gaps, BTreeMap::from([(0, SEGMENT)]));
    }

    #[test]
    fn the_smallest_gap_that_holds_a_buffer_is_taken() {
        let mut arena = Arena { segments: Vec::new() };
        let parts = [64, 16, 32, 16, 64].map(|len| std::mem::ManuallyDrop::new(arena.take(len).unwrap()));
        arena.give(&parts[0]);
        arena.give(&parts[2]);
        let next = std::mem::ManuallyDrop::new(arena.take(20).unwrap());
        assert_eq!(next.offset, parts[2].offset);
    }

    #[test]
    fn a_buffer_keeps_what_is_written() {
        let mut buffers: Vec<Buffer> = [1, LEAST - 1, LEAST, 100_003].map(Buffer::uninit).into();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            buffer.as_mut_slice().fill(i as f32);
        }
        buffers.remove(2);
        let copy = buffers[2].clone();
        drop(buffers.remove(1));
        assert!(copy.as_slice().iter().chain(buffers[1].as_slice()).all(|&x| x == 3.0));
        assert_eq!((copy.as_slice().len(), buffers[0].as_slice().len()), (100_003, 1));
    }
}
