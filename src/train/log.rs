//! TensorBoard's event files, written by hand: TFRecords that hold protobuf `Event`s of scalars and PNG images.
//!
//! A record is its length (u64), a masked CRC-32C of the length, the bytes, and a masked CRC-32C of the bytes.
//! Formats: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto, framework/summary.proto.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::run::Phase;

/// One event file. A resumed run begins a new one beside it; TensorBoard joins them, and drops what earlier files hold
/// of the steps that are trained again.
pub struct EventLog {
    file: File,
    path: PathBuf,
}

impl EventLog {
    /// A file whose first step is `from + 1`.
    pub fn create(folder: &Path, from: u64) -> Result<EventLog> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Seconds, as TensorBoard expects, and microseconds, as two runs of a test share a second.
        let name = format!(
            "events.out.tfevents.{}.{:06}.{}",
            since.as_secs(),
            since.subsec_micros(),
            std::process::id()
        );
        let path = folder.join(name);
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        let mut log = EventLog { file, path };
        log.write(Message::default().bytes(3, b"brain.Event:2"))?;
        // SessionLog.START: readers drop older events from this step on.
        let start = Message::default().varint(1, 1);
        log.write(Message::default().varint(2, from + 1).bytes(7, &start.0))?;
        Ok(log)
    }

    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let value = Message::default().bytes(1, tag.as_bytes()).float(2, *value as f32);
            summary = summary.bytes(1, &value.0);
        }
        self.write(Message::default().varint(2, step).bytes(5, &summary.0))
    }

    /// An image as the bytes of a PNG file.
    pub fn image(&mut self, step: u64, tag: &str, [width, height]: [usize; 2], png: &[u8]) -> Result<()> {
        const RGB: u64 = 3;
        let image =
            Message::default().varint(1, height as u64).varint(2, width as u64).varint(3, RGB).bytes(4, png);
        let value = Message::default().bytes(1, tag.as_bytes()).bytes(4, &image.0);
        let summary = Message::default().bytes(1, &value.0);
        self.write(Message::default().varint(2, step).bytes(5, &summary.0))
    }

    /// A text in Markdown, for the plug-in of that name: a string tensor of one element.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        const STRING: u64 = 7;
        let one = Message::default().bytes(2, &Message::default().varint(1, 1).0);
        let tensor = Message::default().varint(1, STRING).bytes(2, &one.0).bytes(8, text.as_bytes());
        let metadata = Message::default().bytes(1, &Message::default().bytes(1, b"text").0);
        let value = Message::default().bytes(1, tag.as_bytes()).bytes(8, &tensor.0).bytes(9, &metadata.0);
        let summary = Message::default().bytes(1, &value.0);
        self.write(Message::default().varint(2, step).bytes(5, &summary.0))
    }

    fn write(&mut self, event: Message) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let record = record(&event.double(1, now).0);
        self.file.write_all(&record).map_err(|e| Error::io(&self.path, e))
    }
}

/// The tag of a term of a loss: its group, and a name in words. `sides` are those of the generator's images.
pub fn loss_tag(phase: Phase, term: &str, sides: &[usize]) -> String {
    let of_side = |network: &str, index: &str| {
        let side = index.parse().ok().and_then(|index: usize| sides.get(index))?;
        Some(format!("loss/{network}_{side}"))
    };
    let adversarial = match term.split_at_checked(1) {
        Some(("d", index)) => of_side("D", index),
        Some(("g", index)) => of_side("G", index),
        _ => None,
    };
    adversarial.unwrap_or_else(|| match term {
        "w0" => "damsm/words_image_to_text".to_string(),
        "w1" => "damsm/words_text_to_image".to_string(),
        "s0" => "damsm/sentence_image_to_text".to_string(),
        "s1" => "damsm/sentence_text_to_image".to_string(),
        "caption" => "captioner/caption".to_string(),
        "kl" => "loss/KL".to_string(),
        other => format!("{}/{other}", phase.name()),
    })
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// Masked, because a CRC of data that holds CRCs is weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protobuf message under construction: each call appends a field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, field: u8, value: u64) -> Message {
        self.key(field, 0);
        self.push_varint(value);
        self
    }

    fn double(mut self, field: u8, value: f64) -> Message {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Message {
        self.key(field, 2);
        self.push_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn float(mut self, field: u8, value: f32) -> Message {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn key(&mut self, field: u8, wire_type: u8) {
        self.0.push(field << 3 | wire_type);
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_protoc_writes() {
        let message = Message::default().varint(2, 300).bytes(1, b"ab").float(2, 1.0);
        assert_eq!(message.0, [0x10, 0xac, 0x02, 0x0a, 0x02, b'a', b'b', 0x15, 0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn tags_are_words_in_groups() {
        let tag = |phase, term| loss_tag(phase, term, &[64, 128]);
        assert_eq!(tag(Phase::Gan, "d1"), "loss/D_128");
        assert_eq!(tag(Phase::Gan, "g0"), "loss/G_64");
        assert_eq!(tag(Phase::Damsm, "w0"), "damsm/words_image_to_text");
        assert_eq!(tag(Phase::Captioner, "caption"), "captioner/caption");
        assert_eq!(tag(Phase::Gan, "d"), "gan/d");
    }

    #[test]
    fn a_record_is_length_checksum_data_checksum() {
        let record = record(b"hello");
        assert_eq!(record.len(), 8 + 4 + 5 + 4);
        assert_eq!(&record[..8], [5, 0, 0, 0, 0, 0, 0, 0]);
        // CRC-32C of "123456789" is e3069283 in every catalog; masked, this.
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
