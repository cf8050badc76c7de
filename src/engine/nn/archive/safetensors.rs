//! Safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytemuck::{AnyBitPattern, cast_slice, pod_collect_to_vec};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{Array, Values};
use crate::error::{Error, Result};
use crate::files::kind;

/// Arrays and metadata by name.
pub type Contents = (BTreeMap<String, Array>, BTreeMap<String, String>);

/// Bytes before the header: its length.
const PREFIX: usize = 8;
/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// Looks at the header and at the length of a file; its tensors are not read.
pub fn require_whole(path: &Path) -> Result<()> {
    let failed = |e| Error::io(path, e);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head).map_err(failed)?;
    if let Some(kind) = kind::of_bytes(&head).filter(|kind| *kind != "a safetensors file") {
        let why = format!("{kind}; a weight file is expected: safetensors, or PyTorch's .pth");
        return Err(Error::data(path, why));
    }
    let cut_off = |why: String| Error::data(path, format!("{why}; copy it again"));
    let Some(prefix) = head.first_chunk::<PREFIX>() else {
        return Err(match length {
            0 => Error::data(path, "an empty file; copy it again"),
            _ => cut_off(format!("cut off after {length} bytes")),
        });
    };
    let header = u64::from_le_bytes(*prefix);
    if header > LONGEST_HEADER || head.get(PREFIX).is_some_and(|&first| first != b'{') {
        return Err(Error::data(path, "not a safetensors file"));
    }
    let beyond = length - PREFIX as u64;
    if header > beyond {
        return Err(cut_off(format!("cut off: its header promises {header} bytes and {beyond} are there")));
    }
    let rest = (header + PREFIX as u64).saturating_sub(head.len() as u64);
    (&mut file).take(rest).read_to_end(&mut head).map_err(failed)?;
    let header_end = (header as usize + PREFIX).min(head.len());
    let Promised(promised) =
        serde_json::from_slice(&head[PREFIX..header_end]).map_err(|e| damaged(path, &e))?;
    let there = beyond - header;
    if promised > there {
        return Err(cut_off(format!(
            "cut off: {promised} bytes of tensors are promised and {there} are there"
        )));
    }
    Ok(())
}

/// Where the tensors of a header end. Nothing else of it is kept: what is no header may unfold to a hundred times its size.
struct Promised(u64);

impl<'de> Deserialize<'de> for Promised {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Promised, D::Error> {
        deserializer.deserialize_map(Header)
    }
}

struct Header;

impl<'de> Visitor<'de> for Header {
    type Value = Promised;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut tensors: A) -> std::result::Result<Promised, A::Error> {
        let mut end = 0;
        while tensors.next_key::<IgnoredAny>()?.is_some() {
            let Entry { data_offsets } = tensors.next_value()?;
            end = end.max(data_offsets.map_or(0, |(_, end)| end));
        }
        Ok(Promised(end))
    }
}

/// A tensor's, or the metadata, which have no place.
#[derive(Deserialize)]
struct Entry {
    data_offsets: Option<(u64, u64)>,
}

/// Bytes that tell the format.
const HEAD: u64 = 512;

fn damaged(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::data(path, format!("a damaged safetensors file ({error}); copy it again"))
}

/// The arrays and the metadata in `bytes`, which are those of the file `path`.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| damaged(path, &e))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(path, &e))?;
    let metadata =
        header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let arrays = tensors.iter().map(|(name, view)| Ok((name.to_owned(), decode(path, name, &view)?)));
    Ok((arrays.collect::<Result<_>>()?, metadata))
}

/// The bytes of a file that holds `arrays`.
pub fn bytes(
    path: &Path,
    arrays: &BTreeMap<String, Array>,
    metadata: BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let views = arrays.iter().map(|(name, array)| (name, view(array)));
    let metadata = metadata.into_iter().collect();
    let mut bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|e| Error::data(path, e.to_string()))?;
    sort_header(&mut bytes);
    Ok(bytes)
}

/// The library writes the metadata in any order; sorted, equal contents are equal bytes.
fn sort_header(bytes: &mut [u8]) {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return };
    let end = PREFIX + u64::from_le_bytes(*prefix) as usize;
    let header = &mut bytes[PREFIX..end];
    let Ok(sorted) = serde_json::from_slice::<serde_json::Value>(header) else { return };
    let sorted = sorted.to_string();
    if sorted.len() <= header.len() {
        header[..sorted.len()].copy_from_slice(sorted.as_bytes());
        header[sorted.len()..].fill(b' ');
    }
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
