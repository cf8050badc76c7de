//! The captions of a folder: of a table, or of text files beside the pictures.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::pictures::{Named, Picture, Pictures, file_name};
use super::side::Side;
use super::tables::{self, Row, Table};
use crate::data::caption_file;
use crate::data::captions::Tokenized;
use crate::data::dataset::Skip;
use crate::data::missing::{self, MISSING_IMAGE};
use crate::data::names::count;
use crate::data::tokenizer::Tokenizer;
use crate::data::tree::Tree;
use crate::error::{Error, Result};

/// A picture with its captions, at least one, and what a table says of it.
pub struct Gathered {
    /// The index of the picture.
    pub picture: usize,
    pub captions: Tokenized,
    pub class: Option<String>,
    /// The side of the column `split`, where there is one.
    pub side: Option<Side>,
}

/// Tables in the order in which they are looked for.
const TABLES: [&str; 5] =
    ["metadata.jsonl", "metadata.csv", "captions.csv", "captions.tsv", "captions.jsonl"];

/// The captions of the first source that is there, in the order of the pictures. Pictures without any are pushed to
/// `skipped`.
///
/// # Errors
/// `Data` when there is no source, or a table is malformed, or two pictures have one captions file.
pub fn gather(
    root: &Path,
    pictures: &Pictures,
    tokenizer: Tokenizer,
    notices: &mut Vec<String>,
    skipped: &mut Vec<Skip>,
) -> Result<Vec<Gathered>> {
    let tree = Tree::new(root.to_path_buf());
    let text =
        |picture: &Picture| tree.find_beside(&picture.file, &format!("{}.txt", file_name(picture.stem())));
    let texts: Vec<_> = pictures.all.iter().map(text).collect();
    let beside = texts.iter().flatten().count();
    let there: Vec<&str> = TABLES.into_iter().filter(|name| root.join(name).is_file()).collect();
    let tables = match there.first() {
        Some(name) => vec![tables::read(&root.join(name), "")?],
        None => of_folders(root)?,
    };
    let Some(first) = tables.first() else {
        if beside == 0 {
            return Err(no_captions(root, pictures));
        }
        refuse_one_stem(root, pictures, &texts)?;
        notices.push("the captions are those of .txt files beside the pictures".into());
        return Ok(of_texts(pictures, texts, tokenizer, skipped));
    };
    let others = there.iter().skip(1).map(ToString::to_string);
    let texts =
        (beside > 0).then(|| count(beside, ".txt file beside a picture", ".txt files beside pictures"));
    let others: Vec<String> = others.chain(texts).collect();
    let mut notice = format!("the captions are those of {}", name_of(root, first));
    if tables.len() > 1 {
        notice += &format!(" and of {} more", count(tables.len() - 1, "folder", "folders"));
    }
    if !others.is_empty() {
        notice += &format!("; not read: {}", others.join(", "));
    }
    notices.push(notice);
    of_tables(root, pictures, &tables, tokenizer, notices, skipped)
}

/// metadata.jsonl or .csv in folders of the root, as Hugging Face's image folders have one for each split.
fn of_folders(root: &Path) -> Result<Vec<Table>> {
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let mut found = Vec::new();
    for folder in names.iter().filter(|name| !name.starts_with('.')) {
        let table = TABLES[..2].iter().map(|table| root.join(folder).join(table)).find(|file| file.is_file());
        found.extend(table.map(|file| tables::read(&file, &format!("{folder}/"))).transpose()?);
    }
    Ok(found)
}

fn no_captions(root: &Path, pictures: &Pictures) -> Error {
    let picture = &pictures.all[0];
    let why = format!(
        "{}, but no captions: {} or a .txt file beside each picture are looked for, such as {}.txt beside {}",
        count(pictures.all.len(), "picture", "pictures"),
        TABLES.join(", "),
        picture.stem(),
        picture.path
    );
    Error::data(root, why)
}

/// Two pictures that differ in the ending alone would share a captions file.
fn refuse_one_stem(root: &Path, pictures: &Pictures, texts: &[Option<PathBuf>]) -> Result<()> {
    let mut seen: HashMap<&Path, &str> = HashMap::new();
    for (picture, text) in pictures.all.iter().zip(texts) {
        let Some(text) = text else { continue };
        if let Some(first) = seen.insert(text, &picture.path) {
            let why = format!(
                "'{first}' and '{}' would both have the captions of '{}'; rename one of them, or write captions.csv with \
                 whole file names",
                picture.path,
                text.strip_prefix(root).unwrap_or(text).display()
            );
            return Err(Error::data(root, why));
        }
    }
    Ok(())
}

fn of_texts(
    pictures: &Pictures,
    texts: Vec<Option<PathBuf>>,
    tokenizer: Tokenizer,
    skipped: &mut Vec<Skip>,
) -> Vec<Gathered> {
    let gather = |(picture, text): (usize, Option<PathBuf>)| {
        let image = &pictures.all[picture].file;
        let missing =
            || Skip { file: image.clone(), why: "no .txt file with its captions is beside it".into() };
        let file = text.ok_or_else(missing)?;
        match caption_file::read(&file, tokenizer) {
            Ok(captions) => Ok(Gathered { picture, captions, class: None, side: None }),
            Err(why) => Err(Skip { file, why }),
        }
    };
    let gathered: Vec<std::result::Result<Gathered, Skip>> =
        texts.into_par_iter().enumerate().map(gather).collect();
    gathered.into_iter().filter_map(|found| found.map_err(|skip| skipped.push(skip)).ok()).collect()
}

