//! The items of a pack as bytes.
//!
//! ```text
//!  id, image     text: length u32, UTF-8
//!  class i32, flags u8
//!  box           4 × f32, where flagged
//!  reason text, where the image could not be used; else offset u64, width u32, height u32, CRC-32C u32
//!  captions      count u32; each: length u32, ids i32
//! ```

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::dataset::Item;
use super::super::packed::{PackFile, Packed, Place};

const BOXED: u8 = 1;
const GRAY: u8 = 2;
const ORIENTED: u8 = 4;
const UNUSABLE: u8 = 8;

/// The picture of an item as it was packed.
pub struct Pixels {
    /// Or why the image cannot be used.
    pub place: Result<Place, String>,
    pub gray: bool,
    pub oriented: bool,
}

/// Appends an item to a list; `image` is its path from the data set's folder on.
pub fn append(list: &mut Vec<u8>, item: &Item, image: &str, pixels: &Pixels) {
    let u32_of = |list: &mut Vec<u8>, number: usize| list.extend((number as u32).to_le_bytes());
    let text = |list: &mut Vec<u8>, text: &str| {
        u32_of(list, text.len());
        list.extend(text.as_bytes());
    };
    text(list, &item.id);
    text(list, image);
    list.extend(item.class.to_le_bytes());
    let flags = [
        (item.bbox.is_some(), BOXED),
        (pixels.gray, GRAY),
        (pixels.oriented, ORIENTED),
        (pixels.place.is_err(), UNUSABLE),
    ];
    list.push(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
    list.extend(item.bbox.iter().flatten().flat_map(|side| side.to_le_bytes()));
    match &pixels.place {
        Ok(Place { offset, width, height, crc }) => {
            list.extend(offset.to_le_bytes());
            list.extend([width, height, crc].iter().flat_map(|number| number.to_le_bytes()));
        }
        Err(why) => text(list, why),
    }
    u32_of(list, item.captions.len());
    for caption in &item.captions {
        u32_of(list, caption.len());
        list.extend(caption.iter().flat_map(|id| id.to_le_bytes()));
    }
}

/// What every item must lie within, so that no batch fails on it.
pub struct Limits {
    /// Where pixels lie in the file.
    pub pixels: Range<u64>,
    /// The least side of a picture.
    pub shorter: usize,
    /// Words of the vocabulary.
    pub words: usize,
}

pub struct Split {
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    /// Captions of both.
    pub captions: usize,
}

/// Reads a list of so many training and test items; none where it is not one.
pub fn read(
    list: &[u8],
    [train, test]: [usize; 2],
    root: &Path,
    pack: &Arc<PackFile>,
    limits: &Limits,
) -> Option<Split> {
    let mut bytes = Bytes(list);
    let mut items = |count: usize| {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(&mut bytes, root, pack, limits)?);
        }
        Some(items)
    };
    let (train, test) = (items(train)?, items(test)?);
    let captions = train.iter().chain(&test).map(|item| item.captions.len()).sum();
    bytes.0.is_empty().then_some(Split { train, test, captions })
}

fn item(bytes: &mut Bytes, root: &Path, pack: &Arc<PackFile>, limits: &Limits) -> Option<Item> {
    let (id, image) = (bytes.text()?.to_string(), root.join(bytes.text()?));
    let class = bytes.i32()?;
    let [flags] = bytes.array()?;
    let bbox = match flags & BOXED {
        0 => None,
        _ => Some([bytes.f32()?, bytes.f32()?, bytes.f32()?, bytes.f32()?]),
    };
    let place = match flags & UNUSABLE {
        0 => Ok(place(bytes, limits)?),
        _ => Err(Arc::from(bytes.text()?)),
    };
    let mut captions = Vec::new();
    for _ in 0..bytes.u32()? {
        captions.push(caption(bytes, limits.words)?);
    }
    let (gray, oriented) = (flags & GRAY != 0, flags & ORIENTED != 0);
    let packed = Some(Packed { pack: Arc::clone(pack), place, gray, oriented });
    (!captions.is_empty()).then_some(Item { id, image, bbox, class, captions, packed })
}

fn place(bytes: &mut Bytes, limits: &Limits) -> Option<Place> {
    let offset = u64::from_le_bytes(bytes.array()?);
    let place = Place { offset, width: bytes.u32()?, height: bytes.u32()?, crc: bytes.u32()? };
    let end = offset.checked_add(place.bytes().min(u64::MAX >> 1))?;
    let fits = offset >= limits.pixels.start && end <= limits.pixels.end;
    (fits && place.width.min(place.height) as usize >= limits.shorter).then_some(place)
}

fn caption(bytes: &mut Bytes, words: usize) -> Option<Vec<i32>> {
    let length = bytes.u32()? as usize;
    let ids = bytes.take(length.checked_mul(4)?)?.as_chunks().0.iter().map(|id| i32::from_le_bytes(*id));
    let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < words);
    (length > 0 && ids.clone().all(|id| known(&id))).then(|| ids.collect())
}

/// What is left of a list.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        std::str::from_utf8(self.take(length)?).ok()
    }
}
