//! A large copy on a GPU.

use std::cell::RefCell;

use super::statistics::least;
use crate::engine::device::cuda::{Buffer, Gpu};

/// Two buffers larger than the second-level cache, one of which is copied to the other.
pub struct DeviceCopy {
    gpu: Gpu,
    from: Buffer,
    to: RefCell<Buffer>,
    bytes: usize,
    seconds: f64,
}

impl DeviceCopy {
    /// Allocates both buffers, of `bytes` each, and times the copy: the least of `rounds`.
    pub fn new(gpu: &Gpu, bytes: usize, rounds: usize) -> DeviceCopy {
        let (mut from, to) = (gpu.scratch(bytes / 4), gpu.scratch(bytes / 4));
        gpu.fill(from.out(), 1.0);
        let mut copy = DeviceCopy { gpu: gpu.clone(), from, to: to.into(), bytes, seconds: 0.0 };
        copy.run();
        copy.seconds = least((0..rounds).map(|_| gpu.time(|| copy.run())));
        copy
    }

    /// Launches one copy; does not wait for it.
    pub fn run(&self) {
        self.gpu.copy(self.to.borrow_mut().out(), self.from.view());
    }

    /// Seconds of one copy.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Bytes read and written in a second.
    pub fn rate(&self) -> f64 {
        2.0 * self.bytes as f64 / self.seconds
    }
}
