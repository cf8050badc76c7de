//! Embedding: rows of a table by index.

use super::Case;
use crate::engine::device::cpu::{for_chunks, rows_per_chunk};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{IntTensor, Shape, Tensor, run};

/// y[.., :] = table[ids[..], :]: table [V,D], ids [..] -> y [..,D].
#[track_caller]
pub fn embedding(table: &Tensor, ids: &IntTensor) -> Tensor {
    let [v, d] = table.dims();
    if let Some(id) = ids.as_slice().iter().find(|&&id| id < 0 || id as usize >= v) {
        panic!("embedding: {id} is no row of the table {:?} (ids {:?})", table.shape(), ids.shape());
    }
    let rows = rows_per_chunk(d);
    let shape = Shape::new(&[&ids.shape()[..], &[d]].concat());
    let mut y = table.new_empty(shape);
    let dims = k::EmbedDims { v: v as i32, n: ids.len() as i32, d: d as i32 };
    let cpu = |[y]: [&mut [f32]; 1], [table]: [&[f32]; 1]| {
        for_chunks(y, rows * d, |i, y| {
            for (y, &id) in y.chunks_mut(d).zip(&ids.as_slice()[i * rows..]) {
                y.copy_from_slice(&table[id as usize * d..][..d]);
            }
        });
    };
    run("embedding_fwd", [&mut y], [table], cpu, |g, [y], [table]| {
        k::embed_gather_fwd(g, Grid::per_pack(y.read(), d), y, table, ids.on(g), dims);
    });
    let ids = ids.clone();
    record1(y, [table], move |dy, _| {
        let mut dtable = dy.new_empty([v, d]);
        let cpu = |[dtable]: [&mut [f32]; 1], [dy]: [&[f32]; 1]| scatter(dtable, dy, ids.as_slice(), d);
        let cuda = |g: &Gpu, [dtable]: [Out; 1], [dy]: [In; 1]| {
            k::embed_scatter_bwd(g, Grid::elements(32 * v * d.div_ceil(128)), dtable, dy, ids.on(g), dims);
        };
        run("embedding_bwd", [&mut dtable], [&dy], cpu, cuda);
        [Some(dtable)]
    })
}

/// Adds the rows of `dy` to their rows of the table. Each piece of the table scans all indices, so that the
/// order of the sums is the same for any number of threads.
fn scatter(dtable: &mut [f32], dy: &[f32], ids: &[i32], d: usize) {
    let rows = 16 * rows_per_chunk(d);
    for_chunks(dtable, rows * d, |i, dtable| {
        dtable.fill(0.0);
        let (first, end) = (i * rows, i * rows + dtable.len() / d);
        for (&id, dy) in ids.iter().zip(dy.chunks(d)) {
            if (first..end).contains(&(id as usize)) {
                let row = &mut dtable[(id as usize - first) * d..][..d];
                row.iter_mut().zip(dy).for_each(|(s, dy)| *s += dy);
            }
        }
    });
}

pub fn cases() -> Vec<Case> {
    let ids = |ids: &[i32], shape: &[usize]| IntTensor::new(ids.to_vec(), shape);
    let (words, classes) = (ids(&[0, 4, 4, 2, 0, 1], &[2, 3]), ids(&[3, 3, 1], &[3]));
    let drawn = |n: usize, rows: usize| IntTensor::new((0..n).map(|i| (i * i % 89 % rows) as i32).collect(), [n]);
    let (text, odd) = (drawn(360, 545).reshape([20, 18]), drawn(71, 97));
    vec![
        Case::new("embedding", "words", move |x| vec![embedding(&x[0], &words)]).input([6, 4]),
        Case::new("embedding", "classes", move |x| vec![embedding(&x[0], &classes)]).input([5, 3]),
        Case::new("embedding", "many words", move |x| vec![embedding(&x[0], &text)])
            .input([545, 300])
            .large(),
        Case::new("embedding", "odd width", move |x| vec![embedding(&x[0], &odd)]).input([97, 133]).large(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_in_pieces_adds_every_row_once() {
        let (v, d, n) = (7000, 5, 20_000);
        let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % v) as i32).collect();
        let dy: Vec<f32> = (0..n * d).map(|i| (i % 17) as f32).collect();
        let (mut dtable, mut naive) = (vec![f32::NAN; v * d], vec![0.0; v * d]);
        scatter(&mut dtable, &dy, &ids, d);
        for (i, id) in ids.iter().enumerate() {
            (0..d).for_each(|j| naive[*id as usize * d + j] += dy[i * d + j]);
        }
        assert_eq!(dtable, naive);
    }

    #[test]
    #[should_panic(expected = "9 is no row of the table [9, 2]")]
    fn a_number_beyond_the_table_is_named() {
        embedding(&Tensor::zeros([9, 2]), &IntTensor::new(vec![1, 9], [2]));
    }
}
