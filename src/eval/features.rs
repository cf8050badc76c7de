//! What a network made of pictures: a row of numbers for each.

use crate::error::{Error, Result};

/// Takes features as they come, in any order and batch by batch.
#[derive(Clone, Debug)]
pub struct Collector {
    width: usize,
    images: Vec<u64>,
    values: Vec<f32>,
}

/// Features of a set of images, a row of `width` numbers each, in the order of the images' numbers: whatever order they
/// came in, each metric gives the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    width: usize,
    images: Vec<u64>,
    values: Vec<f32>,
}

impl Collector {
    /// # Panics
    /// Where `width` is 0.
    pub fn new(width: usize) -> Collector {
        assert!(width > 0, "features of no numbers");
        Collector { width, images: Vec::new(), values: Vec::new() }
    }

    /// Takes the features of the image of this number.
    ///
    /// # Errors
    /// `Features`, which names the image, where the row has another width or holds NaN or infinity.
    pub fn push(&mut self, image: u64, row: &[f32]) -> Result<()> {
        let refuse = |why| Err(Error::Features { image, why });
        if row.len() != self.width {
            return refuse(format!(
                "{} numbers, where those of other images have {}; all must come from one network",
                row.len(),
                self.width
            ));
        }
        if let Some(at) = row.iter().position(|x| !x.is_finite()) {
            let count = row.iter().filter(|x| !x.is_finite()).count();
            return refuse(format!(
                "{count} of {} are not finite (number {at} is {}); the picture or the network's weights are damaged",
                row.len(),
                row[at]
            ));
        }
        self.images.push(image);
        self.values.extend_from_slice(row);
        Ok(())
    }

    /// How many images were taken.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// All that was taken, in the order of the images' numbers. Rows change places in memory: there is no second copy.
    ///
    /// # Errors
    /// `Features` where an image came twice.
    pub fn finish(self) -> Result<Features> {
        let Collector { width, mut images, mut values } = self;
        let mut order: Vec<usize> = (0..images.len()).collect();
        order.sort_by_key(|&row| images[row]);
        if let Some(twice) = order.windows(2).find(|pair| images[pair[0]] == images[pair[1]]) {
            let why = "came twice; each image counts once".to_string();
            return Err(Error::Features { image: images[twice[0]], why });
        }
        images.sort_unstable();
        permute(&mut values, width, order);
        Ok(Features { width, images, values })
    }
}

/// Puts row `order[i]` at place i, one cycle after the other.
fn permute(values: &mut [f32], width: usize, mut order: Vec<usize>) {
    let mut first = vec![0.0; width];
    for start in 0..order.len() {
        if order[start] == start {
            continue;
        }
        first.copy_from_slice(&values[start * width..][..width]);
        let mut at = start;
        loop {
            let from = std::mem::replace(&mut order[at], at);
            if from == start {
                values[at * width..][..width].copy_from_slice(&first);
                break;
            }
            values.copy_within(from * width..(from + 1) * width, at * width);
            at = from;
        }
    }
}

impl Features {
    /// The rows of images 0, 1, 2 and so on.
    ///
    /// # Errors
    /// `Features` where a row has another width or holds NaN or infinity.
    pub fn of_rows<'a>(width: usize, rows: impl IntoIterator<Item = &'a [f32]>) -> Result<Features> {
        let mut collector = Collector::new(width);
        for (image, row) in rows.into_iter().enumerate() {
            collector.push(image as u64, row)?;
        }
        collector.finish()
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Numbers a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The images' numbers, ascending: one for each row.
    pub fn images(&self) -> &[u64] {
        &self.images
    }

    pub fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.width..][..self.width]
    }

    /// Refuses a set that another cannot be compared with.
    pub(super) fn check_width(&self, other: &Features, metric: &'static str) -> Result<()> {
        if self.width == other.width {
            return Ok(());
        }
        let why = format!(
            "{} features an image on one side and {} on the other; both must come from one network",
            self.width, other.width
        );
        Err(Error::metric(metric, why))
    }

    /// Refuses a set that is too small.
    pub(super) fn check_count(&self, least: usize, metric: &'static str) -> Result<()> {
        if self.len() >= least {
            return Ok(());
        }
        Err(Error::metric(metric, format!("{} images, and at least {least} are needed", self.len())))
    }
}
