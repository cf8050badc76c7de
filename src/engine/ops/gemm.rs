//! The tiled product of kernels/gemm.cuh as its users launch it: operands, and the choice of tile and splits.
//!
//! Matrix products, convolutions (as implicit GEMMs) and all operators that contain products go through here on CUDA.
//!
//! TF32 operands are rounded in registers (cvt.rna). wgmma reads shared memory itself and truncates, so a tile of wgmma
//! needs operands that were rounded in memory.

use std::sync::LazyLock;

use crate::engine::device::cuda::{Buffer, Gpu, Grid, In, Out, k};
use crate::engine::tensor::DType;

// ---------------------------------------------------------------- operands

/// An operand of a product: row-major matrices, bf16 or f32.
#[derive(Clone, Copy)]
pub(super) struct MatrixIn {
    data: In,
    row: usize,
    batch: usize,
    transposed: bool,
}

impl MatrixIn {
    /// A matrix whose rows lie `row` elements apart.
    pub(super) fn rows(data: In, row: usize) -> MatrixIn {
        MatrixIn { data, row, batch: 0, transposed: false }
    }

    pub(super) fn t(self) -> MatrixIn {
        MatrixIn { transposed: !self.transposed, ..self }
    }

    /// One matrix for each product, `batch` elements apart; otherwise all products share the one matrix.
    pub(super) fn each(self, batch: usize) -> MatrixIn {
        MatrixIn { batch, ..self }
    }
}

/// The result of products: rows `row` elements apart, products `batch` elements apart, bf16 or f32.
#[derive(Clone, Copy)]
pub(super) struct MatrixOut {
    data: Out,
    row: usize,
    batch: usize,
    accumulate: bool,
}

impl MatrixOut {
    pub(super) fn rows(data: Out, row: usize) -> MatrixOut {
        MatrixOut { data, row, batch: 0, accumulate: false }
    }

    pub(super) fn each(self, batch: usize) -> MatrixOut {
        MatrixOut { batch, ..self }
    }

    /// The products are added to what the matrix holds.
    pub(super) fn add(self) -> MatrixOut {
        MatrixOut { accumulate: true, ..self }
    }

    /// The two output pointers of a kernel whose `real` is `dtype`: to `real`, and to float.
    fn pointers(&self, dtype: DType) -> (Option<Out>, Option<Out>) {
        if self.data.dtype() == dtype { (Some(self.data), None) } else { (None, Some(self.data)) }
    }
}

/// Elements from the first to the last of `count` matrices.
fn extent(count: usize, rows: usize, columns: usize, row: usize, batch: usize) -> usize {
    if rows * columns == 0 { 0 } else { (count - 1) * batch + (rows - 1) * row + columns }
}

// ---------------------------------------------------------------- products

/// y[p][M,N] (+)= a[p][M,K] b[p][K,N] for p < count; one operand may be transposed. If one operand is bf16, the other is
/// rounded to it; sums are f32.
#[track_caller]
pub(super) fn product(g: &Gpu, y: MatrixOut, a: MatrixIn, b: MatrixIn, sizes: [usize; 3], count: usize) {
    product_biased(g, y, [a, b], None, sizes, count);
}

/// [`product`], plus bias[N] in every row.
#[track_caller]
pub(super) fn product_biased(
    g: &Gpu,
    y: MatrixOut,
    operands: [MatrixIn; 2],
    bias: Option<In>,
    [m, n, k]: [usize; 3],
    count: usize,
) {
    if m * n * count == 0 {
        return;
    }
    let end = extent(count, m, n, y.row, y.batch);
    assert!(y.data.len() >= end, "{count} products {m}×{n} do not fit their output");
    let bf16 = operands.iter().any(|f| f.data.dtype() == DType::Bf16);
    let dtype = if bf16 { DType::Bf16 } else { DType::F32 };
    let mut rounded = Vec::new();
    let [a, b] = [(operands[0], [m, k]), (operands[1], [k, n])]
        .map(|(f, size)| Operand::new(g, f, size, dtype, count, &mut rounded));
    let instances = match operands.map(|f| f.transposed) {
        [false, false] => k::MATMUL_NN,
        [false, true] => k::MATMUL_NT,
        [true, false] => k::MATMUL_TN,
        [true, true] => panic!("a product of two transposed operands: transpose the product"),
    };
    let problem = GemmProblem { m, n, k, count, dtype };
    let algorithm = select(g, problem, instances);
    let splits = algorithm.splits;
    // An f32 product to bf16 goes by way of the workspace.
    let direct = splits == 1 && (dtype == DType::Bf16 || y.data.dtype() == DType::F32);
    let mut workspace = g.scratch(if direct { 0 } else { splits * count * m * n });
    let target = if direct { y } else { MatrixOut::rows(workspace.out(), n).each(m * n) };
    let (real, float) = target.pointers(dtype);
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
        packed: (target.data.address() % 16 == 0 && target.row % pack == 0 && target.batch % pack == 0)
            as i32,
        a_packed: a.packed as i32,
        b_packed: b.packed as i32,
        accumulate: target.accumulate as i32,
    };
    let launch = algorithm.launcher(g, problem, instances);
    let grid = algorithm.grid(problem);
    launch(g, grid, real, float, a.data, b.data, bias.filter(|_| direct), dims);
    if !direct {
        reduce_splits(g, y, workspace.view(), bias, [count, m, n], splits);
    }
}

