//! What `engine bench` times, under criterion: `cargo bench --bench ops -- [FILTER]`.
//!
//! `ENGINE_TEST_DEVICE` names the device, as for the tests; without it, the CPU.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use mirrorgan_engine::cli::bench::subjects::{Batch, subjects};
use mirrorgan_engine::cli::bench::trial::Trial;
use mirrorgan_engine::engine::device;
use mirrorgan_engine::engine::tensor::DType;

fn main() {
    let name = std::env::var("ENGINE_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let (device, _) = device::open(&name).unwrap_or_else(|e| panic!("{e}"));
    device::set(&device);
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("ops");
    for subject in subjects(Batch::Of(1), 7_100_000) {
        for pass in &subject.passes {
            if pass.flops > 0.0 {
                group.throughput(Throughput::Elements(pass.flops as u64));
            }
            // Made when first run: a filter leaves most out.
            let mut trial = None;
            group.bench_function(format!("{} {}", subject.name, pass.name), |b| {
                let trial = trial.get_or_insert_with(|| Trial::new(&subject, pass, DType::F32));
                b.iter_custom(|runs| Duration::from_secs_f64(trial.seconds(runs as usize, None)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
