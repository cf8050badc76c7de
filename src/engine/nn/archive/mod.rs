//! Weight files: named arrays with the names and the shapes that PyTorch gives.

mod safetensors;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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
}

impl From<&Tensor> for Array {
    fn from(t: &Tensor) -> Array {
        Array::f32(&t.shape(), t.to_vec())
    }
}

/// Named arrays, and the file they came from, which messages name.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    file: PathBuf,
    arrays: BTreeMap<String, Array>,
}

impl Archive {
    /// Reads a weight file, whose first bytes tell its format.
    ///
    /// # Errors
    /// `Io` when it cannot be read, `Data` when it is damaged or of an unknown format.
    pub fn read(path: impl AsRef<Path>) -> Result<Archive> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
        let arrays = match Format::of(&bytes) {
            Format::Safetensors => safetensors::read(path, &bytes)?,
            Format::PyTorch => {
                let why = "a PyTorch file, which is not read here; save its tensors under their names as safetensors";
                return Err(Error::data(path, why));
            }
        };
        Ok(Archive { file: path.to_owned(), arrays })
    }

    /// Writes a safetensors file whole or not at all: a reader finds the old file or the new one.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        atomic::write(path, &safetensors::bytes(path, &self.arrays)?)
    }

    /// Empty for an archive that was not read from a file.
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

    /// Removes the arrays under `section/` and returns them without that prefix.
    pub fn take_section(&mut self, section: &str) -> Archive {
        let prefix = format!("{section}/");
        let (inside, outside): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.arrays).into_iter().partition(|(name, _)| name.starts_with(&prefix));
        self.arrays = outside;
        let arrays = inside.into_iter().map(|(name, array)| (name[prefix.len()..].to_owned(), array));
        Archive { file: self.file.clone(), arrays: arrays.collect() }
    }
}

// STUB-BEGIN
/// stub
pub fn require_whole(path: &Path) -> Result<()> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    if bytes.len() < 16 {
        return Err(Error::data(path, "cut off"));
    }
    Ok(())
}
impl Archive {
    /// stub
    pub fn not_finite(&self) -> Option<(String, usize, f32)> {
        self.arrays.iter().find_map(|(name, a)| {
            let v = a.to_f32();
            let i = v.iter().position(|x| !x.is_finite())?;
            Some((name.clone(), i, v[i]))
        })
    }
    /// stub
    pub fn set_metadata(&mut self, _: &str, _: impl Into<String>) {}
}
// STUB-END
/// The format of a weight file, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Has no magic number: what no other format claims.
    Safetensors,
    /// `torch.save`: a ZIP file since PyTorch 1.6, a pickle before.
    PyTorch,
}

impl Format {
    fn of(bytes: &[u8]) -> Format {
        const ZIP: &[u8] = b"PK\x03\x04";
        const PICKLE: &[u8] = b"\x80\x02";
        if bytes.starts_with(ZIP) || bytes.starts_with(PICKLE) {
            Format::PyTorch
        } else {
            Format::Safetensors
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_pytorch_are_told_from_damaged_ones() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, expected) in [
            (&b"PK\x03\x04\0\0"[..], "PyTorch"),
            (b"\x80\x02\x8a\x0a", "PyTorch"),
            (b"\x08\0\0", "copy it again"),
        ] {
            let path = folder.path().join("netG.pth");
            fs::write(&path, bytes).unwrap();
            let message = Archive::read(&path).unwrap_err().to_string();
            assert!(message.contains("netG.pth") && message.contains(expected), "{message}");
        }
    }
}