/// y (+)= Σ over `splits` of the workspace + bias, in order.
fn reduce_splits(
    g: &Gpu,
    y: MatrixOut,
    workspace: In,
    bias: Option<In>,
    [count, m, n]: [usize; 3],
    splits: usize,
) {
    let (real, float) = y.pointers(DType::Bf16);
    let dims = k::ReduceDims {
        products: count as i32,
        m: m as i32,
        n: n as i32,
        row: y.row as i32,
        batch: y.batch as i32,
        splits: splits as i32,
        accumulate: y.accumulate as i32,
    };
    k::matmul_reduce_splits(g, Grid::elements(count * m * n), real, float, workspace, bias, dims);
}

/// y[N] = Σ over the rows of x[rows,N]
pub(super) fn sum_columns(g: &Gpu, y: Out, x: In, rows: usize, n: usize) {
    let width = n.next_power_of_two().min(32);
    let lines = 256 / width;
    let column_blocks = n.div_ceil(width);
    let splits =
        (4 * g.multiprocessors()).div_ceil(column_blocks).min(rows.div_ceil(8 * lines)).clamp(1, 256);
    let per_split = rows.div_ceil(splits);
    let mut workspace = g.scratch(splits * n);
    let grid = Grid::new([column_blocks, splits, 1], 256);
    k::matmul_columns(g, grid, workspace.out(), x, rows as i32, n as i32, per_split as i32, width as i32);
    reduce_splits(g, MatrixOut::rows(y, n), workspace.view(), None, [1, 1, n], splits);
}

/// An operand as a kernel takes it.
struct Operand {
    data: In,
    row: usize,
    batch: usize,
    /// Whether 16 bytes may be read at a time.
    packed: bool,
}

impl Operand {
    /// The matrices as they are, or rounded into a buffer that `rounded` keeps alive. `size` is without the transpose.
    #[track_caller]
    fn new(
        g: &Gpu,
        f: MatrixIn,
        size: [usize; 2],
        dtype: DType,
        count: usize,
        rounded: &mut Vec<Buffer>,
    ) -> Operand {
        let [rows, columns] = if f.transposed { [size[1], size[0]] } else { size };
        let end = extent(count, rows, columns, f.row, f.batch);
        assert!(
            f.data.len() >= end,
            "{count} operands {rows}×{columns} are more than {} elements",
            f.data.len()
        );
        assert!(end < 1 << 31, "{end} elements are more than a kernel counts");
        let pack = 16 / dtype.bytes();
        if f.data.dtype() == dtype {
            let aligned = f.data.address().is_multiple_of(16) && columns.is_multiple_of(pack);
            let packed = aligned && f.row.is_multiple_of(pack) && f.batch.is_multiple_of(pack);
            return Operand { data: f.data, row: f.row, batch: f.batch, packed };
        }
        let products = if f.batch == 0 { 1 } else { count };
        let row = columns.next_multiple_of(pack);
        let mut buffer = g.scratch_of(dtype, products * rows * row);
        round(g, buffer.out(), f, [products, rows, columns], row);
        let batch = if f.batch == 0 { 0 } else { rows * row };
        let operand = Operand { data: buffer.view(), row, batch, packed: true };
        rounded.push(buffer);
        operand
    }
}

/// y[products, rows, row] = the matrices in bf16, filled up with zeros.
fn round(g: &Gpu, y: Out, f: MatrixIn, [products, rows, columns]: [usize; 3], row: usize) {
    let sizes = [products, rows, columns, f.row, f.batch, row].map(|n| n as i32);
    let [products, rows, columns, from, batch, to] = sizes;
    k::matmul_round(g, Grid::elements(y.len()), y, f.data, products, rows, columns, from, batch, to);
}

// ---------------------------------------------------------------- tiles and their choice

/// A tile that kernels/gemm.cuh is compiled for.
#[derive(Debug)]
pub(super) struct Tile {
    pub(super) name: &'static str,
    /// Rows and columns of the product that one block computes.
    pub(super) rows: usize,
    pub(super) columns: usize,
    threads: usize,
    /// Bytes of dynamic shared memory.
    shared: usize,
    min_arch: u32,
    /// Rough share of the device's speed that it reaches when there is enough to do.
    efficiency: f64,
}

