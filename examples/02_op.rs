//! Operators: a convolution, an up-convolution, and the message about a wrong shape.
//!
//!     cargo run --example 02_op            add ENGINE_TRACE=1 to see every kernel

use mirrorgan_engine::engine::ops::conv::{Conv, conv2d, upsample2x_conv3x3};
use mirrorgan_engine::engine::ops::pointwise::glu;
use mirrorgan_engine::engine::tensor::Rng;

fn main() {
    let mut rng = Rng::new(1, 0);
    let x = rng.normal([1, 8, 8, 16]);
    let w = rng.uniform([32, 3, 3, 16], -0.1, 0.1);

    // Padding 1 keeps the side; the gated linear unit halves the channels.
    let y = glu(&conv2d(&x, &w, None, Conv::new(1, 1)));
    println!("3×3 convolution, then GLU: {:?} -> {:?}", x.shape(), y.shape());

    // Nearest 2× and the 3×3 after it are one operator: the enlarged image is never stored.
    let z = upsample2x_conv3x3(&y, &w);
    println!("up-convolution: {:?} -> {:?}", y.shape(), z.shape());

    // Shapes that do not fit panic at the caller's line, with both shapes.
    std::panic::set_hook(Box::new(|panic| println!("a wrong shape: {panic}")));
    let narrow = rng.normal([1, 8, 8, 3]);
    assert!(std::panic::catch_unwind(|| conv2d(&narrow, &w, None, Conv::new(1, 1))).is_err());
}
