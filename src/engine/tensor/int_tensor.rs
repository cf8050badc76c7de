//! Whole numbers, which are checked on the host.

use std::sync::{Arc, OnceLock};

use super::Shape;
use crate::engine::device::cuda::{Gpu, IntBuffer, Ints};

/// Whole numbers: word indices [B,T], lengths [B], classes [B]. They stay on the host, where they are checked; a GPU
/// gets a copy when it first asks.
#[derive(Clone)]
pub struct IntTensor {
    shape: Shape,
    data: Arc<[i32]>,
    copy: Arc<OnceLock<IntBuffer>>,
}

impl IntTensor {
    #[track_caller]
    pub fn new(data: Vec<i32>, shape: impl Into<Shape>) -> IntTensor {
        let shape = shape.into();
        assert_eq!(data.len(), shape.count(), "{} numbers do not fill the shape {shape:?}", data.len());
        IntTensor { shape, data: data.into(), copy: Arc::default() }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn as_slice(&self) -> &[i32] {
        &self.data
    }

    /// The copy on the GPU, alive as long as these.
    pub fn on(&self, gpu: &Gpu) -> Ints {
        let copy = self.copy.get_or_init(|| gpu.upload_ints(&self.data));
        assert!(copy.gpu() == gpu, "these numbers {:?} were copied to another GPU before", self.shape);
        copy.view()
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> IntTensor {
        let shape = shape.into();
        assert_eq!(self.shape.count(), shape.count(), "cannot reshape {:?} to {shape:?}", self.shape);
        IntTensor { shape, ..self.clone() }
    }
}

impl PartialEq for IntTensor {
    fn eq(&self, other: &IntTensor) -> bool {
        (self.shape, &self.data) == (other.shape, &other.data)
    }
}

impl std::fmt::Debug for IntTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IntTensor{:?} {:?}", self.shape, &self.data[..self.data.len().min(8)])
    }
}
