//! Concatenation, slices, transposition, repetition.

use super::Case;
use super::reduce::{spread_middle, sum_middle};
use crate::engine::device::cpu::{for_chunks, rows_per_chunk};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::{record_many, record1};
use crate::engine::tensor::{Shape, Tensor, run};

/// The columns from `start` of rows of `row`, as many rows as make `len` elements.
fn slice_dims(len: usize, row: usize, start: usize, width: usize) -> k::SliceDims {
    let [rows, row, start, width] = [len / width.max(1), row, start, width].map(|n| n as i32);
    k::SliceDims { rows, row, start, width }
}

/// `shape` with another length of one axis.
fn with_axis(shape: Shape, axis: usize, len: usize) -> Shape {
    let mut dims = shape.to_vec();
    dims[axis] = len;
    Shape::new(&dims)
}

/// Elements of one step along an axis.
fn step(shape: Shape, axis: usize) -> usize {
    shape[axis + 1..].iter().product()
}

/// Writes `part`, rows of `width`, into columns from `start` of the rows of `whole`.
fn copy_columns_into(whole: &mut [f32], row: usize, start: usize, part: &[f32], width: usize) {
    let rows = rows_per_chunk(row);
    for_chunks(whole, rows * row, |i, whole| {
        let parts = part[i * rows * width..].chunks(width);
        whole.chunks_mut(row).zip(parts).for_each(|(y, x)| y[start..start + width].copy_from_slice(x));
    });
}

/// Reads into `part`, rows of `width`, the columns from `start` of the rows of `whole`.
fn copy_columns_from(part: &mut [f32], width: usize, whole: &[f32], row: usize, start: usize) {
    let rows = rows_per_chunk(width);
    for_chunks(part, rows * width, |i, part| {
        let wholes = whole[i * rows * row..].chunks(row);
        part.chunks_mut(width).zip(wholes).for_each(|(y, x)| y.copy_from_slice(&x[start..start + width]));
    });
}

/// y = parts one after the other along `axis`; all other dimensions agree.
#[track_caller]
pub fn concat(parts: &[&Tensor], axis: usize) -> Tensor {
    let first = parts.first().expect("concat wants at least one part").shape();
    assert!(axis < first.len(), "concat: {first:?} has no axis {axis}");
    for part in parts {
        let fits = part.shape().len() == first.len() && with_axis(part.shape(), axis, first[axis]) == first;
        assert!(fits, "concat along axis {axis}: {first:?} and {:?} differ elsewhere", part.shape());
    }
    let lengths: Vec<usize> = parts.iter().map(|p| p.shape()[axis]).collect();
    let step = step(first, axis);
    let row = lengths.iter().sum::<usize>() * step;
    let mut y = parts[0].new_empty(with_axis(first, axis, row / step.max(1)));
    let mut start = 0;
    for &part in parts {
        let width = part.shape()[axis] * step;
        let cpu = |[y]: [&mut [f32]; 1], [part]: [&[f32]; 1]| copy_columns_into(y, row, start, part, width);
        run("concat_fwd", [&mut y], [part], cpu, |g, [y], [part]| {
            let dims = slice_dims(part.len(), row, start, width);
            k::shape_concat_fwd(g, Grid::per_pack(part, width), y, part, dims);
        });
        start += width;
    }
    record_many(vec![y], parts.iter().copied(), move |dys, wanted| {
        let mut start = 0;
        let pieces = lengths.iter().zip(wanted).map(|(&len, &wanted)| {
            let piece = (start, len);
            start += len;
            dys[0].as_ref().filter(|_| wanted).map(|dy| slice(dy, axis, piece.0, piece.1))
        });
        pieces.collect()
    })
    .swap_remove(0)
}

/// y = x[.., start..start+len, ..] along `axis`.
#[track_caller]
pub fn slice(x: &Tensor, axis: usize, start: usize, len: usize) -> Tensor {
    let shape = x.shape();
    let inside = axis < shape.len() && start + len <= shape[axis];
    assert!(inside, "slice: {start}..{} of axis {axis} is not within {shape:?}", start + len);
    let step = step(shape, axis);
    let (row, width, start) = (shape[axis] * step, len * step, start * step);
    let mut y = x.new_empty(with_axis(shape, axis, len));
    let dims = slice_dims(y.len(), row, start, width);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| copy_columns_from(y, width, x, row, start);
    run("slice_fwd", [&mut y], [x], cpu, |g, [y], [x]| {
        k::shape_slice_fwd(g, Grid::per_pack(y.read(), width), y, x, dims);
    });
    record1(y, [x], move |dy, _| {
        let mut dx = dy.new_empty(shape);
        let cpu = |[dx]: [&mut [f32]; 1], [dy]: [&[f32]; 1]| {
            dx.fill(0.0);
            copy_columns_into(dx, row, start, dy, width);
        };
        run("slice_bwd", [&mut dx], [&dy], cpu, |g, [dx], [dy]| {
            k::shape_slice_bwd(g, Grid::per_pack(dx.read(), width), dx, dy, dims);
        });
        [Some(dx)]
    })
}

