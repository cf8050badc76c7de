//! Tensors: shapes, random numbers, the cost of cloning and writing.
//!
//!     cargo run --example 01_tensor

use mirrorgan_engine::engine::tensor::{Rng, Tensor};

fn main() {
    // Images are NHWC; this is a batch of two 4×4 images of three channels.
    let images = Tensor::full([2, 4, 4, 3], 0.5);
    println!("{:?} holds {} numbers", images.shape(), images.len());

    // Reshaping and cloning share the storage; writing copies it first.
    let rows = images.reshape([2, 48]);
    let mut copy = rows.clone();
    copy.as_mut_slice()[0] = -1.0;
    println!("the copy: {}, the original still: {}", copy.to_vec()[0], rows.to_vec()[0]);

    // Random numbers are a function of a seed and a counter: the same on any number of threads and on a GPU.
    let mut rng = Rng::new(7, 0);
    let noise = rng.normal([2, 3]);
    println!("noise {:?}", noise.to_vec());
    assert_eq!(noise.to_vec(), Rng::new(7, 0).normal([2, 3]).to_vec());
}
