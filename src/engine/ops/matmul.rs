//! Products of matrices.

use std::sync::LazyLock;

use super::Case;
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
use crate::engine::device::cuda::{Buffer, Gpu, Grid, In, Out, k};
pub use crate::engine::device::cpu::{Mat, gemm};
use crate::engine::tensor::tape::{record, record1};
use crate::engine::tensor::{DType, Kernel, Tensor, run};

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
    let no_bias = Tensor::zeros([0]);
    let [y] = record([y], [&flat, w, bias.unwrap_or(&no_bias)], move |[dy], [wx, ww, wb]| {
        let dy = dy.expect("the only output has a gradient");
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
pub(super) fn add_bias(y: &mut [f32], bias: &[f32]) {
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

/// y[N] = Σ over the rows of x[rows,N]
pub(super) fn sum_columns(g: &Gpu, y: Out, x: In, rows: usize, n: usize) {
    let width = n.next_power_of_two().min(32);
    let lines = 256 / width;
    let across = n.div_ceil(width);
    let shares = (4 * g.multiprocessors()).div_ceil(across).min(rows.div_ceil(8 * lines)).clamp(1, 256);
    let share = rows.div_ceil(shares);
    let mut parts = g.scratch(shares * n);
    let grid = Grid::new([across, shares, 1], 256);
    k::matmul_columns(g, grid, parts.out(), x, rows as i32, n as i32, share as i32, width as i32);
    let whole = Target { data: y, row: n, batch: 0, accumulate: false };
    join(g, whole, parts.view(), In::NONE, [1, 1, n], shares);
}

fn product_nn(y: &mut Tensor, a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) {
    let cpu = |[y]: [&mut [f32]; 1], [a, b]: [&[f32]; 2]| {
        gemm(y, n, Mat::rows(a, m, k), Mat::rows(b, k, n), false, true);
    };
    run(Kernel::new("matmul_nn", 2.0 * (m * n * k) as f64), [y], [a, b], cpu, |g, [y], [a, b]| {
        product(g, Target::rows(y, n), Factor::rows(a, k), Factor::rows(b, n), [m, n, k], 1);
    });
}

fn product_nt(y: &mut Tensor, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, [m, n, k]: [usize; 3]) {
    let none = Tensor::zeros([0]);
    let ins = [a, b, bias.unwrap_or(&none)];
    let cpu = |[y]: [&mut [f32]; 1], [a, b, bias]: [&[f32]; 3]| {
        gemm(y, n, Mat::rows(a, m, k), Mat::rows(b, n, k).t(), false, true);
        if !bias.is_empty() {
            add_bias(y, bias);
        }
    };
    run(Kernel::new("matmul_nt", 2.0 * (m * n * k) as f64), [y], ins, cpu, |g, [y], [a, b, bias]| {
        let factors = [Factor::rows(a, k), Factor::rows(b, k).t()];
        product_biased(g, Target::rows(y, n), factors, given(bias), [m, n, k], 1);
    });
}

fn product_tn(y: &mut Tensor, a: &Tensor, b: &Tensor, [m, n, k]: [usize; 3]) {
    let cpu = |[y]: [&mut [f32]; 1], [a, b]: [&[f32]; 2]| {
        gemm(y, n, Mat::rows(a, k, m).t(), Mat::rows(b, k, n), false, true);
    };
    run(Kernel::new("matmul_tn", 2.0 * (m * n * k) as f64), [y], [a, b], cpu, |g, [y], [a, b]| {
        product(g, Target::rows(y, n), Factor::rows(a, m).t(), Factor::rows(b, n), [m, n, k], 1);
    });
}

/// What a kernel takes for a tensor that may be empty.
pub(super) fn given(x: In) -> In {
    if x.is_empty() { In::NONE } else { x }
}

// ---------------------------------------------------------------- products on CUDA

/// A factor of a product on CUDA: matrices in row-major order, bf16 or f32.
#[derive(Clone, Copy)]
pub(super) struct Factor {
    data: In,
    row: usize,
    batch: usize,
    transposed: bool,
}

impl Factor {
    /// Rows that lie `row` elements apart.
    pub(super) fn rows(data: In, row: usize) -> Factor {
        Factor { data, row, batch: 0, transposed: false }
    }

    pub(super) fn t(self) -> Factor {
        Factor { transposed: !self.transposed, ..self }
    }

    /// One matrix for each product, `batch` elements apart; else all products share the one.
    pub(super) fn each(self, batch: usize) -> Factor {
        Factor { batch, ..self }
    }
}

/// Where products go: rows `row` elements apart, products `batch` elements apart, bf16 or f32.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) data: Out,
    pub(super) row: usize,
    pub(super) batch: usize,
    /// Added to what is there.
    pub(super) accumulate: bool,
}

impl Target {
    pub(super) fn rows(data: Out, row: usize) -> Target {
        Target { data, row, batch: 0, accumulate: false }
    }

    pub(super) fn each(self, batch: usize) -> Target {
        Target { batch, ..self }
    }

    pub(super) fn add(self) -> Target {
        Target { accumulate: true, ..self }
    }
}

/// y[p][M,N] (+)= a[p][M,K] b[p][K,N] for p < count, each factor as it lies or transposed (not both). Where one factor is
/// bf16 the other is rounded to it; sums are f32.
#[track_caller]
pub(super) fn product(g: &Gpu, y: Target, a: Factor, b: Factor, sizes: [usize; 3], count: usize) {
    product_biased(g, y, [a, b], In::NONE, sizes, count);
}

#[track_caller]
fn product_biased(g: &Gpu, y: Target, factors: [Factor; 2], bias: In, [m, n, k]: [usize; 3], count: usize) {
    if m * n * count == 0 {
        return;
    }
    let end = |rows: usize, columns: usize, row: usize, batch: usize| match rows * columns {
        0 => 0,
        _ => (count - 1) * batch + (rows - 1) * row + columns,
    };
    assert!(y.data.len() >= end(m, n, y.row, y.batch), "{count} products {m}×{n} do not fit their output");
    // Rows and columns as they lie.
    let [a_size, b_size] = [(factors[0], [m, k]), (factors[1], [k, n])]
        .map(|(f, [rows, columns])| if f.transposed { [columns, rows] } else { [rows, columns] });
    for (f, [rows, columns]) in factors.iter().zip([a_size, b_size]) {
        let end = end(rows, columns, f.row, f.batch);
        assert!(f.data.len() >= end, "{count} factors {rows}×{columns} are more than {} elements", f.data.len());
        assert!(end < 1 << 31, "{end} elements are more than a kernel counts");
    }
    let bf16 = factors.iter().any(|f| f.data.dtype() == DType::Bf16);
    let dtype = if bf16 { DType::Bf16 } else { DType::F32 };
    let mut kept = Vec::new();
    let a = Operand::new(g, factors[0], a_size, dtype, count, &mut kept);
    let b = Operand::new(g, factors[1], b_size, dtype, count, &mut kept);
    let (tile, splits) = plan(g, &[Tile::T128x128, Tile::T64x64], [m, n], count, k.div_ceil(slice(dtype)));
    // An f32 product to bf16 goes by way of the sums' buffer.
    let direct = splits == 1 && (dtype == DType::Bf16 || y.data.dtype() == DType::F32);
    let mut parts = g.scratch(if direct { 0 } else { splits * count * m * n });
    let target = match direct {
        true => y,
        false => Target { data: parts.out(), row: n, batch: m * n, accumulate: false },
    };
    let (rounded, exact) = target.pointers(dtype);
    let pack = 16 / dtype.bytes();
    let dims = k::MatmulDims {
        m: m as i32,
        n: n as i32,
        k: k as i32,
        row: target.row as i32,
        a_row: a.row as i32,
        b_row: b.row as i32,
        batch: target.batch as i32,
        a_batch: a.batch as i32,
        b_batch: b.batch as i32,
        splits: splits as i32,
        packed: (target.data.address() % 16 == 0 && target.row % pack == 0 && target.batch % pack == 0) as i32,
        a_packed: a.packed as i32,
        b_packed: b.packed as i32,
        accumulate: target.accumulate as i32,
    };
    let run = kernel(factors.map(|f| f.transposed), tile, dtype == DType::F32 && g.tf32());
    let grid = tile.grid([tile.count(m, n), 1, count * splits]);
    run(g, grid, rounded, exact, a.data, b.data, if direct { bias } else { In::NONE }, dims);
    if !direct {
        join(g, y, parts.view(), bias, [count, m, n], splits);
    }
}

type Launcher = fn(&Gpu, Grid, Out, Out, In, In, In, k::MatmulDims);

fn kernel(transposed: [bool; 2], tile: Tile, tf32: bool) -> Launcher {
    match (transposed, tile, tf32) {
        ([false, false], Tile::T128x128, false) => k::matmul_nn_128x128,
        ([false, false], Tile::T128x128, true) => k::matmul_nn_128x128_tf32,
        ([false, false], _, false) => k::matmul_nn_64x64,
        ([false, false], _, true) => k::matmul_nn_64x64_tf32,
        ([false, true], Tile::T128x128, false) => k::matmul_nt_128x128,
        ([false, true], Tile::T128x128, true) => k::matmul_nt_128x128_tf32,
        ([false, true], _, false) => k::matmul_nt_64x64,
        ([false, true], _, true) => k::matmul_nt_64x64_tf32,
        ([true, false], Tile::T128x128, false) => k::matmul_tn_128x128,
        ([true, false], Tile::T128x128, true) => k::matmul_tn_128x128_tf32,
        ([true, false], _, false) => k::matmul_tn_64x64,
        ([true, false], _, true) => k::matmul_tn_64x64_tf32,
        ([true, true], _, _) => panic!("a product of two transposed factors: transpose the product"),
    }
}

/// y (+)= Σ over `splits` of the parts + bias, in order.
fn join(g: &Gpu, y: Target, parts: In, bias: In, [count, m, n]: [usize; 3], splits: usize) {
    let (rounded, exact) = y.pointers(DType::Bf16);
    let dims = k::JoinDims {
        products: count as i32,
        m: m as i32,
        n: n as i32,
        row: y.row as i32,
        batch: y.batch as i32,
        splits: splits as i32,
        accumulate: y.accumulate as i32,
    };
    k::matmul_join(g, Grid::elements(count * m * n), rounded, exact, parts, bias, dims);
}

impl Target {
    /// The two pointers of a kernel stored as `dtype`: to what it rounds to, and to floats.
    fn pointers(&self, dtype: DType) -> (Out, Out) {
        if self.data.dtype() == dtype { (self.data, Out::NONE) } else { (Out::NONE, self.data) }
    }
}

/// A factor as a kernel takes it.
struct Operand {
    data: In,
    row: usize,
    batch: usize,
    /// Whether 16 bytes may be read at a time.
    packed: bool,
}

impl Operand {
    /// The factor as it is, or rounded into memory that `kept` holds.
    fn new(
        g: &Gpu,
        f: Factor,
        [rows, columns]: [usize; 2],
        dtype: DType,
        count: usize,
        kept: &mut Vec<Buffer>,
    ) -> Operand {
        let pack = 16 / dtype.bytes();
        if f.data.dtype() == dtype {
            let aligned = f.data.address().is_multiple_of(16) && columns.is_multiple_of(pack);
            let packed = aligned && f.row.is_multiple_of(pack) && f.batch.is_multiple_of(pack);
            return Operand { data: f.data, row: f.row, batch: f.batch, packed };
        }
        let products = if f.batch == 0 { 1 } else { count };
        let row = columns.next_multiple_of(pack);
        let mut rounded = g.scratch_of(dtype, products * rows * row);
        round(g, rounded.out(), f, [products, rows, columns], row);
        let operand = Operand { data: rounded.view(), row, batch: if f.batch == 0 { 0 } else { rows * row }, packed: true };
        kept.push(rounded);
        operand
    }
}

/// y[products, rows, row] = the factor in bf16, filled up with zeros.
fn round(g: &Gpu, y: Out, f: Factor, [products, rows, columns]: [usize; 3], row: usize) {
    let sizes = [products, rows, columns, f.row, f.batch, row].map(|n| n as i32);
    let [products, rows, columns, from, batch, to] = sizes;
    k::matmul_round(g, Grid::elements(y.len()), y, f.data, products, rows, columns, from, batch, to);
}

// ---------------------------------------------------------------- tiles

/// The tiles that kernels/gemm.cuh is compiled for: rows × columns of a product that one block makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    T128x128,
    T128x64,
    T64x64,
    T128x32,
}

impl Tile {
    pub(super) fn rows(self) -> usize {
        if self == Tile::T64x64 { 64 } else { 128 }
    }

    pub(super) fn columns(self) -> usize {
        match self {
            Tile::T128x128 => 128,
            Tile::T128x64 | Tile::T64x64 => 64,
            Tile::T128x32 => 32,
        }
    }

    /// Tiles of a product of m rows and n columns.
    pub(super) fn count(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows()) * n.div_ceil(self.columns())
    }

    /// Threads and shared memory as gemm.cuh's `Tile` has them: four stages of 64 bytes a row, or the sums, and a number
    /// a row.
    pub(super) fn grid(self, blocks: [usize; 3]) -> Grid {
        let (m, n) = (self.rows(), self.columns());
        let threads = if self == Tile::T128x128 { 256 } else { 128 };
        Grid::new(blocks, threads).shared((4 * 64 * (m + n)).max(4 * m * (n + 8)) + 4 * m)
    }

    fn name(self) -> &'static str {
        match self {
            Tile::T128x128 => "128x128",
            Tile::T128x64 => "128x64",
            Tile::T64x64 => "64x64",
            Tile::T128x32 => "128x32",
        }
    }

    /// How much of the device's speed it reaches where there is enough to do, roughly.
    fn efficiency(self) -> f64 {
        match self {
            Tile::T128x128 => 1.0,
            Tile::T128x64 => 0.85,
            Tile::T64x64 => 0.65,
            Tile::T128x32 => 0.6,
        }
    }
}

