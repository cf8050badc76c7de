//! A folder that one process at a time may write. The lock dies with its process, however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::{Error, Result, note};

/// Held until it is dropped.
pub struct Lock {
    _file: File,
}

/// The file that is locked; it names the process that holds the lock, and stays.
pub const NAME: &str = ".lock";

impl Lock {
    /// Locks `folder`, which must be there.
    ///
    /// # Errors
    /// `Data` where another process holds the lock, with its number and its host; `Io` where nothing can be written.
    pub fn acquire(folder: &Path) -> Result<Lock> {
        let path = folder.join(NAME);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|source| Error::io(&path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process" } else { holder.trim() };
                let why = format!("{holder} is at work here; wait for it, end it, or take another folder");
                return Err(Error::data(folder, why));
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(source)) => {
                note(format!(
                    "note: {} cannot be locked ({source}): start no second training in it",
                    folder.display()
                ));
            }
        }
        let holder = format!("process {} on {}\n", std::process::id(), host());
        // Who holds it is for messages alone.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes()));
        Ok(Lock { _file: file })
    }
}

/// The name of this machine.
pub fn host() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "this machine".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let held = Lock::acquire(folder.path()).unwrap();
        let refused = Lock::acquire(folder.path()).err().unwrap().to_string();
        let process = format!("process {} on ", std::process::id());
        assert!(refused.contains(&process) && refused.contains("is at work here"), "{refused}");
        drop(held);
        assert!(Lock::acquire(folder.path()).is_ok());
    }
}
