//! Runs kernels on whatever CUDA driver the loader finds, hardware or emulator, and checks their results against numbers
//! computed here.  One line a trial: `ok NAME`, `skipped NAME: why` or `FAILED NAME: why`; exit status 1 after a failure.
//!
//! `trial [FILTER...]` runs the trials whose names contain a filter; `trial speed` measures some instead.
//!
//! NVRTC is found by the loader too.  Trials that need NVIDIA's headers look in `CUDA_INC`, then where `tools/nvrtc` and
//! CUDA's installer put them.

mod formats;
mod gpu;
mod matrices;
mod programs;

use gpu::{Gpu, Outcome};

/// What a trial needs of the device and the machine.
enum Need {
    /// This compute capability or a higher one.
    Capability(i32),
    /// sm_90a's instructions.
    Hopper,
    /// NVIDIA's headers.
    Headers,
}

impl Need {
    fn missing(&self, gpu: &Gpu) -> Option<String> {
        match self {
            Need::Capability(least) if gpu.capability < *least => {
                Some(format!("compute capability {}, not {least}", gpu.capability))
            }
            Need::Hopper if gpu.capability != 90 => Some(format!("compute capability {}, not 90", gpu.capability)),
            Need::Headers if gpu.headers.is_none() => Some("no CUDA headers (CUDA_INC)".into()),
            _ => None,
        }
    }
}

struct Trial {
    name: String,
    needs: Vec<Need>,
    run: Box<dyn Fn(&Gpu) -> Outcome>,
}

fn trials() -> Vec<Trial> {
    let mut trials = vec![];
    let mut add = |name: &str, needs: Vec<Need>, run: Box<dyn Fn(&Gpu) -> Outcome>| {
        trials.push(Trial { name: name.into(), needs, run });
    };
    add("gemm16", vec![], Box::new(|gpu| programs::gemm(gpu, "gemm16", (16, 16), 16, 0)));
    add("gemm64", vec![], Box::new(|gpu| programs::gemm(gpu, "gemm64", (256, 1), 64, 8192)));
    add("softmax", vec![], Box::new(programs::softmax));
    add("histogram", vec![], Box::new(programs::histogram));
    add("embedding_gradient", vec![], Box::new(programs::embedding_gradient));
    add("maths", vec![], Box::new(programs::maths));
    add("graph", vec![], Box::new(programs::graph));
    add("streams", vec![], Box::new(programs::streams));
    add("half_arithmetic", vec![Need::Headers, Need::Capability(80)], Box::new(programs::half_arithmetic));
    add("wmma_gemm", vec![Need::Headers, Need::Capability(80)], Box::new(matrices::wmma_gemm));
    for name in ["mma_gemm_f16", "mma_gemm_bf16"] {
        add(name, vec![Need::Capability(80)], Box::new(|gpu| matrices::mma_gemm(gpu, name)));
    }
    for shape in matrices::SHAPES {
        add(&shape.name(), vec![Need::Capability(shape.capability)], Box::new(|gpu| matrices::mma(gpu, shape)));
    }
    for name in ["wgmma_f16", "wgmma_bf16", "wgmma_tf32"] {
        add(name, vec![Need::Hopper], Box::new(|gpu| matrices::wgmma(gpu, name)));
    }
    add("tma_wgmma", vec![Need::Hopper], Box::new(matrices::tma_wgmma));
    trials
}

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).collect();
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(why) => {
            println!("FAILED device: {why}");
            std::process::exit(1);
        }
    };
    println!("{}, compute capability {}, driver {}, NVRTC {}", gpu.name, gpu.capability, gpu.driver, gpu.nvrtc);
    if filters == ["speed"] {
        programs::speed(&gpu).expect("speed");
        return;
    }
    let is_wanted = |t: &Trial| filters.is_empty() || filters.iter().any(|f| t.name.contains(f));
    let (mut ran, mut failed) = (0, 0);
    for trial in trials().iter().filter(|t| is_wanted(t)) {
        let name = &trial.name;
        if let Some(why) = trial.needs.iter().find_map(|need| need.missing(&gpu)) {
            println!("skipped {name}: {why}");
            continue;
        }
        ran += 1;
        match (trial.run)(&gpu) {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                failed += 1;
                println!("FAILED {name}: {why}");
            }
        }
    }
    println!("{ran} ran, {failed} failed");
    std::process::exit((failed > 0 || ran == 0) as i32);
}
