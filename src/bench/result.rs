//! Measuring one pass, and the result.

use super::benchmarks::{Benchmark, Pass};
use super::measurement::{CacheFlush, Measurement};
use super::plan::Plan;
use super::statistics::median;
use crate::engine::device::DType;

/// What was measured of one pass.
pub struct BenchResult {
    /// Of the benchmark.
    pub name: String,
    pub pass: &'static str,
    /// A layer of the networks, or one of an operator's own cases.
    pub layer: bool,
    /// The dtype of activations.
    pub storage: DType,
    /// Seconds of one run: the median over the rounds.
    pub seconds: f64,
    /// Seconds that the host needed to launch it.
    pub host: f64,
    pub bytes: f64,
    pub flops: f64,
    pub executed: f64,
}

impl BenchResult {
    /// Times a pass on the current device.
    pub fn measure(
        benchmark: &Benchmark,
        pass: &Pass,
        storage: DType,
        plan: &Plan,
        flush: Option<CacheFlush>,
    ) -> BenchResult {
        let mut measurement = Measurement::new(benchmark, pass, storage);
        let seconds = median_seconds(&mut measurement, plan, flush);
        BenchResult {
            name: benchmark.name.clone(),
            pass: pass.name,
            layer: benchmark.layer,
            storage: measurement.storage,
            seconds,
            host: measurement.host,
            bytes: measurement.bytes,
            flops: pass.flops,
            executed: pass.executed,
        }
    }

    /// Bytes in a second.
    pub fn byte_rate(&self) -> f64 {
        self.bytes / self.seconds
    }

    /// Floating-point operations of the definition in a second.
    pub fn flop_rate(&self) -> f64 {
        self.flops / self.seconds
    }

    /// Floating-point operations in a second that the algorithm executes.
    pub fn executed_rate(&self) -> f64 {
        self.executed / self.seconds
    }
}

/// The median over rounds of several runs each, of the seconds of one run.
fn median_seconds(measurement: &mut Measurement, plan: &Plan, flush: Option<CacheFlush>) -> f64 {
    const MOST_RUNS: f64 = 50.0;
    /// About the seconds that all rounds together may take, but there are three at least.
    const PATIENCE: f64 = 2.0;
    if plan.warm_up > 0 {
        measurement.seconds(1, flush);
    }
    let once = if plan.round > 0.0 { measurement.seconds(1, flush).max(1e-9) } else { 1.0 };
    if once < PATIENCE / 20.0 && plan.warm_up > 1 {
        measurement.seconds(plan.warm_up, flush);
    }
    let runs = (plan.round / once).ceil().clamp(1.0, MOST_RUNS) as usize;
    let rounds = (PATIENCE / (once * runs as f64)).clamp(3.0, plan.rounds.max(3) as f64) as usize;
    let rounds = rounds.min(plan.rounds);
    median((0..rounds).map(|_| measurement.seconds(runs, flush) / runs as f64).collect())
}
