//! A case: an operator on inputs of certain shapes. One table serves the gradient check, the parity of devices
//! and the benchmark.

use crate::engine::tensor::{Rng, Shape, Tensor};

type Run = Box<dyn Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync>;

pub struct Case {
    /// The public function under test, as written in its file.
    pub op: &'static str,
    /// What distinguishes this case from the others of the operator.
    pub name: &'static str,
    pub inputs: Vec<Input>,
    pub run: Run,
    /// Relative error allowed between a gradient and its finite difference.
    pub tolerance: f32,
    /// Floating-point operations of the forward pass; 0 where bytes are what counts.
    pub flops: f64,
    /// Too large for finite differences: for parity and benchmarks alone.
    pub large: bool,
    /// The inputs that may be stored as bf16; none where the operator has no such storage.
    pub bf16: &'static [usize],
}

/// A tensor of uniform random numbers in [lo, hi).
pub struct Input {
    pub shape: Shape,
    pub lo: f32,
    pub hi: f32,
    pub differentiable: bool,
}

impl Case {
    pub fn new(
        op: &'static str,
        name: &'static str,
        run: impl Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync + 'static,
    ) -> Case {
        Case {
            op,
            name,
            inputs: Vec::new(),
            run: Box::new(run),
            tolerance: 1e-2,
            flops: 0.0,
            large: false,
            bf16: &[],
        }
    }

    /// Adds an input in [-1, 1) whose gradient is checked.
    pub fn input(self, shape: impl Into<Shape>) -> Case {
        self.input_in(shape, -1.0, 1.0)
    }

    pub fn input_in(mut self, shape: impl Into<Shape>, lo: f32, hi: f32) -> Case {
        self.inputs.push(Input { shape: shape.into(), lo, hi, differentiable: true });
        self
    }

    /// Adds an input that has no gradient.
    pub fn constant(mut self, shape: impl Into<Shape>, lo: f32, hi: f32) -> Case {
        self.inputs.push(Input { shape: shape.into(), lo, hi, differentiable: false });
        self
    }

    pub fn tolerance(mut self, tolerance: f32) -> Case {
        self.tolerance = tolerance;
        self
    }

    pub fn flops(mut self, flops: f64) -> Case {
        self.flops = flops;
        self
    }

    /// Leaves the case out of the gradient check.
    pub fn large(mut self) -> Case {
        self.large = true;
        self
    }

    /// These inputs may be stored as bf16.
    pub fn bf16(mut self, inputs: &'static [usize]) -> Case {
        self.bf16 = inputs;
        self
    }

    /// The inputs' values, drawn from the seed.
    pub fn values(&self, seed: u64) -> Vec<Tensor> {
        let streams = self.inputs.iter().zip(0..);
        streams.map(|(i, stream)| Rng::new(seed, stream).uniform(i.shape, i.lo, i.hi)).collect()
    }
}
