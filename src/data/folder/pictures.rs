//! The pictures below a folder, and which of them a name in a list means.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;
use walkdir::{DirEntry, WalkDir};

use crate::data::dataset::Skip;
use crate::data::names;
use crate::error::{Error, Result};

pub struct Picture {
    /// Below the folder, in NFC, with `/` between folders.
    pub path: String,
    pub file: PathBuf,
}

impl Picture {
    /// The path without its ending.
    pub fn stem(&self) -> &str {
        names::ending(&self.path)
            .map_or(&self.path, |ending| &self.path[..self.path.len() - ending.len() - 1])
    }

    /// The folders that it lies in, the outermost first.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.path.rsplit_once('/').into_iter().flat_map(|(folders, _)| folders.split('/'))
    }
}

/// All pictures in the order of their paths.
pub struct Pictures {
    pub all: Vec<Picture>,
    /// By file name in lower case, with and without the ending.
    by_name: HashMap<String, Vec<usize>>,
}

/// Which picture a name means.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    One(usize),
    Several(usize, usize),
    None,
}

impl Pictures {
    /// # Errors
    /// `Data` when the folder cannot be read.
    pub fn of(root: &Path, skipped: &mut Vec<Skip>) -> Result<Pictures> {
        let mut all = Vec::new();
        let walk = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
        for entry in walk.filter_entry(|entry| entry.depth() == 0 || !is_ignored(entry)) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if error.depth() == 0 => {
                    return Err(Error::data(root, format!("cannot be read ({error}); make it readable")));
                }
                // Links that lead nowhere, or in a circle, and folders of others.
                Err(error) => {
                    let file = error.path().unwrap_or(root).to_path_buf();
                    let is_hidden =
                        file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                    let why = format!("cannot be read ({error})");
                    skipped.extend((!is_hidden).then_some(Skip { file, why }));
                    continue;
                }
            };
            let (file, below) = (entry.path(), entry.path().strip_prefix(root).unwrap_or(entry.path()));
            if !entry.file_type().is_file() || names::ending(&below.to_string_lossy()).is_none() {
                continue;
            }
            let Some(parts) = below.iter().map(OsStr::to_str).collect::<Option<Vec<_>>>() else {
                let why = "its name is not Unicode; rename it".into();
                skipped.push(Skip { file: file.to_path_buf(), why });
                continue;
            };
            all.push(Picture { path: parts.join("/").nfc().collect(), file: file.to_path_buf() });
        }
        all.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Pictures::new(all))
    }

    fn new(all: Vec<Picture>) -> Pictures {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, picture) in all.iter().enumerate() {
            for path in [&picture.path, picture.stem()] {
                by_name.entry(file_name(path).to_lowercase()).or_default().push(at);
            }
        }
        Pictures { all, by_name }
    }

    /// The picture that a list names by its path, from any folder above or below this one, in any system's spelling;
    /// the ending may be left out. An equal path comes before one that differs in case, or in folders that one side
    /// leaves out.
    pub fn named(&self, name: &str) -> Named {
        let name: String = names::trimmed(name).nfc().collect();
        let parts: Vec<&str> =
            name.split(['/', '\\']).map(str::trim).filter(|p| !p.is_empty() && *p != ".").collect();
        let name = parts.join("/");
        let candidates = self.by_name.get(&file_name(&name).to_lowercase()).map_or(&[][..], Vec::as_slice);
        let lower = name.to_lowercase();
        let is_end = |path: &str| is_end(&path.to_lowercase(), &lower);
        let ways: [&dyn Fn(&Picture) -> bool; 4] = [
            &|picture| picture.path == name,
            &|picture| picture.stem() == name,
            &|picture| is_end(&picture.path),
            &|picture| is_end(picture.stem()),
        ];
        let first_two = |fits: &&dyn Fn(&Picture) -> bool| {
            let mut found = candidates.iter().filter(|at| fits(&self.all[**at]));
            (found.next().copied(), found.next().copied())
        };
        let found = ways.iter().map(first_two).find(|(first, _)| first.is_some()).unwrap_or_default();
        match found {
            (None, _) => Named::None,
            (Some(one), None) => Named::One(one),
            (Some(one), Some(other)) => Named::Several(one, other),
        }
    }
}

/// The last part of a path.
pub fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether one of two paths is the end of the other, folder by folder.
fn is_end(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// Hidden files, what Windows and macOS leave behind, and folders of runs, whose samples are pictures too.
fn is_ignored(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let is_left = ["thumbs.db", "__macosx", "desktop.ini"].contains(&name.to_lowercase().as_str());
    let is_run = || ["config.toml", "run.json"].iter().all(|file| entry.path().join(file).is_file());
    name.starts_with('.') || is_left || is_run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_picture_from_any_folder() {
        let picture = |path: &str| Picture { path: path.into(), file: path.into() };
        let paths = [
            "a.jpg",
            "a.png",
            "cats/1.jpg",
            "caf\u{e9}/x y.JPG",
            "dogs/1.jpg",
            "dogs/2.webp",
            "a.jpg.png",
            "dogs/1.jpg.png",
        ];
        let pictures = Pictures::new(paths.map(picture).into());
        for (name, expected) in [
            ("a.jpg", Named::One(0)),
            (" ./a.PNG\r", Named::One(1)),
            ("a", Named::Several(0, 1)),
            ("cats/1.jpg", Named::One(2)),
            ("Cats\\1.JPG", Named::One(2)),
            ("/home/me/pictures/cats/1.jpg", Named::One(2)),
            ("1.jpg", Named::Several(2, 4)),
            ("a.jpg.png", Named::One(6)),
            ("Dogs/1.jpg", Named::One(4)),
            ("birds/1.jpg", Named::None),
            ("at/cats/1", Named::One(2)),
            ("cafe\u{301}/x y.jpg", Named::One(3)),
            ("2", Named::One(5)),
            ("2.jpg", Named::None),
            ("", Named::None),
        ] {
            assert_eq!(pictures.named(name), expected, "{name:?}");
        }
    }
}
