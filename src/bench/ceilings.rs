//! The rates that a device reaches at best, with which results are compared.

use std::time::Instant;

use rayon::prelude::*;

use super::device_copy::DeviceCopy;
use super::measurement::random;
use super::plan::Plan;
use super::statistics::least;
use crate::engine::device::{Device, Precision};
use crate::engine::ops::matmul::linear;
use crate::engine::tensor::no_grad;

/// Measured on the device at hand.
pub struct Ceilings {
    /// Bytes read and written in a second, by a large copy.
    pub copy: f64,
    /// Floating-point operations in a second, by a large square product.
    pub product: f64,
}

impl Ceilings {
    /// `copy` is the copy of a GPU; without one, the CPU's copy is timed.
    pub fn measure(
        device: &Device,
        plan: &Plan,
        precision: Precision,
        copy: Option<&DeviceCopy>,
    ) -> Ceilings {
        let copy = copy.map_or_else(|| cpu_copy(plan), DeviceCopy::rate);
        Ceilings { copy, product: product(device, plan, precision) }
    }
}

fn product(device: &Device, plan: &Plan, precision: Precision) -> f64 {
    let n = plan.product;
    let (x, w) = (random([n, n], -1.0, 1.0, 0).cast(precision.storage()), random([n, n], -1.0, 1.0, 1));
    let product = || drop(no_grad(|| linear(&x, &w, None)));
    let seconds = || match device {
        Device::Cpu => {
            let start = Instant::now();
            product();
            start.elapsed().as_secs_f64()
        }
        Device::Cuda(gpu) => gpu.time(product),
    };
    (0..plan.warm_up.clamp(1, 3)).for_each(|_| product());
    2.0 * (n as f64).powi(3) / least((0..plan.rounds).map(|_| seconds()))
}

/// Bytes read and written in a second, on all threads.
fn cpu_copy(plan: &Plan) -> f64 {
    const CHUNK: usize = 1 << 16;
    let from = vec![1.0f32; plan.copy / 4];
    let mut to = vec![0.0f32; plan.copy / 4];
    let mut copy = || {
        let start = Instant::now();
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        start.elapsed().as_secs_f64()
    };
    copy();
    2.0 * plan.copy as f64 / least((0..plan.rounds).map(|_| copy()))
}
