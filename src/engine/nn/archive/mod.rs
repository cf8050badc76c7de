//! Checkpoint files: safetensors, with the names and the shapes that PyTorch gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytemuck::{AnyBitPattern, cast_slice, pod_collect_to_vec};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::engine::tensor::Tensor;
use crate::error::{Error, Result};
use crate::files::atomic;

/// Numbers and their shape as a file holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Array {
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Array {
        Array { shape: shape.to_vec(), values: Values::F32(values) }
    }

    /// One whole number: a counter.
    pub fn count(value: u64) -> Array {
        Array { shape: Vec::new(), values: Values::I64(vec![value as i64]) }
    }

    /// The values as they are used in arithmetic.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.values {
            Values::F32(values) => values.clone(),
            Values::I64(values) => values.iter().map(|&v| v as f32).collect(),
        }
    }

    pub fn to_i64(&self) -> Vec<i64> {
        match &self.values {
            Values::F32(values) => values.iter().map(|&v| v as i64).collect(),
            Values::I64(values) => values.clone(),
        }
    }

    pub fn tensor(&self) -> Tensor {
        Tensor::from_vec(self.to_f32(), self.shape.as_slice())
    }

    fn view(&self) -> TensorView<'_> {
        let (dtype, bytes) = match &self.values {
            Values::F32(values) => (Dtype::F32, cast_slice(values)),
            Values::I64(values) => (Dtype::I64, cast_slice(values)),
        };
        TensorView::new(dtype, self.shape.clone(), bytes).expect("the values fill the shape")
    }
}

impl From<&Tensor> for Array {
    fn from(t: &Tensor) -> Array {
        Array::f32(&t.shape(), t.to_vec())
    }
}

/// Named arrays, and the file they came from for the sake of messages.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    file: PathBuf,
    arrays: BTreeMap<String, Array>,
}

impl Archive {
    pub fn new(file: impl Into<PathBuf>) -> Archive {
        Archive { file: file.into(), arrays: BTreeMap::new() }
    }

    pub fn read(path: impl AsRef<Path>) -> Result<Archive> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| {
            let why = format!(
                "not a whole safetensors file ({e}): it was cut off or is of another format; copy it again"
            );
            Error::data(path, why)
        })?;
        let mut archive = Archive::new(path);
        for (name, view) in tensors.iter() {
            archive.insert(name, decode(path, name, &view)?);
        }
        Ok(archive)
    }

    /// Writes all or nothing: whoever opens `path` finds the old file or the new one.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let views = self.arrays.iter().map(|(name, array)| (name, array.view()));
        let bytes = safetensors::serialize(views, None).map_err(|e| Error::data(path, e.to_string()))?;
        atomic::write(path, &bytes)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn insert(&mut self, name: impl Into<String>, array: Array) {
        self.arrays.insert(name.into(), array);
    }

    pub fn get(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    pub fn take(&mut self, name: &str) -> Option<Array> {
        self.arrays.remove(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// Adds all of `other` under `section/`.
    pub fn add_section(&mut self, section: &str, other: Archive) {
        self.arrays
            .extend(other.arrays.into_iter().map(|(name, array)| (format!("{section}/{name}"), array)));
    }

    /// Takes out what stands under `section/`.
    pub fn take_section(&mut self, section: &str) -> Archive {
        let prefix = format!("{section}/");
        let (inside, outside): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.arrays).into_iter().partition(|(name, _)| name.starts_with(&prefix));
        self.arrays = outside;
        let arrays = inside.into_iter().map(|(name, array)| (name[prefix.len()..].to_owned(), array));
        Archive { file: self.file.clone(), arrays: arrays.collect() }
    }
}

fn decode(path: &Path, name: &str, view: &TensorView) -> Result<Array> {
    let bytes = view.data();
    let floats = |values| Ok(Values::F32(values));
    let whole = |values| Ok(Values::I64(values));
    let values: Result<Values> = match view.dtype() {
        Dtype::F32 => floats(pod_collect_to_vec(bytes)),
        Dtype::F64 => floats(numbers(bytes, |v: f64| v as f32)),
        Dtype::F16 => floats(numbers(bytes, f16::to_f32)),
        Dtype::BF16 => floats(numbers(bytes, bf16::to_f32)),
        Dtype::I64 => whole(pod_collect_to_vec(bytes)),
        Dtype::I32 => whole(numbers(bytes, |v: i32| v.into())),
        Dtype::U8 | Dtype::BOOL => whole(numbers(bytes, |v: u8| v.into())),
        other => Err(Error::data(path, format!("'{name}' is stored as {other:?}, which is not read here"))),
    };
    Ok(Array { shape: view.shape().to_vec(), values: values? })
}

/// Numbers in a byte buffer of any alignment.
fn numbers<T: AnyBitPattern, U>(bytes: &[u8], f: impl Fn(T) -> U) -> Vec<U> {
    bytes.chunks_exact(size_of::<T>()).map(|b| f(bytemuck::pod_read_unaligned(b))).collect()
}
