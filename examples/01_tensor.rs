//! Tensors: shapes, random numbers, what cloning and writing cost.
//!
//!     cargo run --example 01_tensor

use mirrorgan_engine::engine::tensor::{Rng, Tensor};

fn main() {
    // Images are NHWC; this is a batch of two 4×4 pictures of three channels.
    let picture = Tensor::full([2, 4, 4, 3], 0.5);
    println!("{:?} holds {} numbers", picture.shape(), picture.len());

    // Reshaping and cloning share the storage; writing copies it first.
    let row = picture.reshape([2, 48]);
    let mut other = row.clone();
    other.as_mut_slice()[0] = -1.0;
    println!("written: {}, the original still: {}", other.to_vec()[0], row.to_vec()[0]);

    // A stream of random numbers is a seed and a counter: the same on any number of threads.
    let mut rng = Rng::new(7, 0);
    let noise = rng.normal([2, 3]);
    println!("noise {:?}", noise.to_vec());
    assert_eq!(noise.to_vec(), Rng::new(7, 0).normal([2, 3]).to_vec());
}