/// The tiles, as gemm.cuh's `Tile128x128` and so on. Devices before sm_80 have too little shared memory for the largest.
const TILES: [Tile; 4] = [
    tile("128x128", 128, 128, 256, 80, 1.0),
    tile("128x64", 128, 64, 128, 0, 0.85),
    tile("64x64", 64, 64, 128, 0, 0.65),
    tile("128x32", 128, 32, 128, 0, 0.6),
];

const fn tile(
    name: &'static str,
    rows: usize,
    columns: usize,
    threads: usize,
    min_arch: u32,
    efficiency: f64,
) -> Tile {
    // Four stages of 64 bytes a row, or the sums; then one number a row.
    let (ring, sums) = (4 * 64 * (rows + columns), 4 * rows * (columns + 8));
    let shared = if ring > sums { ring } else { sums } + 4 * rows;
    Tile { name, rows, columns, threads, shared, min_arch, efficiency }
}

/// `ENGINE_TILE=128x64` takes that tile wherever there is a kernel for it: for tests and measurements.
static FORCED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("ENGINE_TILE").ok());

/// `count` products y[m,n] = Σ_k a[m,k] b[k,n] of operands stored as `dtype`.
#[derive(Clone, Copy, Debug)]
pub(super) struct GemmProblem {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) count: usize,
    pub(super) dtype: DType,
}

impl GemmProblem {
    /// Blocks of 64 bytes of K: a thread block takes one at a time.
    fn k_blocks(&self) -> usize {
        self.k.div_ceil(64 / self.dtype.bytes())
    }

    /// Thread blocks that cover all products without splits.
    fn blocks(&self, tile: &Tile) -> usize {
        self.m.div_ceil(tile.rows) * self.n.div_ceil(tile.columns) * self.count
    }
}

/// How a product is computed: the tile, and the splits of the sum over K.
#[derive(Clone, Copy, Debug)]
pub(super) struct Algorithm {
    pub(super) tile: &'static Tile,
    pub(super) splits: usize,
}

/// The algorithm that should be fastest, of the tiles that `instances` has kernels for.
pub(super) fn select<F>(g: &Gpu, problem: GemmProblem, instances: &[k::Instance<F>]) -> Algorithm {
    let processors = g.multiprocessors();
    let cost = |tile: &'static Tile| {
        let (blocks, k_blocks) = (problem.blocks(tile), problem.k_blocks());
        let splits = splits(processors, blocks, k_blocks);
        // Filling the ring and writing the sums takes about as long as six blocks of K.
        let work = (tile.rows * tile.columns * (k_blocks.div_ceil(splits) + 6)) as f64 / tile.efficiency;
        let waves = (blocks * splits).div_ceil(processors) as f64;
        // The sums of splits are written and read once more.
        let elements = problem.m * problem.n * problem.count;
        let reduced = if splits == 1 { 0.0 } else { (12 * splits * elements / processors) as f64 };
        (waves * work + reduced, Algorithm { tile, splits })
    };
    let compiled = |t: &&Tile| g.arch() >= t.min_arch && instances.iter().any(|i| i.tile == t.name);
    let tiles = TILES.iter().filter(compiled);
    if let Some(tile) = tiles.clone().find(|t| FORCED.as_deref() == Some(t.name)) {
        return cost(tile).1;
    }
    tiles.map(cost).min_by(|a, b| a.0.total_cmp(&b.0)).expect("a tile that fits every device").1
}

/// Splits of the sum over K that fill the device, of at least eight blocks of K each.
fn splits(processors: usize, blocks: usize, k_blocks: usize) -> usize {
    let wanted = if blocks >= processors { 1 } else { 2 * processors / blocks };
    let per_split = k_blocks.div_ceil(wanted.min(k_blocks / 8).clamp(1, 256)).max(1);
    k_blocks.div_ceil(per_split).max(1)
}

impl Algorithm {
    pub(super) fn launcher<F: Copy>(&self, g: &Gpu, problem: GemmProblem, instances: &[k::Instance<F>]) -> F {
        let instance = instances.iter().find(|i| i.tile == self.tile.name).expect("a tile that was selected");
        if problem.dtype == DType::F32 && g.tf32() { instance.tf32 } else { instance.native }
    }

    pub(super) fn grid(&self, problem: GemmProblem) -> Grid {
        let tiles = problem.blocks(self.tile) / problem.count;
        Grid::new([tiles, 1, problem.count * self.splits], self.tile.threads).shared(self.tile.shared)
    }
}