/// What the rows say of one picture.
#[derive(Default)]
struct Rows {
    captions: Vec<String>,
    class: Option<String>,
    side: Option<Side>,
    rows: usize,
}

fn of_tables(
    root: &Path,
    pictures: &Pictures,
    tables: &[Table],
    tokenizer: Tokenizer,
    notices: &mut Vec<String>,
    skipped: &mut Vec<Skip>,
) -> Result<Vec<Gathered>> {
    let mut of_picture: Vec<Rows> = pictures.all.iter().map(|_| Rows::default()).collect();
    for table in tables {
        let (mut empty, mut first_empty) = (0, 0);
        for row in &table.rows {
            let at = match picture_of(root, pictures, table, row) {
                Ok(at) => at,
                Err(skip) => {
                    skipped.push(skip);
                    continue;
                }
            };
            let before = of_picture[at].captions.len();
            add(table, row, &mut of_picture[at])?;
            if of_picture[at].captions.len() == before {
                first_empty = if empty == 0 { row.line } else { first_empty };
                empty += 1;
            }
        }
        if empty > 0 {
            let rows = count(empty, "row has", "rows have");
            notices
                .push(format!("{rows} no caption in {}, such as line {first_empty}", name_of(root, table)));
        }
    }
    let has_sides = of_picture.iter().any(|rows| rows.side.is_some());
    let tokenized: Vec<(Rows, Tokenized)> = of_picture
        .into_par_iter()
        .map(|mut rows| {
            let captions = std::mem::take(&mut rows.captions);
            (rows, Tokenized::of(captions.iter().map(String::as_str), tokenizer))
        })
        .collect();
    let name = name_of(root, &tables[0]);
    let mut gathered = Vec::new();
    for (picture, (rows, captions)) in tokenized.into_iter().enumerate() {
        let file = pictures.all[picture].file.clone();
        let why = match (rows.rows, captions.wordless) {
            _ if has_sides && rows.side.is_none() && rows.rows > 0 => {
                format!("the column split is empty in its rows of {name}; write train or test")
            }
            _ if !captions.captions.is_empty() => {
                gathered.push(Gathered { picture, captions, class: rows.class, side: rows.side });
                continue;
            }
            (0, _) => format!("{name} has no row of it"),
            (_, 0) => format!("its rows in {name} have no word"),
            _ => format!("none of its captions has an ASCII word: {}", tokenizer.why_wordless()),
        };
        skipped.push(Skip { file, why });
    }
    Ok(gathered)
}

/// How messages call a table.
fn name_of(root: &Path, table: &Table) -> String {
    table.file.strip_prefix(root).unwrap_or(&table.file).display().to_string()
}

fn picture_of(
    root: &Path,
    pictures: &Pictures,
    table: &Table,
    row: &Row,
) -> std::result::Result<usize, Skip> {
    let (name, line) = (name_of(root, table), row.line);
    let file = root.join(format!("{}{}", table.folder, row.file));
    match pictures.named(&format!("{}{}", table.folder, row.file)) {
        Named::One(at) => Ok(at),
        Named::None if row.file.is_empty() => {
            let why = format!("a row that names no picture (line {line})");
            Err(Skip { file: table.file.clone(), why })
        }
        Named::None => Err(Skip { file, why: format!("{MISSING_IMAGE} ({name}, line {line})") }),
        Named::Several(one, other) => {
            let [one, other] = [one, other].map(|at| &pictures.all[at].path);
            let why = format!(
                "several pictures have this name ({name}, line {line}): '{one}' and '{other}'; write folder and ending too"
            );
            Err(Skip { file, why })
        }
    }
}

/// Adds what a row says; its class and its side must be those of earlier rows of the picture.
fn add(table: &Table, row: &Row, rows: &mut Rows) -> Result<()> {
    rows.rows += 1;
    rows.captions.extend(row.captions.iter().filter(|caption| !caption.trim().is_empty()).cloned());
    if let Some(class) = &row.class {
        match &rows.class {
            Some(earlier) if earlier != class => {
                let why = format!("'{}' is of class '{class}' here and of '{earlier}' above", row.file);
                return Err(Error::data_at(&table.file, row.line, format!("{why}; a picture has one class")));
            }
            _ => rows.class = Some(class.clone()),
        }
    }
    if let Some(split) = &row.split {
        let side = Side::of(split).ok_or_else(|| {
            let why = format!("'{split}' is no split; write train or test");
            Error::data_at(&table.file, row.line, why)
        })?;
        if rows.side.is_some_and(|earlier| earlier != side) {
            let why =
                format!("'{}' trains in one row and tests in another; what trains cannot test", row.file);
            return Err(Error::data_at(&table.file, row.line, why));
        }
        rows.side = Some(side);
    }
    Ok(())
}

/// Where most names in the lists are of no file, says so once; else the same picture once.
pub fn fold_missing_rows(root: &Path, pictures: &Pictures, skipped: &mut Vec<Skip>) {
    let mut seen: BTreeMap<PathBuf, usize> = BTreeMap::new();
    skipped.retain(|skip| {
        let times = seen.entry(skip.file.clone()).or_default();
        *times += 1;
        *times == 1 || !skip.why.starts_with(MISSING_IMAGE)
    });
    let missing = skipped.iter().filter(|skip| skip.why.starts_with(MISSING_IMAGE)).count();
    missing::fold(skipped, MISSING_IMAGE, missing + pictures.all.len(), &Tree::new(root.to_path_buf()));
}
