//! Contiguous tensors, where a kernel meets a device, the tape, random numbers.
//!
//! Images are NHWC, sequences [B,T,D], convolution weights [Cout,R,S,Cin].

mod int_tensor;
pub mod rng;
mod run;
mod shape;
mod slots;
pub mod tape;

use std::sync::Arc;

use half::bf16;

use super::device;
use super::device::cpu::Buffer;
use super::device::cuda::{self, Grid, k};
/// What networks and training may know of a device: its name, how it computes, how much it holds, and a range for
/// profilers. Its memory and kernels stay below.
pub use super::device::range::range;
pub use super::device::{DType, Device, Precision, current as current_device, memory_in_use, set_precision};
pub use int_tensor::IntTensor;
pub use rng::Rng;
pub use run::{Kernel, run};
pub use shape::Shape;
pub use tape::{Grads, Key, backward, backward_each, backward_from, no_grad, record, recording};

#[derive(Clone)]
enum Storage {
    F32(Buffer),
    Bf16(Vec<bf16>),
    Cuda(cuda::Buffer),
}

/// A contiguous array, cheap to clone (the storage is shared), and its place on the tape.
#[derive(Clone)]
pub struct Tensor {
    shape: Shape,
    storage: Arc<Storage>,
    edge: Option<tape::Edge>,
}

impl Tensor {
    fn new(shape: Shape, storage: Storage) -> Tensor {
        Tensor { shape, storage: Arc::new(storage), edge: None }
    }

    fn uninit_on(device: &Device, dtype: DType, shape: Shape) -> Tensor {
        let storage = match (device, dtype) {
            (Device::Cpu, DType::F32) => Storage::F32(Buffer::uninit(shape.count())),
            (Device::Cpu, DType::Bf16) => Storage::Bf16(vec![bf16::ZERO; shape.count()]),
            (Device::Cuda(gpu), dtype) => Storage::Cuda(gpu.scratch_of(dtype, shape.count())),
        };
        Tensor::new(shape, storage)
    }

    /// Contents unspecified: for outputs that a kernel writes whole.
    pub fn uninit(shape: impl Into<Shape>) -> Tensor {
        Tensor::uninit_on(&device::current(), DType::F32, shape.into())
    }

    /// [`Tensor::uninit`] where `self` lives and stored as `self` is.
    pub fn new_empty(&self, shape: impl Into<Shape>) -> Tensor {
        Tensor::uninit_on(&self.device(), self.dtype(), shape.into())
    }

    /// [`Tensor::uninit`] in f32 where `self` lives: for weights, statistics and losses.
    pub fn new_empty_f32(&self, shape: impl Into<Shape>) -> Tensor {
        self.new_empty_of(DType::F32, shape)
    }

    /// [`Tensor::uninit`] stored as `dtype` where `self` lives.
    pub fn new_empty_of(&self, dtype: DType, shape: impl Into<Shape>) -> Tensor {
        Tensor::uninit_on(&self.device(), dtype, shape.into())
    }

    pub fn full(shape: impl Into<Shape>, value: f32) -> Tensor {
        let mut t = Tensor::uninit(shape);
        t.fill(value);
        t
    }

    pub fn zeros(shape: impl Into<Shape>) -> Tensor {
        Tensor::full(shape, 0.0)
    }

    /// Sets every element.
    pub fn fill(&mut self, value: f32) {
        match Arc::make_mut(&mut self.storage) {
            Storage::F32(buffer) => buffer.as_mut_slice().fill(value),
            Storage::Bf16(data) => data.fill(bf16::from_f32(value)),
            Storage::Cuda(buffer) => {
                let gpu = buffer.gpu().clone();
                gpu.fill(buffer.out(), value);
            }
        }
    }

    #[track_caller]
    pub fn from_vec(data: Vec<f32>, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(data.len(), shape.count(), "{} elements do not fill the shape {shape:?}", data.len());
        match device::current() {
            Device::Cpu => Tensor::new(shape, Storage::F32(Buffer::from_vec(data))),
            Device::Cuda(gpu) => Tensor::new(shape, Storage::Cuda(gpu.upload_f32(&data))),
        }
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        match &*self.storage {
            Storage::F32(_) | Storage::Bf16(_) => Device::Cpu,
            Storage::Cuda(buffer) => Device::Cuda(buffer.gpu().clone()),
        }
    }

    pub(super) fn lives_on(&self, device: &Device) -> bool {
        match (&*self.storage, device) {
            (Storage::Cuda(buffer), Device::Cuda(gpu)) => buffer.gpu() == gpu,
            (Storage::Cuda(_), Device::Cpu) => false,
            (_, device) => *device == Device::Cpu,
        }
    }

    /// The same values on another device, off the tape.
    pub fn to(&self, device: &Device) -> Tensor {
        if self.device() == *device {
            return self.detach();
        }
        let dtype = self.dtype();
        let moved = device::with(device, || Tensor::from_vec(self.to_vec(), self.shape));
        if dtype == DType::F32 { moved } else { no_grad(|| moved.cast(dtype)) }
    }

