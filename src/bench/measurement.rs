//! One pass of a benchmark with its inputs in place, run and timed.

use std::sync::LazyLock;
use std::time::Instant;

use rayon::prelude::*;

use super::benchmarks::{Benchmark, Pass};
use crate::engine::device::cuda::{Buffer, Gpu};
use crate::engine::device::{self, DType, Device};
use crate::engine::tensor::{Rng, Shape, Tensor, backward_from, no_grad};

/// Inputs are rotated, so that what a run reads was not left in a cache by the run before.
const SETS: usize = 4;
/// Sets of inputs together are at most about so large.
const SETS_BYTES: usize = 256 << 20;
/// Graphs that wait for their backward hold at most about so much.
const WAITING_BYTES: usize = 2 << 30;

pub struct Measurement<'a> {
    benchmark: &'a Benchmark,
    pass: &'a Pass,
    sets: Vec<Vec<Tensor>>,
    /// What backward starts from, one an output.
    dys: Vec<Tensor>,
    next: usize,
    /// Read and written if every tensor goes through memory once.
    pub bytes: f64,
    /// Of inputs and gradients of outputs.
    pub storage: DType,
    /// Seconds the host needed to ask for one run, when last timed on a GPU.
    pub host: f64,
}

impl<'a> Measurement<'a> {
    /// Draws the inputs on the current device; those that may be stored as bf16 are, if that is asked for.
    pub fn new(benchmark: &'a Benchmark, pass: &'a Pass, storage: DType) -> Measurement<'a> {
        let case = &benchmark.case;
        let elements: usize = case.inputs.iter().map(|i| i.shape.count()).sum();
        let sets = (SETS_BYTES / (4 * elements).max(1)).clamp(1, SETS);
        let draw = |set: usize| -> Vec<Tensor> {
            let drawn = case.inputs.iter().enumerate().map(|(i, input)| {
                let x = random(input.shape, input.lo, input.hi, set * case.inputs.len() + i);
                if case.bf16.contains(&i) { x.cast(storage) } else { x }
            });
            drawn.collect()
        };
        let sets: Vec<Vec<Tensor>> = (0..sets).map(draw).collect();
        let outputs = no_grad(|| (case.run)(&sets[0]));
        let dy = |y: &Tensor| random(y.shape(), -1.0, 1.0, 1000).cast(y.dtype());
        let dys: Vec<Tensor> =
            if pass.targets.is_empty() { Vec::new() } else { outputs.iter().map(dy).collect() };
        let read = sets[0].iter().chain(if dys.is_empty() { &outputs } else { &dys });
        let gradients = pass.targets.iter().map(|&i| &sets[0][i]);
        let bytes: usize = read.chain(gradients).map(bytes).sum();
        Measurement {
            benchmark,
            pass,
            storage: if case.bf16.is_empty() { DType::F32 } else { storage },
            sets,
            dys,
            next: 0,
            bytes: bytes as f64 + benchmark.kept,
            host: 0.0,
        }
    }

    /// Seconds of so many runs together, by the device's clock.
    pub fn seconds(&mut self, runs: usize, flush: Option<&CacheFlush>) -> f64 {
        if self.pass.targets.is_empty() {
            let sets: Vec<usize> = (0..runs).map(|_| self.rotate()).collect();
            let run = |set: &usize| drop((self.benchmark.case.run)(&self.sets[*set]));
            let (seconds, host) = no_grad(|| timed(runs, self.host, flush, || sets.iter().for_each(run)));
            self.host = host;
            return seconds;
        }
        let waiting = (WAITING_BYTES / (self.bytes as usize).max(1)).clamp(1, 16);
        let (mut seconds, mut left) = (0.0, runs);
        while left > 0 {
            let now = left.min(waiting);
            let graphs: Vec<_> = (0..now).map(|_| self.recorded()).collect();
            let run = |(outputs, leaves): (Vec<Tensor>, Vec<Tensor>)| {
                let targets: Vec<&Tensor> = self.pass.targets.iter().map(|&i| &leaves[i]).collect();
                drop(backward_from(outputs.iter().zip(self.dys.iter().cloned()), &targets));
            };
            let (more, host) = timed(now, self.host, flush, || graphs.into_iter().for_each(run));
            (seconds, left, self.host) = (seconds + more, left - now, host);
        }
        seconds
    }

    fn rotate(&mut self) -> usize {
        self.next = (self.next + 1) % self.sets.len();
        self.next
    }

    /// One run's outputs, and its inputs.
    fn recorded(&mut self) -> (Vec<Tensor>, Vec<Tensor>) {
        let set = self.rotate();
        let leaf =
            |(i, x): (usize, &Tensor)| if self.pass.targets.contains(&i) { x.leaf() } else { x.detach() };
        let leaves: Vec<Tensor> = self.sets[set].iter().enumerate().map(leaf).collect();
        ((self.benchmark.case.run)(&leaves), leaves)
    }
}

