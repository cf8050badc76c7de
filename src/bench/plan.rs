//! How much is timed.

use super::benchmarks::{Batch, Benchmark, Pass};
use crate::engine::device::Device;

/// How often a benchmark runs, and how large the work is, by device.
pub struct Plan {
    /// Runs before timing.
    pub warm_up: usize,
    /// Timed rounds; a round is one or more runs.
    pub rounds: usize,
    /// Seconds that a round takes at least; it has as many runs as that needs.
    pub round: f64,
    /// Benchmarks of more floating-point operations or bytes are left out.
    limits: [f64; 2],
    /// Bytes of the copy that shows what memory can do.
    pub copy: usize,
    /// Rows of the square product that shows what arithmetic can do.
    pub product: usize,
    pub batch: Batch,
    /// Parameters of the optimizer's step.
    pub parameters: usize,
}

/// Whether the driver is tools/cudaemu.
pub fn is_emulated(device: &Device) -> bool {
    matches!(device, Device::Cuda(gpu) if gpu.name().starts_with("cudaemu"))
}

impl Plan {
    /// Without a `batch`, a GPU takes the published ones and everything else takes 1. `quick` runs everything once.
    pub fn of(device: &Device, batch: Option<usize>, quick: bool) -> Plan {
        const NO_LIMITS: [f64; 2] = [f64::INFINITY; 2];
        let given = batch.map(Batch::Of);
        // The parameters of the generator.
        let (batch, parameters) = (given.unwrap_or(Batch::Of(1)), 7_100_000);
        let plan = match device {
            Device::Cpu => Plan {
                warm_up: 1,
                rounds: 7,
                round: 2e-3,
                limits: NO_LIMITS,
                copy: 64 << 20,
                product: 1024,
                batch,
                parameters,
            },
            gpu if is_emulated(gpu) => Plan {
                warm_up: 0,
                rounds: 1,
                round: 0.0,
                limits: [3e7, 16e6],
                copy: 1 << 20,
                product: 64,
                batch,
                parameters: 100_000,
            },
            // The parameters are those of the generator and of three discriminators.
            _ => Plan {
                warm_up: 10,
                rounds: 7,
                round: 1e-3,
                limits: NO_LIMITS,
                copy: 256 << 20,
                product: 8192,
                batch: given.unwrap_or(Batch::Published),
                parameters: 104_700_000,
            },
        };
        if quick { Plan { warm_up: 0, rounds: 1, round: 0.0, ..plan } } else { plan }
    }

    /// Whether a pass is within the limits, by a low estimate of its bytes.
    pub fn fits(&self, benchmark: &Benchmark, pass: &Pass) -> bool {
        let [flops, bytes] = self.limits;
        let elements: usize = benchmark.case.inputs.iter().map(|i| i.shape.count()).sum();
        pass.flops.max(benchmark.case.flops) <= flops && 4.0 * elements as f64 <= bytes
    }
}
