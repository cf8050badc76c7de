//! A case's outputs and the gradients of their sum, each output weighed with random numbers.

use mirrorgan_engine::engine::device;
use mirrorgan_engine::engine::ops::Case;
use mirrorgan_engine::engine::tensor::{Device, Rng, Tensor, backward_from};

pub const SEED: u64 = 2019;

/// What the outputs are multiplied by to make one number of them.
pub fn probes(outputs: &[Tensor]) -> Vec<Tensor> {
    let streams = outputs.iter().zip(1000..);
    device::with(&Device::Cpu, || {
        streams.map(|(y, stream)| Rng::new(SEED, stream).uniform(y.shape(), -1.0, 1.0)).collect()
    })
}

/// The outputs, and the gradients of Σ outputs · probes by backward: none for what is constant or was not reached.
pub fn analytic(case: &Case, values: &[Tensor]) -> (Vec<Tensor>, Vec<Option<Tensor>>) {
    let differentiable = case.inputs.iter().zip(values);
    let inputs: Vec<Tensor> =
        differentiable.map(|(i, x)| if i.differentiable { x.leaf() } else { x.detach() }).collect();
    let outputs = (case.run)(&inputs);
    let weights = probes(&outputs).into_iter().zip(&outputs).map(|(p, y)| p.to(&y.device()).cast(y.dtype()));
    let mut grads = backward_from(outputs.iter().zip(weights), &inputs.iter().collect::<Vec<_>>());
    let grads = inputs.iter().map(|x| grads.take(x)).collect();
    (outputs.iter().map(Tensor::detach).collect(), grads)
}
