//! Launching kernels: views of memory, grids, and the typed launchers that build.rs writes.

use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::marker::PhantomData;

use bytemuck::Pod;
use cudarc::driver::result;

use super::memory::Buffer;
use super::{DType, Gpu};

/// A kernel as it stands in kernels/: its file's family and its name.
pub struct Kernel {
    pub family: &'static str,
    pub name: &'static CStr,
}

/// The launchers, one a kernel, and the structs they take.
pub mod k {
    use super::{Gpu, Grid, In, Ints, Kernel, Out, Storage, Table, pointer};
    use crate::engine::device::DType;

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// Memory that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub struct In {
    address: u64,
    len: usize,
    dtype: DType,
}

/// Memory that a kernel writes.
#[derive(Clone, Copy, Debug)]
pub struct Out(In);

/// Whole numbers on the device.
#[derive(Clone, Copy, Debug)]
pub struct Ints(u64);

impl In {
    /// Nothing, where a kernel takes a pointer that may be null.
    pub const NONE: In = In { address: 0, len: 0, dtype: DType::F32 };

    pub(super) fn new(address: u64, len: usize, dtype: DType) -> In {
        In { address, len, dtype }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `len` elements from `offset`.
    #[track_caller]
    pub fn at(&self, offset: usize, len: usize) -> In {
        assert!(offset + len <= self.len, "{offset}..{} of {} elements", offset + len, self.len);
        In { address: self.address + (offset * self.dtype.bytes()) as u64, len, dtype: self.dtype }
    }
}

impl Out {
    pub const NONE: Out = Out(In::NONE);

    pub(super) fn new(address: u64, len: usize, dtype: DType) -> Out {
        Out(In::new(address, len, dtype))
    }

    pub fn address(&self) -> u64 {
        self.0.address
    }

    pub fn len(&self) -> usize {
        self.0.len
    }

    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    #[track_caller]
    pub fn at(&self, offset: usize, len: usize) -> Out {
        Out(self.0.at(offset, len))
    }

    /// The same memory, to be read.
    pub fn read(&self) -> In {
        self.0
    }
}

impl Ints {
    pub const NONE: Ints = Ints(0);

    pub fn address(&self) -> u64 {
        self.0
    }
}

/// Rows of plain data on the device.
pub struct Table<T> {
    buffer: Buffer,
    rows: PhantomData<T>,
}

impl<T> Table<T> {
    pub fn address(&self) -> u64 {
        self.buffer.address()
    }
}

/// Whole numbers that stay on the device as long as this lives.
pub struct IntBuffer(Buffer);

impl IntBuffer {
    pub fn view(&self) -> Ints {
        Ints(self.0.address())
    }

    pub fn gpu(&self) -> &Gpu {
        self.0.gpu()
    }
}

impl Gpu {
    /// Puts rows of a generated struct on the device.
    pub fn upload<T: Copy>(&self, rows: &[T]) -> Table<T> {
        // SAFETY: the structs that build.rs writes are numbers of 4 and 8 bytes; padding is written out as it lies.
        let bytes = unsafe { std::slice::from_raw_parts(rows.as_ptr().cast::<u8>(), size_of_val(rows)) };
        Table { buffer: self.upload_bytes(bytes), rows: PhantomData }
    }

    pub fn upload_ints(&self, values: &[i32]) -> IntBuffer {
        IntBuffer(self.upload_bytes(values))
    }

    fn upload_bytes<T: Pod>(&self, values: &[T]) -> Buffer {
        let buffer = self.scratch(size_of_val(values).div_ceil(4));
        self.write(buffer.address(), values);
        buffer
    }
}

/// Blocks and the threads of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    blocks: [usize; 3],
    threads: usize,
    shared: usize,
}

impl Grid {
    pub fn new(blocks: [usize; 3], threads: usize) -> Grid {
        Grid { blocks, threads, shared: 0 }
    }

    /// 256 threads a block, one element each.
    #[track_caller]
    pub fn elements(n: usize) -> Grid {
        assert!(n < 1 << 31, "{n} elements are more than a kernel counts");
        Grid::new([n.div_ceil(256), 1, 1], 256)
    }

    /// 256 threads a block, four elements each.
    #[track_caller]
    pub fn packs(n: usize) -> Grid {
        assert!(n < 1 << 31, "{n} elements are more than a kernel counts");
        Grid::elements(n.div_ceil(4))
    }

    /// A thread for every 16 bytes of `x`, or for every element where rows of `width` are not whole packs of 16 bytes.
    #[track_caller]
    pub fn per_pack(x: In, width: usize) -> Grid {
        let pack = 16 / x.dtype().bytes();
        Grid::elements(if width.is_multiple_of(pack) { x.len() / pack } else { x.len() })
    }

    /// With so many bytes of dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Grid {
        Grid { shared: bytes, ..self }
    }
}

/// How the `real` arguments of one launch are stored: all in one way.
struct Storage {
    kernel: &'static str,
    real: Option<DType>,
}

impl Storage {
    fn of(kernel: &'static str) -> Storage {
        Storage { kernel, real: None }
    }

    #[track_caller]
    fn real(&mut self, name: &str, dtype: DType) {
        let first = *self.real.get_or_insert(dtype);
        assert_eq!(first, dtype, "{}: {name} is stored as {dtype:?} beside {first:?}", self.kernel);
    }

    #[track_caller]
    fn fixed(&self, name: &str, dtype: DType, wanted: DType) {
        assert!(
            dtype == wanted,
            "{}: {name} is stored as {dtype:?}, the kernel takes {wanted:?}",
            self.kernel
        );
    }

    fn dtype(&self) -> DType {
        self.real.unwrap_or(DType::F32)
    }
}

fn pointer<T>(value: &mut T) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

thread_local! {
    static LAST: RefCell<[&'static str; 4]> = const { RefCell::new([""; 4]) };
}

/// The last kernels that this thread launched, latest first.
pub(super) fn last_kernels() -> String {
    let names = LAST.with_borrow(|last| last.iter().filter(|n| !n.is_empty()).copied().collect::<Vec<_>>());
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}

impl Gpu {
    #[track_caller]
    fn launch(&self, kernel: &'static Kernel, dtype: DType, grid: Grid, arguments: &mut [*mut c_void]) {
        if grid.blocks.contains(&0) {
            return;
        }
        self.bind();
        LAST.with_borrow_mut(|last| {
            last.rotate_right(1);
            last[0] = kernel.name.to_str().unwrap_or("");
        });
        let function =
            self.0.modules.function(kernel, dtype, grid.shared).unwrap_or_else(|e| crate::error::throw(e));
        let [x, y, z] = grid.blocks.map(|n| n as u32);
        // SAFETY: the launcher checked the arguments against the kernel's signature.
        let done = unsafe {
            result::launch_kernel(
                function.handle(),
                (x, y, z),
                (grid.threads as u32, 1, 1),
                grid.shared as u32,
                self.0.stream,
                arguments,
            )
        };
        self.check(&format!("the launch of {} over {grid:?}", kernel.name.to_string_lossy()), done);
    }
}
