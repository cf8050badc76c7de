//! What `engine bench` times, under criterion: `cargo bench --bench ops -- [FILTER]`.
//!
//! `ENGINE_TEST_DEVICE` names the device, as for the tests; without it, the CPU.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use mirrorgan_engine::bench::benchmarks::{Batch, benchmarks};
use mirrorgan_engine::bench::measurement::Measurement;
use mirrorgan_engine::engine::device;
use mirrorgan_engine::engine::tensor::DType;

fn main() {
    let name = std::env::var("ENGINE_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let (device, _) = device::open(&name).unwrap_or_else(|e| panic!("{e}"));
    device::set(&device);
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("ops");
    for benchmark in benchmarks(Batch::Of(1), 7_100_000) {
        for pass in &benchmark.passes {
            if pass.flops > 0.0 {
                group.throughput(Throughput::Elements(pass.flops as u64));
            }
            // Made when first run: a filter leaves most out.
            let mut measurement = None;
            group.bench_function(format!("{} {}", benchmark.name, pass.name), |b| {
                let measurement =
                    measurement.get_or_insert_with(|| Measurement::new(&benchmark, pass, DType::F32));
                b.iter_custom(|runs| Duration::from_secs_f64(measurement.seconds(runs as usize, None)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
