//! Elementary functions over slices, in the widest vectors of the processor.

use super::tile::{Function, Map, Microkernel, with_microkernel};

/// x = e^x within 2 ulp; 0 below -87.7 and infinite above 88.37, where f32 runs out.
pub fn exp(x: &mut [f32]) {
    map(Function::Exp, x)
}

/// x = 1 / (1 + e^-x) within 3 ulp.
pub fn logistic(x: &mut [f32]) {
    map(Function::Logistic, x)
}

/// x = tanh(x) within 3 ulp.
pub fn tanh(x: &mut [f32]) {
    map(Function::Tanh, x)
}

fn map(function: Function, x: &mut [f32]) {
    with_microkernel!(kernel => kernel.vectorized(Map { function, x }))
}
