//! captions_*.json of COCO: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::data::names::{self, count};
use crate::error::{Error, Result};
use crate::files::kind;

/// An image of a list, with its captions as they are written.
pub struct Captioned {
    pub file_name: String,
    pub captions: Vec<String>,
}

/// All that is read of the file; the rest of it is never in memory.
#[derive(Deserialize)]
struct Content {
    images: Option<Vec<Image>>,
    annotations: Option<Vec<Annotation>>,
}

#[derive(Deserialize)]
struct Image {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    caption: Option<String>,
}

/// The images of a file in its order, each with its captions.
///
/// # Errors
/// `Data` when it is cut off or no JSON (with line and column), holds no captions, or has two images of one id or one
/// name; `Io` when it cannot be read.
pub fn read(file: &Path, notices: &mut Vec<String>) -> Result<Vec<Captioned>> {
    let Content { images, annotations } = parse(file)?;
    let images = images.ok_or_else(|| wrong_kind(file, "it has no list 'images'"))?;
    let annotations = annotations.ok_or_else(|| wrong_kind(file, "it has no list 'annotations'"))?;
    if !annotations.is_empty() && annotations.iter().all(|annotation| annotation.caption.is_none()) {
        return Err(wrong_kind(file, "its annotations have no captions"));
    }
    refuse_one_name(file, &images)?;
    let mut by_id = HashMap::with_capacity(images.len());
    for (at, image) in images.iter().enumerate() {
        if let Some(first) = by_id.insert(image.id, at) {
            let (id, first, second) = (image.id, &images[first].file_name, &image.file_name);
            let why = format!(
                "the image id {id} occurs twice, of '{first}' and of '{second}'; each image has its own"
            );
            return Err(Error::data(file, why));
        }
    }
    let mut captioned: Vec<Captioned> = images
        .into_iter()
        .map(|Image { file_name, .. }| Captioned { file_name, captions: Vec::new() })
        .collect();
    let (all, mut lost, mut first_lost) = (annotations.len(), 0, 0);
    for Annotation { image_id, caption } in annotations {
        match by_id.get(&image_id) {
            Some(at) => captioned[*at].captions.extend(caption),
            None => {
                first_lost = if lost == 0 { image_id } else { first_lost };
                lost += 1;
            }
        }
    }
    if lost > 0 {
        let name = file.file_name().unwrap_or_default().display();
        let captions = count(lost, "caption names", "captions name");
        let what = format!("{captions} an image id that 'images' lacks, such as {first_lost}");
        if lost == all {
            let why =
                format!("{what}: images and annotations belong to different files; fetch the file again");
            return Err(Error::data(file, why));
        }
        notices.push(format!("{name}: {what}; left out"));
    }
    Ok(captioned)
}

fn parse(file: &Path) -> Result<Content> {
    const BUFFER: usize = 1 << 20;
    let io = |source| Error::io(file, source);
    let mut reader = BufReader::with_capacity(BUFFER, File::open(file).map_err(io)?);
    let head = reader.fill_buf().map_err(io)?;
    if let Some(kind) = kind::of_bytes(&head[..head.len().min(512)]) {
        return Err(wrong_kind(file, &format!("it is {kind}")));
    }
    if head.is_empty() {
        return Err(Error::data(file, "an empty file; fetch it again"));
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    serde_json::from_reader(reader).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Io => io(error.into()),
            serde_json::error::Category::Eof => {
                Error::data_at(file, line, format!("cut off at column {column}; fetch the file again"))
            }
            serde_json::error::Category::Syntax => {
                Error::data_at(file, line, format!("not JSON ({error}); fetch the file again"))
            }
            serde_json::error::Category::Data => wrong_kind(file, &error.to_string()),
        }
    })
}

/// The file of another kind than captions_*.json.
fn wrong_kind(file: &Path, what: &str) -> Error {
    let why = format!(
        "not COCO's captions: {what}; the file captions_train2014.json (or val, or 2017) of annotations_trainval2014.zip is \
         wanted, which holds {{\"images\": [{{\"id\", \"file_name\"}}], \"annotations\": [{{\"image_id\", \"caption\"}}]}}"
    );
    Error::data(file, why)
}

/// Items are known by the names of their files without the endings.
fn refuse_one_name(file: &Path, images: &[Image]) -> Result<()> {
    let mut seen: HashMap<String, &Image> = HashMap::with_capacity(images.len());
    for image in images {
        if let Some(first) = seen.insert(names::stem(&image.file_name), image) {
            let why = format!(
                "'{}' (id {}) and '{}' (id {}) have one name without the ending; rename one of them, or remove it",
                first.file_name, first.id, image.file_name, image.id
            );
            return Err(Error::data(file, why));
        }
    }
    Ok(())
}
