//! Floor 2: one file an operator family: checks, CPU body, CUDA launch, backward, cases; a large family is a folder of
//! {mod, cpu, cuda, cases}.
//!
//! To add an operator: write `kernels/x.cu`, `ops/x.rs` and one word below. See ARCHITECTURE.md for the recipe.

pub mod case;
mod gemm;
mod rows;

pub use case::Case;

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

ops! { attention conv embed loss matching matmul norm optim pointwise pool random reduce resample rnn shape softmax }
