//! Products of matrices.

use super::Case;
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
pub use crate::engine::device::{Mat, gemm};
use crate::engine::tensor::tape::{record, record1};
use crate::engine::tensor::{Kernel, Tensor, run};

/// y[M,N] = a[M,K] b[K,N]
#[track_caller]
pub fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let ([m, k], [k2, n]) = (a.dims(), b.dims());
    assert_eq!(k, k2, "matmul: {:?} by {:?}: the inner dimensions differ", a.shape(), b.shape());
    let y = product_nn(a, b, [m, n, k]);
    let (sa, sb) = (a.detach(), b.detach());
    record1(y, [a, b], move |dy, [wa, wb]| {
        let da = wa.then(|| product_nt(&dy, &sb, [m, k, n]));
        let db = wb.then(|| product_tn(&sa, &dy, [k, n, m]));
        [da, db]
    })
}

/// y[..,N] = x[..,K] w[N,K]ᵀ + bias[N]
#[track_caller]
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let ([n, k], rows) = (w.dims(), x.shape().rows());
    assert_eq!(x.shape().last_dim(), k, "linear: {:?} does not fit weights {:?}", x.shape(), w.shape());
    let flat = x.reshape([rows, k]);
    let mut y = product_nt(&flat, w, [rows, n, k]);
    if let Some(bias) = bias {
        assert_eq!(*bias.shape(), [n], "linear: bias {:?} does not fit weights {:?}", bias.shape(), w.shape());
        add_bias(&mut y, bias);
    }
    let (sx, sw) = (flat.detach(), w.detach());
    let no_bias = Tensor::zeros([0]);
    let [y] = record([y], [&flat, w, bias.unwrap_or(&no_bias)], move |[dy], [wx, ww, wb]| {
        let dy = dy.expect("the only output has a gradient");
        let dx = wx.then(|| product_nn(&dy, &sw, [rows, k, n]));
        let dw = ww.then(|| product_tn(&dy, &sx, [n, k, rows]));
        [dx, dw, wb.then(|| column_sums(&dy))]
    });
    y.reshape(x.shape().with_last(n))
}

/// y[M,N] += bias[N] in every row
pub(super) fn add_bias(y: &mut Tensor, bias: &Tensor) {
    let n = bias.len();
    run("add_bias", [y], [bias], |[y], [bias]| {
        for_chunks(y, rows_per_chunk(n) * n, |_, y| {
            y.chunks_mut(n).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        });
    });
}

/// Σ over all rows: the gradient of a bias.
pub(super) fn column_sums(dy: &Tensor) -> Tensor {
    let (n, rows) = (dy.shape().last_dim(), dy.shape().rows());
    let mut db = dy.empty([n]);
    run("column_sums", [&mut db], [dy], |[db], [dy]| {
        let chunk = rows_per_chunk(n);
        let partial = map(rows.div_ceil(chunk), |i| {
            let mut sum = vec![0.0f32; n];
            let block = &dy[i * chunk * n..((i + 1) * chunk).min(rows) * n];
            block.chunks(n).for_each(|row| sum.iter_mut().zip(row).for_each(|(s, d)| *s += d));
            sum
        });
        db.fill(0.0);
        partial.iter().for_each(|p| db.iter_mut().zip(p).for_each(|(d, p)| *d += p));
    });
    db
}

fn product_nn(a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) -> Tensor {
    let mut y = a.empty([m, n]);
    run(Kernel::new("matmul_nn", 2.0 * (m * n * k) as f64), [&mut y], [a, b], |[y], [a, b]| {
        gemm(y, n, Mat::rows(a, m, k), Mat::rows(b, k, n), false, true);
    });
    y
}

fn product_nt(a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) -> Tensor {
    let mut y = a.empty([m, n]);
    run(Kernel::new("matmul_nt", 2.0 * (m * n * k) as f64), [&mut y], [a, b], |[y], [a, b]| {
        gemm(y, n, Mat::rows(a, m, k), Mat::rows(b, n, k).t(), false, true);
    });
    y
}

fn product_tn(a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) -> Tensor {
    let mut y = a.empty([m, n]);
    run(Kernel::new("matmul_tn", 2.0 * (m * n * k) as f64), [&mut y], [a, b], |[y], [a, b]| {
        gemm(y, n, Mat::rows(a, k, m).t(), Mat::rows(b, k, n), false, true);
    });
    y
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("matmul", "odd sizes", |x| vec![matmul(&x[0], &x[1])])
            .input([5, 7])
            .input([7, 3])
            .flops(2.0 * 105.0),
        Case::new("linear", "row, bias", |x| vec![linear(&x[0], &x[1], Some(&x[2]))])
            .input([6, 5])
            .input([4, 5])
            .input([4]),
        Case::new("linear", "sequence, no bias", |x| vec![linear(&x[0], &x[1], None)])
            .input([2, 3, 5])
            .input([4, 5]),
    ]
}
