//! Weight files: named arrays with the names and the shapes that PyTorch gives.

mod pth;
mod safetensors;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::tensor::Tensor;
use crate::error::{Error, Result};
use crate::files::{atomic, head};

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

/// Named arrays, the file they came from, which messages name, and what that file says of itself.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    file: PathBuf,
    arrays: BTreeMap<String, Array>,
    metadata: BTreeMap<String, String>,
}

/// A number that is none, in an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    pub name: String,
    /// The place in the array, in the file's order.
    pub index: usize,
    pub value: f32,
}

/// Metadata: the names of the networks in a file of several.
const NETWORKS: &str = "networks";

/// Looks whether a weight file is there and whole, by its header and its length alone.
///
/// # Errors
/// `Io` when it cannot be read, `Data` when it is cut off or of another format.
pub fn require_whole(path: &Path) -> Result<()> {
    safetensors::require_whole(path)
}

/// The bytes of a weight file, read once its beginning has shown that it is one.
///
/// # Errors
/// As [`require_whole`].
pub fn file_bytes(path: &Path) -> Result<Vec<u8>> {
    const HEAD: u64 = 16;
    if !pth::is_pth(&head(path, HEAD).map_err(|e| Error::io(path, e))?) {
        require_whole(path)?;
    }
    fs::read(path).map_err(|e| Error::io(path, e))
}

impl Archive {
    /// Reads a weight file: safetensors, or PyTorch's `.pth` of today or of before version 1.6.
    ///
    /// # Errors
    /// `Io` when it cannot be read, `Data` when it is damaged or of another format.
    pub fn read(path: impl AsRef<Path>) -> Result<Archive> {
        let path = path.as_ref();
        let archive = Archive::parse(path, &file_bytes(path)?)?;
        match archive.metadata(NETWORKS) {
            Some(names) => {
                let why = format!(
                    "a PyTorch file that cannot be read: it holds several networks ({names}); save one of them"
                );
                Err(Error::data(archive.file, why))
            }
            None => Ok(archive),
        }
    }

    /// The archive in the bytes of the file `path`. A `.pth` file may hold several networks, such as
    /// `{"netG": .., "netD": ..}`; then each name begins with its network's: `netG.`
    ///
    /// # Errors
    /// `Data` when they are damaged or of another format.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Archive> {
        let (arrays, metadata) =
            if pth::is_pth(bytes) { pth::read(path, bytes)? } else { safetensors::read(path, bytes)? };
        Ok(Archive { file: path.to_owned(), arrays, metadata })
    }

    /// Writes a safetensors file whole or not at all: a reader finds the old file or the new one. The file says which
    /// engine wrote it.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let of_engine =
            [("format", "pt"), ("engine", env!("CARGO_PKG_VERSION")), ("revision", env!("ENGINE_REVISION"))];
        let mut metadata = self.metadata.clone();
        metadata.extend(of_engine.map(|(key, value)| (key.to_string(), value.to_string())));
        atomic::write(path, &safetensors::bytes(path, &self.arrays, metadata)?)
    }

    /// Writes a `.pth` file, which `torch.load(weights_only=True)` opens as a state dict, whole or not at all.
    pub fn write_pth(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        atomic::write(path, &pth::bytes(&self.arrays).map_err(|e| Error::io(path, e))?)
    }

    /// A file as versions before 0.3.0 wrote it.
    #[cfg(test)]
    pub fn write_without_metadata(&self, path: &Path) {
        let bytes = safetensors::bytes(path, &self.arrays, BTreeMap::new()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// What the file says of itself under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    pub fn set_metadata(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.to_string(), value.into());
    }

    /// The first number that is infinite or none at all.
    pub fn not_finite(&self) -> Option<NotFinite> {
        self.arrays.iter().find_map(|(name, array)| {
            let Values::F32(values) = &array.values else { return None };
            let index = values.iter().position(|value| !value.is_finite())?;
            Some(NotFinite { name: name.clone(), index, value: values[index] })
        })
    }

    /// Refuses numbers that are infinite or none at all.
    ///
    /// # Errors
    /// `Data` with the file and the tensor.
    pub fn require_finite(&self) -> Result<()> {
        let Some(NotFinite { name, index, value }) = self.not_finite() else { return Ok(()) };
        let why = format!(
            "'{name}' holds {value} (its number {index}): the training that wrote it had diverged; take an earlier checkpoint"
        );
        Err(Error::data(&self.file, why))
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

    /// How many numbers all its arrays hold.
    pub fn numbers(&self) -> usize {
        self.arrays.values().map(|array| array.shape.iter().product::<usize>()).sum()
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
        self.take_prefixed(&format!("{section}/"))
    }

    /// Removes the arrays whose names begin with `prefix` and returns them without it.
    pub fn take_prefixed(&mut self, prefix: &str) -> Archive {
        let (inside, outside): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.arrays).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.arrays = outside;
        let arrays = inside.into_iter().map(|(name, array)| (name[prefix.len()..].to_owned(), array));
        Archive { file: self.file.clone(), arrays: arrays.collect(), metadata: self.metadata.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_another_kind_say_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, expected) in [
            (&b"PK\x03\x04\0\0netG/data.pkl"[..], "a PyTorch file that cannot be read: its zip is damaged"),
            (b"\x80\x02\x8a\x0al\xfc\x9c", "a PyTorch file that cannot be read: its magic number is wrong"),
            (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image"),
            (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
            (b"", "an empty file"),
            (b"\x08\0\0", "cut off after 3 bytes"),
            (b"\x08\0\0\0\0\0\0\0{}", "cut off: its header promises 8 bytes and 2 are there"),
            (b"just some text that is long enough", "not a safetensors file"),
            (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "not a safetensors file"),
        ] {
            let path = folder.path().join("netG.safetensors");
            fs::write(&path, bytes).unwrap();
            let message = Archive::read(&path).unwrap_err().to_string();
            assert!(message.contains("netG.safetensors") && message.contains(expected), "{message}");
            assert!(require_whole(&path).is_err());
        }
    }

    #[test]
    fn a_file_says_where_it_comes_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let mut archive = Archive::default();
        archive.insert("w", Array::f32(&[2], vec![1.0, f32::NAN]));
        archive.set_metadata("step", "12");
        archive.write(&path).unwrap();
        require_whole(&path).unwrap();
        let mut read = Archive::read(&path).unwrap();
        let of = |key: &str| read.metadata(key).unwrap_or_default().to_string();
        assert_eq!(
            (of("format"), of("step"), of("engine")),
            ("pt".into(), "12".into(), env!("CARGO_PKG_VERSION").into())
        );
        let found = read.not_finite().unwrap();
        assert_eq!((found.name.as_str(), found.index, found.value.is_nan()), ("w", 1, true));
        let message = read.require_finite().unwrap_err().to_string();
        assert!(message.contains("x.safetensors: 'w' holds NaN (its number 1)"), "{message}");
        assert!(read.take_section("none").metadata("step").is_some());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let message = require_whole(&path).unwrap_err().to_string();
        assert!(message.contains("cut off: 8 bytes of tensors are promised and 7 are there"), "{message}");
    }
}
