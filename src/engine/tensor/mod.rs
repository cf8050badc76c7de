//! Floor 1: contiguous tensors, where a kernel meets a device, the tape, random numbers.
//!
//! Images are NHWC, sequences [B,T,D], convolution weights [Cout,R,S,Cin].

pub mod rng;
mod run;
mod shape;
pub mod tape;

use std::sync::Arc;

use half::bf16;

use super::device::cpu::Buffer;
pub use rng::Rng;
pub use run::{Kernel, run};
pub use shape::Shape;
pub use tape::{Grads, backward, no_grad, record};

/// How the elements are stored. Arithmetic is f32 in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32,
    Bf16,
}

#[derive(Clone)]
enum Storage {
    F32(Buffer),
    Bf16(Vec<bf16>),
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

    /// Contents unspecified: for outputs that a kernel writes whole.
    pub fn uninit(shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        Tensor::new(shape, Storage::F32(Buffer::uninit(shape.count())))
    }

    /// [`Tensor::uninit`] where `self` lives.
    pub fn empty(&self, shape: impl Into<Shape>) -> Tensor {
        Tensor::uninit(shape)
    }

    pub fn full(shape: impl Into<Shape>, value: f32) -> Tensor {
        let mut t = Tensor::uninit(shape);
        t.as_mut_slice().fill(value);
        t
    }

    pub fn zeros(shape: impl Into<Shape>) -> Tensor {
        Tensor::full(shape, 0.0)
    }

    #[track_caller]
    pub fn from_vec(data: Vec<f32>, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(data.len(), shape.count(), "{} elements do not fill the shape {shape:?}", data.len());
        Tensor::new(shape, Storage::F32(Buffer::from_vec(data)))
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
        }
    }

    pub fn to_vec(&self) -> Vec<f32> {
        match &*self.storage {
            Storage::F32(buffer) => buffer.as_slice().to_vec(),
            Storage::Bf16(data) => data.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// The only element.
    #[track_caller]
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item() wants one element, not {:?}", self.shape);
        self.to_vec()[0]
    }

    /// The same values in another storage type, off the tape.
    pub fn cast(&self, dtype: DType) -> Tensor {
        match (dtype, &*self.storage) {
            (DType::Bf16, Storage::F32(buffer)) => {
                let data = buffer.as_slice().iter().map(|&x| bf16::from_f32(x)).collect();
                Tensor::new(self.shape, Storage::Bf16(data))
            }
            (DType::F32, Storage::Bf16(_)) => Tensor::from_vec(self.to_vec(), self.shape),
            _ => self.detach(),
        }
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

    pub fn all_finite(&self) -> bool {
        self.as_slice().iter().all(|x| x.is_finite())
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

/// Whole numbers: word indices [B,T], lengths [B], classes [B].
#[derive(Clone, Debug, PartialEq)]
pub struct Ids {
    shape: Shape,
    data: Arc<[i32]>,
}

impl Ids {
    #[track_caller]
    pub fn new(data: Vec<i32>, shape: impl Into<Shape>) -> Ids {
        let shape = shape.into();
        assert_eq!(data.len(), shape.count(), "{} numbers do not fill the shape {shape:?}", data.len());
        Ids { shape, data: data.into() }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn as_slice(&self) -> &[i32] {
        &self.data
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Ids {
        Ids::new(self.data.to_vec(), shape)
    }
}
