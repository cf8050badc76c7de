//! Which pictures of a folder train, and which are held out.

use std::collections::HashMap;
use std::path::Path;

use super::pictures::{Named, Picture, Pictures};
use super::side::Side;
use super::sources::Gathered;
use crate::data::dataset::{Skip, SplitSource};
use crate::data::missing::MISSING_IMAGE;
use crate::data::names::{self, count};
use crate::data::options::OpenConfig;
use crate::engine::tensor::rng::mix;
use crate::error::{Error, Result};

/// The side of each picture, none of those that the lists leave out.
///
/// # Errors
/// `Data` when train.txt and test.txt cannot be read, name a picture twice, or name none.
pub fn split(
    root: &Path,
    pictures: &Pictures,
    gathered: &[Gathered],
    config: &OpenConfig,
    notices: &mut Vec<String>,
    skipped: &mut Vec<Skip>,
) -> Result<(Vec<Option<Side>>, SplitSource)> {
    let lists = [("train.txt", Side::Train), ("test.txt", Side::Test)];
    // train.txt may hold the captions of a picture train.jpg.
    let is_list = |name: &str| {
        let is_caption = |picture: &Picture| format!("{}.txt", picture.stem()) == name;
        root.join(name).is_file() && !pictures.all.iter().any(is_caption)
    };
    let there: Vec<&str> = lists.iter().map(|(name, _)| *name).filter(|name| is_list(name)).collect();
    if there.len() == 2 {
        return by_lists(root, pictures, gathered, lists, notices, skipped)
            .map(|sides| (sides, SplitSource::Lists));
    }
    if let Some(name) = there.first() {
        notices.push(format!("{name} is not read as a list: train.txt and test.txt are not both there"));
    }
    if gathered.iter().any(|found| found.side.is_some()) {
        return Ok((gathered.iter().map(|found| found.side).collect(), SplitSource::Column));
    }
    let folders: Vec<_> =
        gathered.iter().map(|found| Side::of_folder(&pictures.all[found.picture])).collect();
    if [Side::Train, Side::Test].iter().all(|side| folders.contains(&Some(*side)))
        && folders.iter().all(Option::is_some)
    {
        notices.push("split: the folders that are named train and test".into());
        return Ok((folders, SplitSource::Folders));
    }
    let names: Vec<&str> = gathered.iter().map(|found| pictures.all[found.picture].path.as_str()).collect();
    let (ratio, seed) = (config.test_ratio, config.split_seed);
    notices
        .push(format!("split: by the pictures' names (data.test_ratio = {ratio}, data.split_seed = {seed})"));
    Ok((by_ratio(&names, ratio, seed).into_iter().map(Some).collect(), SplitSource::Ratio))
}

/// A picture's side depends on its own name, so that a picture more does not move the others; but where there are two or
/// more, each side has one.
fn by_ratio(names: &[&str], ratio: f64, seed: u64) -> Vec<Side> {
    let places: Vec<f64> = names.iter().map(|name| place(name, seed)).collect();
    let mut sides: Vec<Side> =
        places.iter().map(|place| if *place < ratio { Side::Test } else { Side::Train }).collect();
    if names.len() < 2 || ratio <= 0.0 {
        return vec![Side::Train; names.len()];
    }
    let by_place = |a: &usize, b: &usize| places[*a].total_cmp(&places[*b]);
    let all = || 0..names.len();
    if !sides.contains(&Side::Test)
        && let Some(first) = all().min_by(by_place)
    {
        sides[first] = Side::Test;
    }
    if !sides.contains(&Side::Train)
        && let Some(last) = all().max_by(by_place)
    {
        sides[last] = Side::Train;
    }
    sides
}

/// A number from 0 to 1 that is the name's own: FNV-1a, mixed with the seed.
fn place(name: &str, seed: u64) -> f64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let hash = name.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    (mix(mix(seed) ^ hash) >> 11) as f64 / (1_u64 << 53) as f64
}

