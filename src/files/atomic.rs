//! Files that are either whole or absent: written under a temporary name beside the target, then renamed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Writes a sibling, flushes it to the disk and renames it over `path`; an interrupted write leaves whatever stood
/// there before.
///
/// # Errors
/// `Io` when the folder does not exist or cannot be written.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    write_with(path, |file| file.write_all(bytes).map(Some).map_err(|source| Error::io(path, source)))
        .map(drop)
}

/// As [`write`], for what is too large for memory: `fill` writes the file, and may give it up with none.
///
/// # Errors
/// Those of `fill`; `Io` when the folder does not exist or cannot be written.
pub fn write_with<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<Option<T>>) -> Result<Option<T>> {
    let temporary = beside(path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |source| Error::io(path, source);
    let write = || {
        let mut file = File::create(&temporary).map_err(io)?;
        let Some(filled) = fill(&mut file)? else { return Ok(None) };
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, path).map_err(io)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        Ok(Some(filled))
    };
    let written = write();
    if !matches!(written, Ok(Some(_))) {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A temporary name in the folder of `path`, so that the rename stays within one file system.
pub fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Whether a name is that of a temporary file or folder, `.NAME.<process>.tmp` or `.NAME.<process>.<number>.tmp`: what
/// an interrupted process left.
pub fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    let process = inner.and_then(|inner| inner.rsplit_once('.')).map(|(_, process)| process);
    process.is_some_and(|process| process.parse::<u32>().is_ok())
}

/// Adds a line to a file, in one write; makes the file where there is none. A line that an interrupted process left
/// unfinished is ended first.
///
/// # Errors
/// `Io` when it cannot be written.
pub fn append_line(path: impl AsRef<Path>, line: &str) -> Result<()> {
    let path = path.as_ref();
    let append = || {
        let mut file = fs::OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut last = [b'\n'];
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        let end = if last == [b'\n'] { "" } else { "\n" };
        file.write_all(format!("{end}{line}\n").as_bytes())?;
        file.sync_all()
    };
    append().map_err(|source| Error::io(path, source))
}
