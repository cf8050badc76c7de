//! Files of the operating system, without tensors.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub mod atomic;
pub mod kind;
pub mod lock;
mod origin;
pub mod pickle;

pub use origin::Origin;

/// The folder of this program's files that can be made again; none where no home is known.
pub fn cache_folder() -> Option<PathBuf> {
    let caches = of_environment("XDG_CACHE_HOME").or_else(|| Some(of_environment("HOME")?.join(".cache")))?;
    Some(caches.join(env!("CARGO_PKG_NAME")))
}

/// The first bytes of a file, at most `length`.
pub fn head(path: &Path, length: u64) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(length).read_to_end(&mut head)?;
    Ok(head)
}

/// A path as seen from any folder, links resolved; as it is where nothing is there.
pub fn whole(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// A path in the environment; an empty one is none.
pub fn of_environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
