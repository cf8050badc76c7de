//! Operators: one file an operator family: checks, CPU body, CUDA launch, backward, cases; a large family is a folder of
//! {mod, cpu, cuda, cases}.
//!
//! To add an operator: write `kernels/x.cu`, `ops/x.rs` and one word in [`for_each_family`]. See ARCHITECTURE.md for the recipe.

pub mod case;
mod gemm;
mod rows;

pub use case::Case;

/// Calls a macro with the name of every family: the one list of them.
#[macro_export]
macro_rules! for_each_family {
    ($with:ident) => {
        $with! {
            attention conv depthwise embed loss matching matmul norm optim pointwise pool random reduce resample rnn shape
            softmax
        }
    };
}

pub use for_each_family;

macro_rules! ops {
    ($($family:ident)*) => {
        $(pub mod $family;)*

        /// The cases of every family: gradient check, parity and benchmark all read this one table.
        pub fn families() -> Vec<(&'static str, Vec<Case>)> {
            vec![$((stringify!($family), $family::cases())),*]
        }

        pub fn cases() -> Vec<Case> {
            families().into_iter().flat_map(|(_, cases)| cases).collect()
        }
    };
}

for_each_family!(ops);
