//! The two sides of a split.

use super::pictures::Picture;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Train,
    Test,
}

impl Side {
    /// The side that a column or a folder names.
    pub fn of(name: &str) -> Option<Side> {
        match name.to_lowercase().as_str() {
            "train" | "training" => Some(Side::Train),
            "test" | "testing" | "val" | "valid" | "validation" | "dev" => Some(Side::Test),
            _ => None,
        }
    }

    /// The side of a picture in a folder train or test.
    pub fn of_folder(picture: &Picture) -> Option<Side> {
        picture.folders().next().and_then(Side::of)
    }
}