/// y with the dimensions of x in the order of `perm`: y.shape[i] = x.shape[perm[i]].
#[track_caller]
pub fn transpose(x: &Tensor, perm: &[usize]) -> Tensor {
    let shape = x.shape();
    let mut order = perm.to_vec();
    order.sort_unstable();
    let whole = order.into_iter().eq(0..shape.len());
    assert!(whole, "transpose: {perm:?} does not order the dimensions of {shape:?}");
    let mut y = x.new_empty(&perm.iter().map(|&p| shape[p]).collect::<Vec<_>>()[..]);
    let (dims, strides) = (y.shape(), perm.iter().map(|&p| step(shape, p)).collect::<Vec<_>>());
    let matrices = swapped_blocks(shape, perm).filter(|[_, rows, cols]| rows.min(cols) >= &8);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| permute(y, x, dims, &strides);
    run("transpose", [&mut y], [x], cpu, |g, [y], [x]| match matrices {
        Some([batch, rows, cols]) => {
            let grid = Grid::new([batch * rows.div_ceil(32) * cols.div_ceil(32), 1, 1], 256);
            k::shape_matrix_transpose_fwd(
                g,
                grid,
                y,
                x,
                k::MatrixDims { rows: rows as i32, cols: cols as i32 },
            );
        }
        None => permute_cuda(g, y, x, dims, &strides),
    });
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
    record1(y, [x], move |dy, _| [Some(transpose(&dy, &inverse))])
}

/// Where a permutation only swaps two blocks of dimensions that lie side by side to the end, as between NHWC and NCHW,
/// it turns matrices: how many, their rows and columns.
fn swapped_blocks(shape: Shape, perm: &[usize]) -> Option<[usize; 3]> {
    let first = perm.iter().zip(0..).position(|(&p, i)| p != i)?;
    let middle = perm[first];
    let swaps = perm[first..].iter().copied().eq((middle..shape.len()).chain(first..middle));
    let count = |dims: &[usize]| dims.iter().product();
    swaps.then(|| [count(&shape[..first]), count(&shape[first..middle]), count(&shape[middle..])])
}

fn permute_cuda(g: &Gpu, y: Out, x: In, shape: Shape, by: &[usize]) {
    let (mut dims, mut strides, unused) = ([1; 4], [0; 4], 4 - shape.len());
    for (i, (&dim, &stride)) in shape.iter().zip(by).enumerate() {
        (dims[unused + i], strides[unused + i]) = (dim as i32, stride as i32);
    }
    let whole_rows = by.last() == Some(&1);
    let grid =
        if whole_rows { Grid::per_pack(y.read(), shape.last_dim()) } else { Grid::elements(y.len()) };
    k::shape_transpose_fwd(g, grid, y, x, k::PermuteDims { dims, strides });
}

/// y[i, j, ..] = x[i · strides[0] + j · strides[1] + ..]
fn permute(y: &mut [f32], x: &[f32], dims: Shape, strides: &[usize]) {
    let (width, stride) = (dims.last_dim(), strides.last().copied().unwrap_or(1));
    let rows = rows_per_chunk(width);
    for_chunks(y, rows * width, |i, y| {
        for (row, y) in (i * rows..).zip(y.chunks_mut(width)) {
            let (mut at, mut rest) = (0, row);
            for (dim, stride) in dims.iter().zip(strides).rev().skip(1) {
                at += rest % dim * stride;
                rest /= dim;
            }
            y.iter_mut().zip(x[at..].iter().step_by(stride)).for_each(|(y, x)| *y = *x);
        }
    });
}

/// y = s at every pixel: s [B,C] -> y [B,h,w,C].
#[track_caller]
pub fn tile(s: &Tensor, h: usize, w: usize) -> Tensor {
    let [b, c] = s.dims();
    let y = spread_middle("tile_fwd", s, [b, h * w, c], 1.0).reshape([b, h, w, c]);
    record1(y, [s], move |dy, _| [Some(sum_middle("tile_bwd", &dy, [b, h * w, c], 1.0))])
}

