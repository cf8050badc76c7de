//! The classes of a folder's pictures, as numbers.

use std::collections::BTreeMap;

use super::pictures::{Picture, Pictures};
use super::sources::Gathered;
use crate::data::dataset::SplitSource;
use crate::data::names::count;
use crate::data::options::{Classes, OpenConfig};

/// The class of each gathered picture: equal names have equal numbers, a picture without a name has one of its own.
pub fn of(
    pictures: &Pictures,
    gathered: &[Gathered],
    source: SplitSource,
    config: &OpenConfig,
    notices: &mut Vec<String>,
) -> Vec<i32> {
    // Folders train and test are no classes; those in them are.
    let depth = usize::from(source == SplitSource::Folders);
    let folder = |found: &Gathered| {
        let folder = |picture: &Picture| picture.folders().nth(depth).map(str::to_string);
        folder(&pictures.all[found.picture])
    };
    let of_folders = || gathered.iter().map(folder).collect::<Vec<_>>();
    let of_column = gathered.iter().any(|found| found.class.is_some());
    let names: Vec<Option<String>> = match config.classes {
        Classes::None => return (0..gathered.len() as i32).collect(),
        Classes::Folders => of_folders(),
        Classes::Auto if of_column => gathered.iter().map(|found| found.class.clone()).collect(),
        Classes::Auto => {
            let folders = of_folders();
            let all_in_one = folders.iter().all(Option::is_some);
            let several = folders.windows(2).any(|pair| pair[0] != pair[1]);
            if all_in_one && several { folders } else { vec![None; gathered.len()] }
        }
    };
    let named: BTreeMap<&str, i32> = names.iter().flatten().map(|name| (name.as_str(), 0)).collect();
    let numbers: BTreeMap<&str, i32> = named.into_keys().zip(0..).collect();
    if !numbers.is_empty() {
        let what = if of_column && config.classes == Classes::Auto {
            "that the column class names"
        } else {
            "that are subfolders"
        };
        let classes = count(numbers.len(), "class", "classes");
        notices.push(format!(
            "{classes} {what}: pairs within a class do not count as mismatched; --set data.classes=none gives each picture its \
             own"
        ));
    }
    let mut next = numbers.len() as i32;
    let mut own = || {
        next += 1;
        next - 1
    };
    names.iter().map(|name| name.as_deref().map_or_else(&mut own, |name| numbers[name])).collect()
}
