//! Launching kernels: grids, and the typed launchers that build.rs writes.

use std::ffi::c_void;

use cudarc::driver::result;

use super::kernel::Kernel;
use super::view::{In, Ints, Out, Table};
use super::{DType, Gpu};
use crate::error::throw;

/// The launchers, one a kernel, and the structs they take.
pub mod k {
    use super::{Gpu, Grid, In, Ints, Kernel, Out, Storage, Table, pointer};
    use crate::engine::device::DType;

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
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

impl Gpu {
    #[track_caller]
    fn launch(&self, kernel: &'static Kernel, dtype: DType, grid: Grid, arguments: &mut [*mut c_void]) {
        if grid.blocks.contains(&0) {
            return;
        }
        self.bind();
        kernel.remember();
        let function = self.0.modules.function(kernel, dtype, grid.shared).unwrap_or_else(|e| throw(e));
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
        if done.is_err() {
            self.check(&format!("the launch of {} over {grid:?}", kernel.name.to_string_lossy()), done);
        }
    }
}