pub fn cases() -> Vec<Case> {
    let turned =
        |name, perm: &'static [usize]| Case::new("transpose", name, move |x| vec![transpose(&x[0], perm)]);
    vec![
        Case::new("concat", "channels", |x| vec![concat(&[&x[0], &x[1], &x[0]], 3)])
            .input([2, 3, 2, 4])
            .input([2, 3, 2, 1])
            .bf16(&[0, 1]),
        Case::new("concat", "batch", |x| vec![concat(&[&x[0], &x[1]], 0)])
            .input([2, 3])
            .input([4, 3])
            .bf16(&[0, 1]),
        Case::new("concat", "packs", |x| vec![concat(&[&x[0], &x[1]], 3)])
            .input([2, 16, 16, 32])
            .input([2, 16, 16, 64])
            .large()
            .bf16(&[0, 1]),
        Case::new("concat", "half packs and odd ones", |x| vec![concat(&[&x[0], &x[1], &x[2]], 1)])
            .input([67, 100])
            .input([67, 12])
            .input([67, 17])
            .large()
            .bf16(&[0, 1, 2]),
        Case::new("slice", "channels", |x| vec![slice(&x[0], 2, 1, 3)]).input([2, 3, 5]).bf16(&[0]),
        Case::new("slice", "rows", |x| vec![slice(&x[0], 0, 2, 2)]).input([5, 3]).bf16(&[0]),
        Case::new("slice", "packs", |x| vec![slice(&x[0], 3, 32, 16)])
            .input([2, 9, 11, 64])
            .large()
            .bf16(&[0]),
        Case::new("slice", "half packs", |x| vec![slice(&x[0], 1, 100, 100)])
            .input([37, 300])
            .large()
            .bf16(&[0]),
        Case::new("slice", "middle", |x| vec![slice(&x[0], 1, 3, 4)]).input([3, 9, 133]).large().bf16(&[0]),
        turned("to NCHW", &[0, 3, 1, 2]).input([2, 3, 4, 5]).bf16(&[0]),
        turned("matrix", &[1, 0]).input([3, 7]).bf16(&[0]),
        turned("to NCHW in tiles", &[0, 3, 1, 2]).input([2, 17, 13, 64]).large().bf16(&[0]),
        turned("to NHWC in tiles", &[0, 2, 3, 1]).input([2, 33, 9, 11]).large().bf16(&[0]),
        turned("three channels", &[0, 3, 1, 2]).input([2, 40, 50, 3]).large().bf16(&[0]),
        turned("rows kept in packs", &[0, 2, 1, 3]).input([3, 7, 11, 32]).large().bf16(&[0]),
        turned("odd rows kept", &[2, 0, 1, 3]).input([3, 7, 11, 17]).large().bf16(&[0]),
        turned("all about", &[3, 1, 0, 2]).input([5, 7, 11, 13]).large().bf16(&[0]),
        Case::new("tile", "", |x| vec![tile(&x[0], 3, 2)]).input([2, 5]).bf16(&[0]),
        Case::new("tile", "packs", |x| vec![tile(&x[0], 4, 4)]).input([7, 104]).large().bf16(&[0]),
        Case::new("tile", "odd", |x| vec![tile(&x[0], 17, 17)]).input([3, 17]).large().bf16(&[0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        Tensor::from_vec((0..shape.count()).map(|i| i as f32).collect(), shape)
    }

    #[test]
    fn parts_cut_from_a_whole_join_to_it() {
        for axis in 0..3 {
            let whole = ramp([3, 40, 300]);
            let at = [1, 17, 111][axis];
            let parts = [slice(&whole, axis, 0, at), slice(&whole, axis, at, whole.shape()[axis] - at)];
            assert_eq!(concat(&[&parts[0], &parts[1]], axis).to_vec(), whole.to_vec());
        }
    }

    #[test]
    fn transposition_moves_every_element() {
        let (x, dims) = (ramp([2, 3, 4, 5]), [2, 3, 4, 5]);
        let y = transpose(&x, &[2, 0, 3, 1]);
        assert_eq!(*y.shape(), [4, 2, 5, 3]);
        let at = |i: [usize; 4], d: [usize; 4]| ((i[0] * d[1] + i[1]) * d[2] + i[2]) * d[3] + i[3];
        for i in 0..x.len() {
            let [a, b, c, d] = [i / 60, i / 20 % 3, i / 5 % 4, i % 5];
            assert_eq!(y.as_slice()[at([c, a, d, b], [4, 2, 5, 3])], x.as_slice()[at([a, b, c, d], dims)]);
        }
    }
}
