//! The files below a folder by their names, however their system spells them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use unicode_normalization::UnicodeNormalization;

/// Each folder is listed once, which is also cheaper than asking for every file.
pub struct Tree {
    root: PathBuf,
    folders: Mutex<HashMap<PathBuf, Arc<Names>>>,
}

/// The names in a folder by their NFC form, and by that in lower case.
#[derive(Default)]
struct Names {
    exact: HashMap<String, Vec<OsString>>,
    lower: HashMap<String, Vec<OsString>>,
}

impl Tree {
    pub fn new(root: PathBuf) -> Tree {
        Tree { root, folders: Mutex::default() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a path in NFC. Where no name is equal, one that differs in case alone is taken if it is the only
    /// one.
    pub fn find(&self, path: &str) -> Option<PathBuf> {
        path.split('/').try_fold(self.root.clone(), |folder, part| {
            let name = self.names(&folder).get(part)?;
            Some(folder.join(name))
        })
    }

    /// The file of a name in the folder of `file`, which lies in this one.
    pub fn find_beside(&self, file: &Path, name: &str) -> Option<PathBuf> {
        let folder = file.parent()?;
        Some(folder.join(self.names(folder).get(name)?))
    }

    /// Some file of it or of a folder in it, for a message.
    pub fn example(&self) -> Option<String> {
        let names = self.names(&self.root);
        let mut names: Vec<&OsString> = names.exact.values().flatten().collect();
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        names.sort();
        let inside = |folder: &&OsString| {
            let names = self.names(&self.root.join(folder));
            let file = names.exact.values().flatten().min()?;
            Some(Path::new(folder).join(file).display().to_string())
        };
        let is_file = |name: &&&OsString| self.root.join(name).is_file();
        let at_root = || names.iter().find(is_file).map(|file| Path::new(file).display().to_string());
        names.iter().copied().find_map(|name| inside(&name)).or_else(at_root)
    }

    fn names(&self, folder: &Path) -> Arc<Names> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = folders.get(folder) {
            return Arc::clone(names);
        }
        let names = Arc::new(Names::read(folder));
        folders.insert(folder.to_path_buf(), Arc::clone(&names));
        names
    }
}

impl Names {
    /// Empty where there is no such folder. A name that is not Unicode cannot stand in a list.
    fn read(folder: &Path) -> Names {
        let mut names = Names::default();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let exact: String = name.nfc().collect();
            names.lower.entry(exact.to_lowercase()).or_default().push(name.clone().into());
            names.exact.entry(exact).or_default().push(name.into());
        }
        names
    }

    fn get(&self, name: &str) -> Option<OsString> {
        let exact = self.exact.get(name).map_or(&[][..], Vec::as_slice);
        let spelled = exact.iter().find(|found| found.to_str() == Some(name)).or(exact.iter().min());
        let only = || match self.lower.get(&name.to_lowercase()).map(Vec::as_slice) {
            Some([only]) => Some(only),
            _ => None,
        };
        spelled.or_else(only).cloned()
    }
}
