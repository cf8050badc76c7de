//! Counts and times for Prometheus, in its text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// How many values lie in each bucket, and their sum.
struct Histogram {
    bounds: &'static [f64],
    state: Mutex<(Vec<u64>, f64)>,
}

pub(super) struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// From a request's head to the head of its answer.
    answered: Histogram,
    /// From the queue to the last picture.
    generated: Histogram,
    batches: Histogram,
    batch_seconds: Histogram,
    images: AtomicU64,
    /// Requests for pictures that are neither finished nor given up.
    pub in_flight: AtomicUsize,
}

const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, state: Mutex::new((vec![0; bounds.len() + 1], 0.0)) }
    }

    fn add(&self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0[bucket] += 1;
        state.1 += value;
    }

    fn mean(&self) -> Option<f64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count: u64 = state.0.iter().sum();
        (count > 0).then(|| state.1 / count as f64)
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&state.0) {
            below += count;
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let total: u64 = state.0.iter().sum();
        let sum = state.1;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}");
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        Metrics {
            requests: Mutex::default(),
            answered: Histogram::new(SECONDS),
            generated: Histogram::new(SECONDS),
            batches: Histogram::new(SIZES),
            batch_seconds: Histogram::new(SECONDS),
            images: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// A request was answered. `route` is one of ours, so that strangers cannot add rows.
    pub fn answered(&self, route: &'static str, status: u16, seconds: f64) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
        drop(requests);
        self.answered.add(seconds);
    }

    pub fn generated(&self, seconds: f64) {
        self.generated.add(seconds);
    }

    pub fn batch(&self, images: usize, seconds: f64) {
        self.images.fetch_add(images as u64, Relaxed);
        self.batches.add(images as f64);
        self.batch_seconds.add(seconds);
    }

    /// Seconds that `batches` more would take, from what they took so far.
    pub fn estimate(&self, batches: usize) -> u64 {
        let seconds = self.batch_seconds.mean().unwrap_or(1.0) * batches as f64;
        seconds.ceil().clamp(1.0, 60.0) as u64
    }

    /// All of it, with how many requests wait.
    pub fn text(&self, waiting: usize) -> String {
        let mut out = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one("engine_queue_length", "gauge", "Requests that wait for the device.", waiting as u64);
        let in_flight = self.in_flight.load(Relaxed) as u64;
        one("engine_requests_in_flight", "gauge", "Requests for pictures, waiting or at work.", in_flight);
        one("engine_images_total", "counter", "Pictures generated.", self.images.load(Relaxed));
        let name = "engine_http_requests_total";
        let _ = writeln!(out, "# HELP {name} Requests answered.\n# TYPE {name} counter");
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "{name}{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        self.answered.write(
            "engine_http_request_seconds",
            "From a request to the head of its answer.",
            &mut out,
        );
        self.generated.write("engine_generation_seconds", "From the queue to the last picture.", &mut out);
        self.batches.write("engine_batch_size", "Pictures computed together.", &mut out);
        self.batch_seconds.write("engine_batch_seconds", "Time of a batch on the device.", &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::new();
        [1, 3, 100].into_iter().for_each(|images| metrics.batch(images, 0.02));
        metrics.answered("/health", 200, 0.001);
        let text = metrics.text(7);
        for line in [
            "engine_queue_length 7",
            "engine_images_total 104",
            "engine_http_requests_total{route=\"/health\",status=\"200\"} 1",
            "engine_batch_size_bucket{le=\"1\"} 1",
            "engine_batch_size_bucket{le=\"4\"} 2",
            "engine_batch_size_bucket{le=\"64\"} 2",
            "engine_batch_size_bucket{le=\"+Inf\"} 3",
            "engine_batch_size_sum 104",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!((metrics.estimate(1), metrics.estimate(100_000)), (1, 60));
    }
}