/// `ENGINE_TILE=128x64` takes that tile wherever there is a kernel for it: for tests and measurements.
static FORCED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("ENGINE_TILE").ok());

/// Elements of K that a block takes at a time: 64 bytes.
pub(super) fn slice(dtype: DType) -> usize {
    64 / dtype.bytes()
}

/// The tile, and the shares of the sum over K, that should be fastest for so many products of m rows, n columns and
/// `slices` slices of K.
pub(super) fn plan(
    g: &Gpu,
    tiles: &[Tile],
    [m, n]: [usize; 2],
    products: usize,
    slices: usize,
) -> (Tile, usize) {
    let processors = g.multiprocessors();
    let cost = |tile: Tile| {
        let blocks = tile.count(m, n) * products;
        let splits = splits(processors, blocks, slices);
        // Filling the ring and writing the sums takes about as long as so many slices.
        let work = (tile.rows() * tile.columns() * (slices.div_ceil(splits) + 6)) as f64 / tile.efficiency();
        let waves = (blocks * splits).div_ceil(processors) as f64;
        // Sums of shares are written and read once more.
        let joined = if splits == 1 { 0.0 } else { (12 * splits * m * n * products / processors) as f64 };
        (waves * work + joined, splits)
    };
    // Before sm_80 shared memory is too small for the largest.
    let fitting = tiles.iter().copied().filter(|t| g.arch() >= 80 || *t != Tile::T128x128);
    if let Some(tile) = fitting.clone().find(|t| FORCED.as_deref() == Some(t.name())) {
        return (tile, cost(tile).1);
    }
    let costs = fitting.map(|tile| (cost(tile), tile));
    let best = costs.min_by(|a, b| a.0.0.total_cmp(&b.0.0)).expect("a tile that fits every device");
    (best.1, best.0.1)
}

/// Shares of the sum over K that fill the device, of at least eight slices each.
fn splits(processors: usize, blocks: usize, slices: usize) -> usize {
    let wanted = if blocks >= processors { 1 } else { 2 * processors / blocks };
    let share = slices.div_ceil(wanted.min(slices / 8).clamp(1, 256)).max(1);
    slices.div_ceil(share).max(1)
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
