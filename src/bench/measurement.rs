//! Timing one pass of a benchmark on inputs that are in place.

use std::sync::LazyLock;
use std::time::Instant;

use rayon::prelude::*;

use super::benchmarks::{Benchmark, Pass};
use super::device_copy::DeviceCopy;
use crate::engine::device::{self, DType, Device};
use crate::engine::tensor::{Rng, Shape, Tensor, backward_from, no_grad};

/// Sets of inputs that runs take in turn, so that a run's inputs are not in a cache from the run before.
const SETS: usize = 4;
/// About the most bytes that all sets hold together.
const SETS_BYTES: usize = 256 << 20;
/// About the most bytes that recorded graphs hold until their backward is timed.
const WAITING_BYTES: usize = 2 << 30;

pub struct Measurement<'a> {
    benchmark: &'a Benchmark,
    pass: &'a Pass,
    sets: Vec<Vec<Tensor>>,
    /// The outputs' gradients, from which backward starts.
    dys: Vec<Tensor>,
    next: usize,
    /// Bytes read and written if every tensor passes through memory once.
    pub bytes: f64,
    /// The dtype of those inputs and output gradients that may be bf16.
    pub storage: DType,
    /// Seconds that the host needed to launch one run, when last timed on a GPU.
    pub host: f64,
}

impl<'a> Measurement<'a> {
    /// Draws the inputs on the current device; those that may be bf16 have the dtype `storage`.
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

    /// Seconds of `runs` runs together, by the device's clock. On a GPU, `flush` empties its cache before.
    pub fn seconds(&mut self, runs: usize, flush: Option<CacheFlush>) -> f64 {
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

    /// The outputs of one recorded run, and its inputs.
    fn recorded(&mut self) -> (Vec<Tensor>, Vec<Tensor>) {
        let set = self.rotate();
        let leaf =
            |(i, x): (usize, &Tensor)| if self.pass.targets.contains(&i) { x.leaf() } else { x.detach() };
        let leaves: Vec<Tensor> = self.sets[set].iter().enumerate().map(leaf).collect();
        ((self.benchmark.case.run)(&leaves), leaves)
    }
}

/// What a GPU does before a timed round.
#[derive(Clone, Copy)]
pub struct CacheFlush<'a>(pub &'a DeviceCopy);

impl CacheFlush<'_> {
    /// Evicts from the second-level cache what the last round left there.
    fn flush(self) {
        self.0.run();
    }

    /// Keeps the device busy for about `seconds`, in which the host launches the round: the device then never waits
    /// for a launch.
    fn occupy(self, seconds: f64) {
        const MARGIN: f64 = 1.2;
        const MOST_COPIES: f64 = 100.0;
        let copies = (MARGIN * seconds / self.0.seconds()).ceil().min(MOST_COPIES) as usize;
        (1..copies).for_each(|_| self.0.run());
    }
}

/// Seconds of `f`, by the device's clock, and the seconds that the host needed to launch one run. `host` is the latter
/// from an earlier round, or 0.
fn timed(runs: usize, host: f64, flush: Option<CacheFlush>, f: impl FnOnce()) -> (f64, f64) {
    let Device::Cuda(gpu) = device::current() else {
        let start = Instant::now();
        f();
        return (start.elapsed().as_secs_f64(), 0.0);
    };
    gpu.synchronize();
    if let Some(flush) = flush {
        flush.flush();
        flush.occupy(host * runs as f64);
    }
    let mut launching = 0.0;
    let seconds = gpu.time(|| {
        let start = Instant::now();
        f();
        launching = start.elapsed().as_secs_f64();
    });
    (seconds, launching / runs as f64)
}

fn bytes(x: &Tensor) -> usize {
    x.len() * x.dtype().bytes()
}

/// Uniform in [lo, hi). The numbers are drawn once and repeated: to draw hundreds of megabytes anew would take longer
/// than what is timed. The period is odd, so that no two rows are equal.
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
