//! Rows of slices on the CPU: what several operators do with them, and the check of rows' lengths.

use crate::engine::device::cpu::{elementary, map};
use crate::engine::tensor::IntTensor;

/// The rows' lengths, each in 1..=T; panics at the caller where one is not, or where there are not B.
#[track_caller]
pub(super) fn check_lengths(op: &str, lengths: &IntTensor, b: usize, t: usize) -> Vec<usize> {
    assert_eq!(
        *lengths.shape(),
        [b],
        "{op}: lengths of shape {:?} for {b} rows of {t} words",
        lengths.shape()
    );
    for (row, &n) in lengths.as_slice().iter().enumerate() {
        let fits = usize::try_from(n).is_ok_and(|n| (1..=t).contains(&n));
        assert!(fits, "{op}: row {row} has length {n}, but a row has 1 to {t} words");
    }
    lengths.as_slice().iter().map(|&n| n as usize).collect()
}

pub(super) fn row(x: &[f32], i: usize, width: usize) -> &[f32] {
    &x[i * width..][..width]
}

pub(super) fn row_mut(x: &mut [f32], i: usize, width: usize) -> &mut [f32] {
    &mut x[i * width..][..width]
}

/// sum = Σ rows
pub(super) fn sum_rows(sum: &mut [f32], rows: &[f32]) {
    sum.fill(0.0);
    rows.chunks_exact(sum.len()).for_each(|row| add(sum, row));
}

/// sum += x
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
}

/// y = x · s in every row
pub(super) fn scale_rows(y: &mut [f32], x: &[f32], s: &[f32]) {
    for (y, x) in y.chunks_exact_mut(s.len()).zip(x.chunks_exact(s.len())) {
        y.iter_mut().zip(x.iter().zip(s)).for_each(|(y, (x, s))| *y = x * s);
    }
}

/// sum += a · b, over all rows
pub(super) fn add_products(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for (a, b) in a.chunks_exact(sum.len()).zip(b.chunks_exact(sum.len())) {
        sum.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s += a * b);
    }
}

/// y = a · σ(b) in every row of `width` outputs, with z = [a | b].
pub(super) fn glu_rows(y: &mut [f32], z: &[f32], width: usize) {
    let rows = || z.chunks_exact(2 * width).map(|z| z.split_at(width));
    y.chunks_exact_mut(width).zip(rows()).for_each(|(y, (_, b))| y.copy_from_slice(b));
    elementary::logistic(y);
    for (y, (a, _)) in y.chunks_exact_mut(width).zip(rows()) {
        y.iter_mut().zip(a).for_each(|(y, a)| *y *= a);
    }
}

/// In every row, z = [a | b] becomes the gradient of it: dy · [σ(b) | a · σ(b) · (1 - σ(b))].
pub(super) fn glu_rows_bwd(z: &mut [f32], dy: &[f32], width: usize) {
    let mut gates: Vec<f32> = Vec::with_capacity(dy.len());
    z.chunks_exact(2 * width).for_each(|z| gates.extend_from_slice(&z[width..]));
    elementary::logistic(&mut gates);
    let given = gates.chunks_exact(width).zip(dy.chunks_exact(width));
    for (z, (gates, dy)) in z.chunks_exact_mut(2 * width).zip(given) {
        let (a, b) = z.split_at_mut(width);
        for ((a, b), (gate, dy)) in a.iter_mut().zip(b).zip(gates.iter().zip(dy)) {
            *b = dy * *a * gate * (1.0 - gate);
            *a = dy * gate;
        }
    }
}

/// y = e^(x - shift)
pub(super) fn exp_shifted(y: &mut [f32], x: &[f32], shift: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = x - shift);
    elementary::exp(y);
}

/// Softmax over the first `valid` of each row of `width`; the rest become zero.
pub(super) fn softmax_rows(x: &mut [f32], width: usize, valid: usize) {
    x.chunks_exact_mut(width).for_each(|row| subtract_max(row, valid));
    // All rows at once: single rows are too short for wide vectors.
    elementary::exp(x);
    x.chunks_exact_mut(width).for_each(|row| normalize(row, valid));
}

/// d = p · (d - <d, p>) in every row: from the gradient of a softmax's outputs p to that of its inputs.
pub(super) fn softmax_rows_bwd(d: &mut [f32], p: &[f32], width: usize) {
    for (d, p) in d.chunks_exact_mut(width).zip(p.chunks_exact(width)) {
        let mean = dot(d, p);
        d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean));
    }
}

/// Subtracts the largest of the first `valid` from each of them; the rest become zero.
pub(super) fn subtract_max(row: &mut [f32], valid: usize) {
    let (row, rest) = row.split_at_mut(valid);
    let largest = fold(row, row[0], |a, b| if a > b { a } else { b });
    row.iter_mut().for_each(|x| *x -= largest);
    rest.fill(0.0);
}

/// Scales the first `valid` to a sum of one; the rest become zero.
pub(super) fn normalize(row: &mut [f32], valid: usize) {
    let (row, rest) = row.split_at_mut(valid);
    let scale = 1.0 / fold(row, 0.0, |a, b| a + b);
    row.iter_mut().for_each(|x| *x *= scale);
    rest.fill(0.0);
}

/// Elements that one thread sums.
const CHUNK: usize = 16 * 1024;

/// Σ f(x) in f64, in eight lanes so that it becomes SIMD.
pub(super) fn total(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f64; 8];
    let eights = x.chunks_exact(8);
    let rest: f64 = eights.remainder().iter().map(|&x| f(x) as f64).sum();
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(sum, &x)| *sum += f(x) as f64);
    }
    rest + lanes.iter().sum::<f64>()
}

/// [`total`] of chunks in parallel, added up in order: the same for any number of threads.
pub(super) fn parallel_total(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> f64 {
    let chunk = |i: usize| total(&x[i * CHUNK..x.len().min((i + 1) * CHUNK)], &f);
    map(x.len().div_ceil(CHUNK), chunk).iter().sum()
}

/// The largest of a row.
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

const LANES: usize = 8;

/// Σ a·b, in lanes, so that it vectorizes.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        (0..LANES).for_each(|l| sums[l] += a[l] * b[l]);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Folds x into one number, in lanes that each begin with `first`.
fn fold(x: &[f32], first: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let (lanes, rest) = x.as_chunks::<LANES>();
    let mut all = [first; LANES];
    for x in lanes {
        (0..LANES).for_each(|l| all[l] = f(all[l], x[l]));
    }
    all.into_iter().chain(rest.iter().copied()).reduce(f).unwrap_or(first)
}
