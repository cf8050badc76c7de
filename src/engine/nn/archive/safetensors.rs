//! Safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use bytemuck::{AnyBitPattern, cast_slice, pod_collect_to_vec};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{Array, Values};
use crate::error::{Error, Result};

/// The arrays in `bytes`, which are those of the file `path`.
pub fn read(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| {
        let why = format!(
            "not a whole safetensors file ({e}): it was cut off or is of another format; copy it again"
        );
        Error::data(path, why)
    })?;
    tensors.iter().map(|(name, view)| Ok((name.to_owned(), decode(path, name, &view)?))).collect()
}

/// The bytes of a file that holds `arrays`.
pub fn bytes(path: &Path, arrays: &BTreeMap<String, Array>) -> Result<Vec<u8>> {
    let views = arrays.iter().map(|(name, array)| (name, view(array)));
    safetensors::serialize(views, None).map_err(|e| Error::data(path, e.to_string()))
}

fn view(array: &Array) -> TensorView<'_> {
    let (dtype, bytes) = match &array.values {
        Values::F32(values) => (Dtype::F32, cast_slice(values)),
        Values::I64(values) => (Dtype::I64, cast_slice(values)),
    };
    TensorView::new(dtype, array.shape.clone(), bytes).expect("the values fill the shape")
}

fn decode(path: &Path, name: &str, view: &TensorView) -> Result<Array> {
    let bytes = view.data();
    let floats = |values| Ok(Values::F32(values));
    let integers = |values| Ok(Values::I64(values));
    let values: Result<Values> = match view.dtype() {
        Dtype::F32 => floats(pod_collect_to_vec(bytes)),
        Dtype::F64 => floats(numbers(bytes, |v: f64| v as f32)),
        Dtype::F16 => floats(numbers(bytes, f16::to_f32)),
        Dtype::BF16 => floats(numbers(bytes, bf16::to_f32)),
        Dtype::I64 => integers(pod_collect_to_vec(bytes)),
        Dtype::I32 => integers(numbers(bytes, |v: i32| v.into())),
        Dtype::U8 | Dtype::BOOL => integers(numbers(bytes, |v: u8| v.into())),
        other => Err(Error::data(path, format!("'{name}' is stored as {other:?}, which is not read here"))),
    };
    Ok(Array { shape: view.shape().to_vec(), values: values? })
}

/// Numbers in a byte buffer of any alignment.
fn numbers<T: AnyBitPattern, U>(bytes: &[u8], f: impl Fn(T) -> U) -> Vec<U> {
    bytes.chunks_exact(size_of::<T>()).map(|b| f(bytemuck::pod_read_unaligned(b))).collect()
}
