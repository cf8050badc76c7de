//! Memory as kernels see it: an address, a length, a type.

use std::marker::PhantomData;

use bytemuck::Pod;

use super::memory::Buffer;
use super::{DType, Gpu};

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
    pub fn address(&self) -> u64 {
        self.0
    }
}

impl Buffer {
    /// For writing.
    pub fn out(&mut self) -> Out {
        Out(self.view())
    }

    /// For reading.
    pub fn view(&self) -> In {
        In { address: self.address(), len: self.len(), dtype: self.dtype() }
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

    /// Sets every element of `out`.
    pub fn fill(&self, out: Out, value: f32) {
        self.set_memory(out.address(), out.len(), out.dtype(), value);
    }

    pub fn zero(&self, out: Out) {
        self.fill(out, 0.0);
    }

    /// out = x, of the same length and type.
    #[track_caller]
    pub fn copy(&self, out: Out, x: In) {
        assert_eq!((out.len(), out.dtype()), (x.len(), x.dtype()), "a copy between views that differ");
        self.copy_memory(out.address(), x.address(), x.len() * x.dtype().bytes());
    }
}
