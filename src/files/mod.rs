//! Files of the operating system, without tensors.

use std::path::PathBuf;

pub mod atomic;
pub mod kind;
pub mod lock;
pub mod pickle;

/// The folder of this program's files that can be made again; none where no home is known.
pub fn cache_folder() -> Option<PathBuf> {
    let caches = of_environment("XDG_CACHE_HOME").or_else(|| Some(of_environment("HOME")?.join(".cache")))?;
    Some(caches.join(env!("CARGO_PKG_NAME")))
}

/// A path in the environment; an empty one is none.
pub fn of_environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