fn by_lists(
    root: &Path,
    pictures: &Pictures,
    gathered: &[Gathered],
    lists: [(&str, Side); 2],
    notices: &mut Vec<String>,
    skipped: &mut Vec<Skip>,
) -> Result<Vec<Option<Side>>> {
    let mut listed: HashMap<usize, (Side, &str, usize)> = HashMap::new();
    let (mut rows, mut first, mut unknown) = (0, String::new(), Vec::new());
    for (list, side) in lists {
        let file = root.join(list);
        let bytes = std::fs::read(&file).map_err(|source| Error::io(&file, source))?;
        let text = names::text(bytes).map_err(|error| error.into_error(&file))?;
        for (line, name) in names::rows(&text) {
            rows += 1;
            let at = match pictures.named(name) {
                Named::One(at) => at,
                Named::None => {
                    first = if unknown.is_empty() { name.to_string() } else { first };
                    let why = format!("{MISSING_IMAGE} ({list}, line {line})");
                    unknown.push(Skip { file: root.join(name), why });
                    continue;
                }
                Named::Several(one, other) => {
                    let [one, other] = [one, other].map(|at| &pictures.all[at].path);
                    let why = format!("'{name}' may be '{one}' or '{other}'; write folder and ending too");
                    return Err(Error::data_at(&file, line, why));
                }
            };
            if let Some((earlier, list, place)) = listed.insert(at, (side, list, line)) {
                let why = match earlier == side {
                    true => "a picture may occur once",
                    false => "what trains cannot test",
                };
                let why = format!("'{name}' stands in line {place} of {list} already; {why}");
                return Err(Error::data_at(&file, line, why));
            }
        }
    }
    if listed.is_empty() {
        let there = &pictures.all[0].path;
        let why = match rows {
            0 => "train.txt and test.txt are empty: write a file name a line, or remove both to split by data.test_ratio".into(),
            _ => format!(
                "none of the {rows} names in train.txt and test.txt is a picture here: the first is '{first}', and there is \
                 '{there}'; make the names equal, or remove both lists to split by data.test_ratio"
            ),
        };
        return Err(Error::data(root, why));
    }
    skipped.extend(unknown);
    let left_out = gathered.iter().filter(|found| !listed.contains_key(&found.picture)).count();
    if left_out > 0 {
        let pictures = count(left_out, "picture is", "pictures are");
        notices.push(format!("{pictures} in neither train.txt nor test.txt, and left out"));
    }
    Ok(gathered.iter().map(|found| listed.get(&found.picture).map(|(side, ..)| *side)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_side() {
        let names: Vec<String> = (0..4000).map(|i| format!("pictures/{i:04}.jpg")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all = by_ratio(&names, 0.1, 0);
        let held_out = all.iter().filter(|side| **side == Side::Test).count();
        assert!((340..460).contains(&held_out), "{held_out}");
        assert_eq!(by_ratio(&names[..3000], 0.1, 0), all[..3000]);
        assert_ne!(by_ratio(&names, 0.1, 1), all);
        // What is held out at one ratio is at a larger one too.
        let more = by_ratio(&names, 0.2, 0);
        assert!(all.iter().zip(&more).all(|(few, many)| *few == Side::Train || *many == Side::Test));
    }

    #[test]
    fn both_sides_have_a_picture() {
        for seed in 0..50 {
            for ratio in [1e-9, 0.1, 0.5, 0.999_999] {
                for names in [&["a", "b"][..], &["a", "b", "c"]] {
                    let sides = by_ratio(names, ratio, seed);
                    assert!(sides.contains(&Side::Train) && sides.contains(&Side::Test), "{ratio} {seed}");
                }
            }
        }
        assert_eq!(by_ratio(&["a"], 0.9, 0), [Side::Train]);
        assert_eq!(by_ratio(&["a", "b"], 0.0, 0), [Side::Train; 2]);
    }
}
