//! The convolutions that a step spends its time in, at their full size and batch 1.

use mirrorgan_engine::engine::ops::Case;
use mirrorgan_engine::engine::ops::conv::{Conv, conv2d, conv2d_up2};

pub fn cases() -> Vec<Case> {
    let conv = |name, side: usize, cin: usize, cout: usize, k: usize, stride: usize| {
        let geometry = Conv::new(stride, 1);
        let out = (side + 2 - k) / stride + 1;
        Case::new("conv2d", name, move |x| vec![conv2d(&x[0], &x[1], None, geometry)])
            .input([1, side, side, cin])
            .input([cout, k, k, cin])
            .flops((2 * out * out * cout * k * k * cin) as f64)
    };
    let up = |name, side: usize, cin: usize, cout: usize| {
        Case::new("conv2d_up2", name, |x| vec![conv2d_up2(&x[0], &x[1])])
            .input([1, side, side, cin])
            .input([cout, 3, 3, cin])
            .flops((2 * 4 * side * side * cout * 9 * cin) as f64)
    };
    vec![
        conv("G residual 64->128 at 128", 128, 64, 128, 3, 1),
        conv("G residual 64->64 at 128", 128, 64, 64, 3, 1),
        conv("G image head 32->3 at 256", 256, 32, 3, 3, 1),
        up("G 64->64 to 256", 128, 64, 64),
        conv("D first 3->64 at 256", 256, 3, 64, 4, 2),
        conv("D 64->128 at 128", 128, 64, 128, 4, 2),
        conv("D 512->1024 at 16", 16, 512, 1024, 4, 2),
        conv("D 1024->2048 at 8", 8, 1024, 2048, 4, 2),
        conv("D 2048->1024 at 4", 4, 2048, 1024, 3, 1),
    ]
}
