//! Products of matrices.

use super::Case;
use super::gemm::{MatrixIn, MatrixOut, product, product_biased, sum_columns};
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
pub use crate::engine::device::cpu::{Mat, gemm};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Kernel, Tensor, run};

/// y[M,N] = a[M,K] b[K,N]
#[track_caller]
pub fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let ([m, k], [k2, n]) = (a.dims(), b.dims());
    assert_eq!(k, k2, "matmul: {:?} by {:?}: the inner dimensions differ", a.shape(), b.shape());
    let mut y = a.new_empty([m, n]);
    product_nn(&mut y, a, b, [m, n, k]);
    let (sa, sb) = (a.detach(), b.detach());
    record1(y, [a, b], move |dy, [wa, wb]| {
        let da = wa.then(|| {
            let mut da = sa.new_empty([m, k]);
            product_nt(&mut da, &dy, &sb, None, [m, k, n]);
            da
        });
        let db = wb.then(|| {
            let mut db = sb.new_empty([k, n]);
            product_tn(&mut db, &sa, &dy, [k, n, m]);
            db
        });
        [da, db]
    })
}

/// y[..,N] = x[..,K] w[N,K]ᵀ + bias[N]
#[track_caller]
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let ([n, k], rows) = (w.dims(), x.shape().rows());
    assert_eq!(x.shape().last_dim(), k, "linear: {:?} does not fit weights {:?}", x.shape(), w.shape());
    if let Some(bias) = bias {
        assert_eq!(*bias.shape(), [n], "linear: bias {:?} does not fit weights {:?}", bias.shape(), w.shape());
    }
    let flat = x.reshape([rows, k]);
    let mut y = x.new_empty([rows, n]);
    product_nt(&mut y, &flat, w, bias, [rows, n, k]);
    let (sx, sw) = (flat.detach(), w.detach());
    let y = record1(y, [Some(&flat), Some(w), bias], move |dy, [wx, ww, wb]| {
        let dx = wx.then(|| {
            let mut dx = sx.new_empty([rows, k]);
            product_nn(&mut dx, &dy, &sw, [rows, k, n]);
            dx
        });
        let dw = ww.then(|| {
            let mut dw = sw.new_empty([n, k]);
            product_tn(&mut dw, &dy, &sx, [n, k, rows]);
            dw
        });
        [dx, dw, wb.then(|| column_sums(&dy))]
    });
    y.reshape(x.shape().with_last(n))
}

/// y[M,N] += bias[N] in every row
fn add_bias(y: &mut [f32], bias: &[f32]) {
    let n = bias.len();
    for_chunks(y, rows_per_chunk(n) * n, |_, y| {
        y.chunks_mut(n).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    });
}

/// Σ over all rows: the gradient of a bias.
pub(super) fn column_sums(dy: &Tensor) -> Tensor {
    let (n, rows) = (dy.shape().last_dim(), dy.shape().rows());
    let mut db = dy.new_empty_f32([n]);
    let cpu = |[db]: [&mut [f32]; 1], [dy]: [&[f32]; 1]| {
        let chunk = rows_per_chunk(n);
        let partial = map(rows.div_ceil(chunk), |i| {
            let mut sum = vec![0.0f32; n];
            let block = &dy[i * chunk * n..((i + 1) * chunk).min(rows) * n];
            block.chunks(n).for_each(|row| sum.iter_mut().zip(row).for_each(|(s, d)| *s += d));
            sum
        });
        db.fill(0.0);
        partial.iter().for_each(|p| db.iter_mut().zip(p).for_each(|(d, p)| *d += p));
    };
    run("column_sums", [&mut db], [dy], cpu, |g, [db], [dy]| sum_columns(g, db, dy, rows, n));
    db
}

fn product_nn(y: &mut Tensor, a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) {
    let cpu = |[y]: [&mut [f32]; 1], [a, b]: [&[f32]; 2]| {
        gemm(y, n, Mat::rows(a, m, k), Mat::rows(b, k, n), false, true);
    };
    run(Kernel::new("matmul_nn", 2.0 * (m * n * k) as f64), [y], [a, b], cpu, |g, [y], [a, b]| {
        product(g, MatrixOut::rows(y, n), MatrixIn::rows(a, k), MatrixIn::rows(b, n), [m, n, k], 1);
    });
}

fn product_nt(y: &mut Tensor, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, [m, n, k]: [usize; 3]) {
    let cpu = |y: &mut [f32], (a, b, bias): (&[f32], &[f32], Option<&[f32]>)| {
        gemm(y, n, Mat::rows(a, m, k), Mat::rows(b, n, k).t(), false, true);
        if let Some(bias) = bias {
            add_bias(y, bias);
        }
    };
    run(Kernel::new("matmul_nt", 2.0 * (m * n * k) as f64), y, (a, b, bias), cpu, |g, y, (a, b, bias)| {
        let operands = [MatrixIn::rows(a, k), MatrixIn::rows(b, k).t()];
        product_biased(g, MatrixOut::rows(y, n), operands, bias, [m, n, k], 1);
    });
}

fn product_tn(y: &mut Tensor, a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) {
    let cpu = |[y]: [&mut [f32]; 1], [a, b]: [&[f32]; 2]| {
        gemm(y, n, Mat::rows(a, k, m).t(), Mat::rows(b, k, n), false, true);
    };
    run(Kernel::new("matmul_tn", 2.0 * (m * n * k) as f64), [y], [a, b], cpu, |g, [y], [a, b]| {
        product(g, MatrixOut::rows(y, n), MatrixIn::rows(a, m).t(), MatrixIn::rows(b, n), [m, n, k], 1);
    });
}

pub fn cases() -> Vec<Case> {
    let matrix = |name, a: [usize; 2], n: usize| {
        let case = Case::new("matmul", name, |x| vec![matmul(&x[0], &x[1])]).input(a).input([a[1], n]);
        case.large().bf16(&[0, 1]).flops(2.0 * (a[0] * a[1] * n) as f64)
    };
    let layer = |name, x: [usize; 3], n: usize| {
        let case = Case::new("linear", name, |x| vec![linear(&x[0], &x[1], Some(&x[2]))]);
        let case = case.input(x).input([n, x[2]]).input([n]).large().bf16(&[0]);
        case.flops(2.0 * (x[0] * x[1] * x[2] * n) as f64)
    };
    vec![
        Case::new("matmul", "odd sizes", |x| vec![matmul(&x[0], &x[1])])
            .input([5, 7])
            .input([7, 3])
            .bf16(&[0, 1])
            .flops(2.0 * 105.0),
        Case::new("linear", "row, bias", |x| vec![linear(&x[0], &x[1], Some(&x[2]))])
            .input([6, 5])
            .input([4, 5])
            .input([4])
            .bf16(&[0]),
        Case::new("linear", "sequence, no bias", |x| vec![linear(&x[0], &x[1], None)])
            .input([2, 3, 5])
            .input([4, 5])
            .bf16(&[0]),
        matrix("several blocks", [150, 96], 136),
        matrix("odd and large", [131, 77], 65),
        matrix("one column", [70, 300], 1),
        matrix("long sum", [9, 2048], 24),
        matrix("large tiles", [1536, 8], 1408),
        layer("several blocks", [2, 90, 64], 160),
        layer("packs to odd", [3, 37, 96], 83),
        layer("odd to packs", [200, 33, 1], 40),
    ]
}