    pub fn scalar(value: f32) -> Tensor {
        Tensor::full([], value)
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The dimensions as an array; panics at the caller when the rank is another.
    #[track_caller]
    pub fn dims<const N: usize>(&self) -> [usize; N] {
        let shape = self.shape;
        (*shape).try_into().unwrap_or_else(|_| panic!("a tensor of rank {N} is wanted, not {shape:?}"))
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape.count()
    }

    pub fn dtype(&self) -> DType {
        match *self.storage {
            Storage::F32(_) => DType::F32,
            Storage::Bf16(_) => DType::Bf16,
            Storage::Cuda(ref buffer) => buffer.dtype(),
        }
    }

    /// The elements of an f32 tensor on the CPU, in row-major order.
    #[track_caller]
    pub fn as_slice(&self) -> &[f32] {
        match &*self.storage {
            Storage::F32(buffer) => buffer.as_slice(),
            Storage::Bf16(_) => {
                panic!("the CPU computes in f32; cast this bf16 tensor {:?} first", self.shape)
            }
            Storage::Cuda(_) => panic!("the tensor {:?} lives on a GPU: to_vec() copies it", self.shape),
        }
    }

    /// The elements for writing; copies them first where another tensor shares the storage.
    #[track_caller]
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        match Arc::make_mut(&mut self.storage) {
            Storage::F32(buffer) => buffer.as_mut_slice(),
            Storage::Bf16(_) => {
                panic!("the CPU computes in f32; cast this bf16 tensor {:?} first", self.shape)
            }
            Storage::Cuda(_) => panic!("the tensor {:?} lives on a GPU: to_vec() copies it", self.shape),
        }
    }

    /// The elements on the GPU, for a kernel that reads them.
    #[track_caller]
    fn as_in(&self) -> cuda::In {
        match &*self.storage {
            Storage::Cuda(buffer) => buffer.view(),
            _ => panic!("the tensor {:?} lives on the CPU: to() moves it", self.shape),
        }
    }

    /// The elements on the GPU, for a kernel that writes them; copies them first where another tensor shares them.
    #[track_caller]
    fn as_out(&mut self) -> cuda::Out {
        match Arc::make_mut(&mut self.storage) {
            Storage::Cuda(buffer) => buffer.out(),
            _ => panic!("the tensor {:?} lives on the CPU: to() moves it", self.shape),
        }
    }

    pub fn to_vec(&self) -> Vec<f32> {
        match &*self.storage {
            Storage::F32(buffer) => buffer.as_slice().to_vec(),
            Storage::Bf16(data) => data.iter().map(|x| x.to_f32()).collect(),
            Storage::Cuda(buffer) => buffer.download(),
        }
    }

    /// The only element.
    #[track_caller]
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item() wants one element, not {:?}", self.shape);
        self.to_vec()[0]
    }

    /// The same values in another storage type.
    pub fn cast(&self, dtype: DType) -> Tensor {
        let from = self.dtype();
        if from == dtype {
            return self.clone();
        }
        let y = match &*self.storage {
            Storage::F32(buffer) => {
                let data = buffer.as_slice().iter().map(|&x| bf16::from_f32(x)).collect();
                Tensor::new(self.shape, Storage::Bf16(data))
            }
            Storage::Bf16(data) => {
                let mut y = Tensor::uninit_on(&Device::Cpu, DType::F32, self.shape);
                y.as_mut_slice().iter_mut().zip(data).for_each(|(y, x)| *y = x.to_f32());
                y
            }
            Storage::Cuda(buffer) => {
                let mut y = buffer.gpu().scratch_of(dtype, self.len());
                let (g, grid, n) = (buffer.gpu(), Grid::packs(self.len()), self.len() as i32);
                match dtype {
                    DType::F32 => k::cast_to_f32(g, grid, y.out(), buffer.view(), n),
                    DType::Bf16 => k::cast_to_bf16(g, grid, y.out(), buffer.view(), n),
                }
                Tensor::new(self.shape, Storage::Cuda(y))
            }
        };
        tape::record1(y, [self], move |dy, _| [Some(dy.cast(from))])
    }

    /// The same values stored as this thread's networks store activations.
    pub fn to_activation_dtype(&self) -> Tensor {
        self.cast(device::precision().storage())
    }

    /// The same elements in another shape, free of cost.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let (from, to) = (self.shape, shape.into());
        assert_eq!(from.count(), to.count(), "cannot reshape {from:?} to {to:?}");
        let y = Tensor { shape: to, storage: self.storage.clone(), edge: None };
        record([y], [self], move |[dy], _| [dy.map(|g| g.reshape(from))]).into_iter().next().unwrap()
    }

    /// The same values, off the tape.
    pub fn detach(&self) -> Tensor {
        Tensor { shape: self.shape, storage: self.storage.clone(), edge: None }
    }

    /// The same values as a new leaf: something gradients can be asked for.
    pub fn leaf(&self) -> Tensor {
        let mut t = self.detach();
        t.edge = Some(tape::Edge::leaf());
        t
    }

    /// Puts `value` in place of this tensor's elements; a leaf stays the same leaf.
    #[track_caller]
    pub fn assign(&mut self, value: &Tensor) {
        assert_eq!(self.shape, value.shape, "cannot assign {:?} to {:?}", value.shape, self.shape);
        self.storage = value.storage.clone();
    }

    /// Whether both have their elements in one place. Since writing to shared storage copies first, a clone that is kept
    /// tells whether a tensor has changed.
    pub fn shares_storage(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage)
    }

    pub fn all_finite(&self) -> bool {
        self.to_vec().iter().all(|x| x.is_finite())
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values = self.to_vec();
        let head = &values[..values.len().min(8)];
        write!(f, "Tensor{:?} {head:?}{}", self.shape, if values.len() > 8 { "…" } else { "" })
    }
}

/// Panics at the caller, showing both shapes, when they differ.
#[track_caller]
pub fn same_shape(op: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape, b.shape, "{op}: the shapes {:?} and {:?} differ", a.shape, b.shape);
}
