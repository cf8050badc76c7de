//! Captions in a table: CSV, TSV, or a JSON object a line.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::listing::shown;
use crate::data::names;
use crate::error::{Error, Result};

/// One row, or one object.
pub struct Row {
    /// Counted from 1.
    pub line: usize,
    /// The picture, as it is written.
    pub file: String,
    pub captions: Vec<String>,
    pub class: Option<String>,
    pub split: Option<String>,
}

pub struct Table {
    pub file: PathBuf,
    /// The folder of the table below the data set's, with `/` after it, or empty.
    pub folder: String,
    pub rows: Vec<Row>,
}

const FILES: [&str; 5] = ["file_name", "file", "filename", "image", "path"];
const CAPTIONS: [&str; 3] = ["text", "caption", "captions"];
const CLASS: &str = "class";
const SPLIT: &str = "split";

const HEADER: &str = "a header such as file_name,caption is expected in the first line: a column file, file_name, image or \
                      path, and a column caption or text; class and split (train or test) may follow";

/// Reads a table by the ending of its name.
///
/// # Errors
/// `Data` with the line where it is not UTF-8, or a row is malformed; `Io` when it cannot be read.
pub fn read(file: &Path, folder: &str) -> Result<Table> {
    let bytes = std::fs::read(file).map_err(|source| Error::io(file, source))?;
    let text = names::text(bytes).map_err(|error| error.into_error(file))?;
    let rows = match file.extension().and_then(|ending| ending.to_str()) {
        Some("jsonl") => objects(file, &text)?,
        Some("tsv") => rows(file, &text, b'\t')?,
        _ => rows(file, &text, delimiter(&text))?,
    };
    Ok(Table { file: file.to_path_buf(), folder: folder.to_string(), rows })
}

/// Spreadsheets write `;` where the comma is the decimal mark.
fn delimiter(text: &str) -> u8 {
    let header = text.lines().next().unwrap_or_default();
    let delimiters = [b',', b';', b'\t'];
    delimiters.into_iter().find(|delimiter| header.contains(*delimiter as char)).unwrap_or(b',')
}

/// Which columns hold what.
struct Columns {
    count: usize,
    file: usize,
    captions: Vec<usize>,
    class: Option<usize>,
    split: Option<usize>,
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Option<Columns> {
        let names: Vec<String> = header.iter().map(|name| names::trimmed(name).to_lowercase()).collect();
        let place = |name: &str| names.iter().position(|found| found == name);
        // caption1, caption_2 and so on.
        let is_caption =
            |name: &str| CAPTIONS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_'));
        let captions: Vec<usize> = (0..names.len()).filter(|at| is_caption(&names[*at])).collect();
        let file = FILES.iter().find_map(|name| place(name))?;
        let (class, split) = (place(CLASS), place(SPLIT));
        (!captions.is_empty()).then_some(Columns { count: names.len(), file, captions, class, split })
    }
}

fn rows(file: &Path, text: &str, delimiter: u8) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut records = reader.records();
    let malformed = |error: csv::Error| {
        let line = error.position().map_or(1, |position| position.line() as usize);
        Error::data_at(file, line, format!("a row that cannot be read: {error}"))
    };
    let header = records.next().transpose().map_err(malformed)?;
    let header = header.ok_or_else(|| Error::data(file, format!("an empty file; {HEADER}")))?;
    let columns = Columns::of(&header).ok_or_else(|| {
        let first = shown(text.lines().next().unwrap_or_default());
        Error::data_at(file, 1, format!("'{first}' is no header; {HEADER}"))
    })?;
    let mut rows = Vec::new();
    for record in records {
        let record = record.map_err(malformed)?;
        let row = row(file, &record, &columns)?;
        refuse_open_quote(file, text, &record, row.line)?;
        rows.push(row);
    }
    Ok(rows)
}

fn row(file: &Path, record: &csv::StringRecord, columns: &Columns) -> Result<Row> {
    let line = record.position().map_or(1, |position| position.line() as usize);
    let fields = record.len();
    if fields > columns.count {
        let why = format!(
            "{fields} fields where the header has {}: put a caption that holds the separator in quotes (\"...\")",
            columns.count
        );
        return Err(Error::data_at(file, line, why));
    }
    let field = |at: usize| names::trimmed(record.get(at).unwrap_or_default()).to_string();
    let optional = |at: Option<usize>| at.map(field).filter(|text| !text.is_empty());
    Ok(Row {
        line,
        file: field(columns.file),
        captions: columns.captions.iter().map(|at| field(*at)).collect(),
        class: optional(columns.class),
        split: optional(columns.split),
    })
}

/// A quote that nothing closes makes one field of the rest of the file.
fn refuse_open_quote(file: &Path, text: &str, record: &csv::StringRecord, line: usize) -> Result<()> {
    let last = record.iter().next_back().unwrap_or_default();
    if last.contains('\n') && text.trim_end().ends_with(last.trim_end()) {
        let why =
            "a quote (\") opens a field here, and none closes it; close it, or write \"\" for a quote itself";
        return Err(Error::data_at(file, line, why));
    }
    Ok(())
}

fn objects(file: &Path, text: &str) -> Result<Vec<Row>> {
    names::rows(text).map(|(line, row)| object(file, line, row)).collect()
}

fn object(file: &Path, line: usize, row: &str) -> Result<Row> {
    let expected =
        "an object such as {\"file_name\": \"a.jpg\", \"text\": \"a red bird\"} is expected in each line";
    let wrong = |what: String| Error::data_at(file, line, format!("{what}; {expected}"));
    let value: Value = serde_json::from_str(row).map_err(|error| wrong(format!("not JSON ({error})")))?;
    let object = value.as_object().ok_or_else(|| wrong(format!("'{}' is no object", shown(row))))?;
    let named = FILES.iter().find_map(|name| object.get(*name)?.as_str());
    let named = named.ok_or_else(|| wrong("no 'file_name'".into()))?;
    let mut captions = Vec::new();
    for (name, value) in CAPTIONS.iter().filter_map(|name| Some((name, object.get(*name)?))) {
        match value {
            Value::Null => {}
            Value::String(caption) => captions.push(caption.clone()),
            Value::Array(list) if list.iter().all(Value::is_string) => {
                captions.extend(list.iter().filter_map(Value::as_str).map(str::to_string));
            }
            _ => return Err(wrong(format!("'{name}' is neither a text nor a list of texts"))),
        }
    }
    let optional = |name: &str| match object.get(name) {
        Some(Value::String(text)) => Some(text.trim().to_string()).filter(|text| !text.is_empty()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
        _ => None,
    };
    let (class, split) = (optional(CLASS), optional(SPLIT));
    Ok(Row { line, file: named.to_string(), captions, class, split })
}
