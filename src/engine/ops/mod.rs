//! Floor 2: one file an operator family: checks, CPU body, backward, cases.
//!
//! To add an operator: write `ops/x.rs` and one word below. See ARCHITECTURE.md for the recipe.

pub mod case;

pub use case::Case;

macro_rules! ops {
    ($($family:ident)*) => {
        $(pub mod $family;)*

        /// The cases of every operator: gradient check, parity and benchmark all read this one table.
        pub fn cases() -> Vec<Case> {
            let mut all = Vec::new();
            $(all.extend($family::cases());)*
            all
        }
    };
}

ops! { attention conv embed loss matching matmul norm optim pointwise pool random reduce resample rnn shape softmax }
