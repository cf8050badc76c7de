//! Every operator over its own cases: `cargo bench --bench ops -- [FILTER]`.

use criterion::{Criterion, Throughput};
use mirrorgan_engine::engine::ops::cases;
use mirrorgan_engine::engine::tensor::{backward, no_grad};

mod shapes;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("ops");
    for case in cases().into_iter().chain(shapes::cases()) {
        let label = format!("{} {}", case.op, case.name);
        let inputs = case.values(1);
        if case.flops > 0.0 {
            group.throughput(Throughput::Elements(case.flops as u64));
        }
        group.bench_function(format!("{label} forward"), |b| b.iter(|| no_grad(|| (case.run)(&inputs))));
        let leaves: Vec<_> = inputs.iter().map(|x| x.leaf()).collect();
        let targets: Vec<_> =
            leaves.iter().zip(&case.inputs).filter(|(_, i)| i.differentiable).map(|(x, _)| x).collect();
        if targets.is_empty() {
            continue;
        }
        group.bench_function(format!("{label} backward"), |b| {
            b.iter_batched(
                || mirrorgan_engine::engine::ops::reduce::sum(&(case.run)(&leaves)[0]),
                |loss| backward(&loss, &targets),
                criterion::BatchSize::LargeInput,
            )
        });
    }
    group.finish();
    criterion.final_summary();
}
