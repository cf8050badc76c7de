//! Images for people: sheets of stages and attention, contact sheets, swaps, strips, animations, with words in every script.

mod animation;
mod attention;
mod canvas;
mod change;
mod contact;
mod picture;
mod samples;
mod sheet;
mod text;

pub use animation::{Frame, gif, with_held_ends};
pub use attention::{Attention, Even, Scale, attention_sheet};
pub use change::{Change, change_sheet};
pub use contact::{Section, contact_sheet};
pub use picture::pictures;
pub use samples::{SampleRow, sample_table};
pub use sheet::{Tile, column, strip};
