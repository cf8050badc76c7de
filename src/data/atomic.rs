//! Files that are either whole or absent: written under a temporary name beside the target, then renamed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `bytes` to `path`; an interrupted write leaves whatever stood there before.
///
/// # Errors
/// `Io` when the folder does not exist or cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let passing = beside(path);
    fs::write(&passing, bytes).map_err(|source| Error::io(&passing, source))?;
    fs::rename(&passing, path).map_err(|source| {
        let _ = fs::remove_file(&passing);
        Error::io(path, source)
    })
}

/// A temporary name in the folder of `path`, so that the rename stays within one file system.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
