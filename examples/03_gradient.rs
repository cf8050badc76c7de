//! The tape: a straight line fitted by gradient descent; gradients are computed only for the targets.
//!
//!     cargo run --example 03_gradient

use mirrorgan_engine::engine::ops::matmul::linear;
use mirrorgan_engine::engine::ops::pointwise::{add, mul, scale};
use mirrorgan_engine::engine::ops::reduce::mean;
use mirrorgan_engine::engine::tensor::{Rng, Tensor, backward};

fn main() {
    let x = Rng::new(3, 0).uniform([64, 1], -1.0, 1.0);
    let truth = Tensor::from_vec(x.to_vec().iter().map(|x| 3.0 * x - 0.5).collect(), [64, 1]);

    // A leaf is a tensor that may be a target of backward.
    let (mut slope, mut offset) = (Tensor::zeros([1, 1]).leaf(), Tensor::zeros([1]).leaf());
    for step in 0..=100 {
        let error = add(&linear(&x, &slope, Some(&offset)), &scale(&truth, -1.0));
        let loss = mean(&mul(&error, &error));
        let grads = backward(&loss, &[&slope, &offset]);
        for parameter in [&mut slope, &mut offset] {
            let down = scale(grads.get(parameter).unwrap(), -0.3);
            *parameter = add(&parameter.detach(), &down).leaf();
        }
        if step % 25 == 0 {
            println!(
                "step {step:3}: loss {:.6}, y = {:.3} x + {:.3}",
                loss.item(),
                slope.item(),
                offset.item()
            );
        }
    }
    assert!((slope.item() - 3.0).abs() < 1e-2 && (offset.item() + 0.5).abs() < 1e-2);
}
