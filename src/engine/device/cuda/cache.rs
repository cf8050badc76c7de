//! Compiled kernels on disk, by what they were compiled from.
//!
//! A file is written beside its place and renamed, so that processes at the same time do not disturb each other, and
//! begins with a checksum, so that a damaged one is compiled anew.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::error::{chain, note};
use crate::files::{atomic, cache_folder};

/// What the file begins with: who wrote it, in which layout.
const MAGIC: &[u8; 8] = b"engine-1";
const HEADER: usize = MAGIC.len() + 4;

/// The folder of the compiled kernels; none where no home is known or `ENGINE_CACHE` is empty.
pub fn folder() -> Option<PathBuf> {
    if let Some(own) = std::env::var_os("ENGINE_CACHE") {
        return (!own.is_empty()).then(|| own.into());
    }
    cache_folder()
}

/// A name made of everything the result depends on.
pub fn key<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
    1u8.hash(&mut hashers[1]);
    for part in parts {
        hashers.iter_mut().for_each(|h| part.hash(h));
    }
    hashers.map(|h| format!("{:016x}", h.finish())).concat()
}

/// What was stored under the key, if it is there and whole.
pub fn load(folder: &Path, key: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(folder.join(key)).ok()?;
    let (header, code) = bytes.split_at_checked(HEADER)?;
    let sum = u32::from_le_bytes(header[MAGIC.len()..].try_into().ok()?);
    (header.starts_with(MAGIC) && crc32c::crc32c(code) == sum).then(|| code.to_vec())
}

/// Keeps the code for the next process. Where that fails, it is said once and nothing is lost but time.
pub fn store(folder: &Path, key: &str, code: &[u8]) {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32c::crc32c(code).to_le_bytes());
    bytes.extend(code);
    let written = std::fs::create_dir_all(folder)
        .map_err(|e| e.to_string())
        .and_then(|()| atomic::write(folder.join(key), &bytes).map_err(|e| chain(&e, ": ")));
    if let Err(why) = written {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            note(format_args!(
                "note: compiled kernels cannot be kept in {}: {why}; they are compiled anew at every start. \
                 Name another folder with ENGINE_CACHE",
                folder.display()
            ));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let key = key(["source", "options"].into_iter());
        assert_ne!(key, super::key(["sourceoptions", ""].into_iter()));
        assert_eq!(load(folder.path(), &key), None);
        store(folder.path(), &key, b"code of a kernel");
        assert_eq!(load(folder.path(), &key).unwrap(), b"code of a kernel");
        let path = folder.path().join(&key);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(load(folder.path(), &key), None);
        std::fs::write(&path, &bytes[..5]).unwrap();
        assert_eq!(load(folder.path(), &key), None);
    }

    #[test]
    fn writers_at_the_same_time_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..8u8 {
                let folder = folder.path();
                scope.spawn(move || (0..20).for_each(|_| store(folder, "k", &vec![n; 10_000])));
            }
        });
        let code = load(folder.path(), "k").unwrap();
        assert!(code.len() == 10_000 && code.iter().all(|&b| b == code[0]));
    }
}