/// Seconds of `f`, by the device's clock, and the host's seconds a run.
fn timed(runs: usize, host: f64, flush: Option<&CacheFlush>, f: impl FnOnce()) -> (f64, f64) {
    let Device::Cuda(gpu) = device::current() else {
        let start = Instant::now();
        f();
        return (start.elapsed().as_secs_f64(), 0.0);
    };
    gpu.synchronize();
    if let Some(flush) = flush {
        flush.occupy(host * runs as f64);
    }
    let mut asking = 0.0;
    let seconds = gpu.time(|| {
        let start = Instant::now();
        f();
        asking = start.elapsed().as_secs_f64();
    });
    (seconds, asking / runs as f64)
}

/// A large copy on the device: it empties the second-level cache, keeps the device busy while the host runs ahead,
/// and shows what memory can do.
pub struct CacheFlush {
    gpu: Gpu,
    from: Buffer,
    to: std::cell::RefCell<Buffer>,
    bytes: usize,
    /// Seconds of one copy, at best.
    pub seconds: f64,
}

impl CacheFlush {
    pub fn new(gpu: &Gpu, bytes: usize, rounds: usize) -> CacheFlush {
        let (mut from, to) = (gpu.scratch(bytes / 4), gpu.scratch(bytes / 4));
        gpu.fill(from.out(), 1.0);
        let mut flush = CacheFlush { gpu: gpu.clone(), from, to: to.into(), bytes, seconds: 0.0 };
        flush.copy();
        flush.seconds = least((0..rounds).map(|_| gpu.time(|| flush.copy())));
        flush
    }

    /// Bytes read and written a second.
    pub fn rate(&self) -> f64 {
        2.0 * self.bytes as f64 / self.seconds
    }

    fn copy(&self) {
        self.gpu.copy(self.to.borrow_mut().out(), self.from.view());
    }

    /// Enough copies to keep the device busy as long as that, and at least one.
    fn occupy(&self, seconds: f64) {
        let copies = (1.2 * seconds / self.seconds).ceil().clamp(1.0, 100.0) as usize;
        (0..copies).for_each(|_| self.copy());
    }
}

pub fn bytes(x: &Tensor) -> usize {
    x.len() * x.dtype().bytes()
}

pub fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Uniform in [lo, hi): numbers drawn once and repeated, as drawing hundreds of megabytes anew would take longer than
/// what is timed. The period is odd, so no two rows are alike.
pub fn random(shape: impl Into<Shape>, lo: f32, hi: f32, salt: usize) -> Tensor {
    static DRAWN: LazyLock<Vec<f32>> = LazyLock::new(|| {
        device::with(&Device::Cpu, || Rng::new(7, 0).uniform([1_000_003], 0.0, 1.0).to_vec())
    });
    const CHUNK: usize = 1 << 16;
    let shape = shape.into();
    let drawn = &**DRAWN;
    let mut values = vec![0.0f32; shape.count()];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let start = (chunk * CHUNK + salt * 7919) % drawn.len();
        let numbers = drawn[start..].iter().chain(drawn);
        values.iter_mut().zip(numbers).for_each(|(v, n)| *v = lo + (hi - lo) * n);
    });
    Tensor::from_vec(values, shape)
}
