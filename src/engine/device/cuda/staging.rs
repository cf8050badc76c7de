//! Values on their way to the device, in a ring of pinned memory.
//!
//! CUDA does not promise that an asynchronous copy from pageable memory has read its source when the call returns. So
//! values are put into pinned memory first, and each part of the ring is guarded by an event: it is written again when
//! the device has passed the copy. A captured graph would read the ring at every replay: nothing is uploaded in one.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::PoisonError;

use bytemuck::Pod;
use cudarc::driver::result::DriverError;
use cudarc::driver::{result, sys};

use super::Gpu;

/// Bytes of the ring, and the most that one copy takes of it.
const RING: usize = 32 << 20;
const PIECE: usize = RING / 4;
/// Parts begin at multiples of this.
const ALIGN: usize = 256;
/// Copies that may be under way.
const COPIES: usize = 256;

/// Pinned memory, asked for at the first copy and kept as long as the process lives.
#[derive(Default)]
pub struct Staging {
    memory: Option<Pinned>,
    ring: Ring<sys::CUevent>,
    /// Events that guard nothing now.
    events: Vec<sys::CUevent>,
}

#[derive(Clone, Copy)]
struct Pinned(*mut u8);

// SAFETY: pinned memory and events are handles that the driver lets every thread use; a lock guards them.
unsafe impl Send for Staging {}

/// Which parts of the ring are in use, oldest first, each with what tells that it is free again.
struct Ring<E> {
    head: usize,
    used: VecDeque<(Range<usize>, E)>,
}

impl<E> Default for Ring<E> {
    fn default() -> Ring<E> {
        Ring { head: 0, used: VecDeque::new() }
    }
}

impl<E> Ring<E> {
    /// The next part of `bytes` bytes; `wait` is called for those before it that still hold some of it.
    fn take<X>(&mut self, bytes: usize, mut wait: impl FnMut(E) -> Result<(), X>) -> Result<Range<usize>, X> {
        let start = if self.head + bytes <= RING { self.head } else { 0 };
        let part = start..start + bytes;
        let meets = |used: &Range<usize>| used.start < part.end && part.start < used.end;
        while self.used.len() >= COPIES || self.used.iter().any(|(used, _)| meets(used)) {
            let Some((_, guard)) = self.used.pop_front() else { break };
            wait(guard)?;
        }
        self.head = part.end.next_multiple_of(ALIGN);
        Ok(part)
    }

    fn guard(&mut self, part: Range<usize>, guard: E) {
        self.used.push_back((part, guard));
    }
}

impl Staging {
    /// Takes bytes into the ring and copies them to `to` in the stream.
    ///
    /// # Safety
    /// The context is the calling thread's; `to` has room for the bytes.
    unsafe fn send(&mut self, to: u64, bytes: &[u8], stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: driver calls in their documented order; a part of the ring is free when `take` gives it.
        unsafe {
            let Pinned(memory) = match self.memory {
                Some(memory) => memory,
                None => *self.memory.insert(Pinned(result::malloc_host(RING, 0)?.cast())),
            };
            let events = &mut self.events;
            let part = self.ring.take(bytes.len(), |event| {
                result::event::synchronize(event)?;
                events.push(event);
                Ok(())
            })?;
            let from = memory.add(part.start);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), from, bytes.len());
            sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes.len(), stream).result()?;
            let event = match self.events.pop() {
                Some(event) => event,
                None => result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
            };
            result::event::record(event, stream)?;
            self.ring.guard(part, event);
        }
        Ok(())
    }
}

impl Gpu {
    /// Takes values from the host; they may be freed or changed at once.
    pub(super) fn write<T: Pod>(&self, to: u64, values: &[T]) {
        if values.is_empty() {
            return;
        }
        self.bind();
        let mut staging = self.0.staging.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, piece) in bytemuck::cast_slice::<T, u8>(values).chunks(PIECE).enumerate() {
            // SAFETY: `to` has room for the values, the context was just bound.
            let sent = unsafe { staging.send(to + (at * PIECE) as u64, piece, self.0.stream) };
            self.check("cuMemcpyHtoDAsync", sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_given_out_again_only_when_all_that_hold_it_are_waited_for() {
        let mut ring = Ring::default();
        let mut under_way: Vec<(Range<usize>, usize)> = Vec::new();
        let mut size = 1usize;
        for n in 0..5_000 {
            size = (size * 48_271 + 11) % PIECE;
            let bytes = if n % 3 == 0 { size / 4096 + 1 } else { size + 1 };
            let done = std::cell::RefCell::new(Vec::new());
            let part = ring
                .take(bytes, |guard| {
                    done.borrow_mut().push(guard);
                    Ok::<(), ()>(())
                })
                .unwrap();
            under_way.retain(|(_, guard)| !done.borrow().contains(guard));
            assert!(part.len() == bytes && part.end <= RING && part.start.is_multiple_of(ALIGN));
            assert!(under_way.iter().all(|(used, _)| used.end <= part.start || part.end <= used.start));
            under_way.push((part.clone(), n));
            ring.guard(part, n);
            assert!(under_way.len() <= COPIES);
        }
    }
}
