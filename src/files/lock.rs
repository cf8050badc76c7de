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

/// Reserves `count` numbers of a folder, from `least` on: none is given to another process, then or later. Returns the
/// first.
///
/// # Errors
/// `Io` where nothing can be written.
pub fn reserve_numbers(folder: &Path, count: usize, least: usize) -> Result<usize> {
    let path = folder.join(".numbers");
    let reserve = || {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open?;
        // Without locks, on some network file systems, the numbers are those of this moment.
        let _ = file.lock();
        let mut next = String::new();
        file.read_to_string(&mut next)?;
        let first = next.trim().parse().unwrap_or(0).max(least);
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{}\n", first.saturating_add(count)).as_bytes())?;
        Ok(first)
    };
    reserve().map_err(|source| Error::io(&path, source))
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
    fn numbers_are_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = |count, least| reserve_numbers(folder.path(), count, least).unwrap();
        assert_eq!([reserve(2, 1), reserve(1, 1), reserve(1, 9), reserve(1, 1)], [1, 3, 9, 10]);
    }

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
