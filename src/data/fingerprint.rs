//! What identifies a data set, so that a resumed run notices another one.

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Item};

/// The lists, captions, boxes and split of a data set in a few numbers. The image files' bytes are not read for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub training_images: usize,
    pub test_images: usize,
    pub words: usize,
    /// CRC-32C of ids, classes and boxes, in order, of both splits.
    pub images: u32,
    /// CRC-32C of all captions as word ids.
    pub captions: u32,
}

impl Fingerprint {
    pub fn of(dataset: &Dataset) -> Fingerprint {
        let (mut images, mut captions) = (0, 0);
        for (split, items) in [&dataset.train, &dataset.test].into_iter().enumerate() {
            for Item { id, bbox, class, captions: ids, .. } in items {
                let bbox = bbox.map(|sides| sides.map(f32::to_bits));
                images = crc32c::crc32c_append(images, format!("{split} {id} {class} {bbox:?}\n").as_bytes());
                for caption in ids {
                    let ids: Vec<u8> = caption.iter().chain(&[-1]).flat_map(|id| id.to_le_bytes()).collect();
                    captions = crc32c::crc32c_append(captions, &ids);
                }
            }
        }
        Fingerprint {
            training_images: dataset.train.len(),
            test_images: dataset.test.len(),
            words: dataset.vocabulary.len(),
            images,
            captions,
        }
    }

    /// How `other` differs, as a phrase; none where it is the same.
    pub fn difference(&self, other: &Fingerprint) -> Option<String> {
        let counts = [
            ("training images", self.training_images, other.training_images),
            ("test images", self.test_images, other.test_images),
            ("words", self.words, other.words),
        ];
        let counted = counts.iter().filter(|(_, ours, theirs)| ours != theirs);
        let counted: Vec<String> =
            counted.map(|(what, ours, theirs)| format!("{theirs} {what} where there were {ours}")).collect();
        match self {
            _ if !counted.is_empty() => Some(counted.join(", ")),
            _ if self.images != other.images => Some("other images, classes or bounding boxes".to_string()),
            _ if self.captions != other.captions => Some("other captions".to_string()),
            _ => None,
        }
    }
}
