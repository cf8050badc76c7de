//! Up to four dimensions, row-major.

use std::ops::Deref;

/// The dimensions of a tensor, outermost first; rank 0 is a scalar.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    #[track_caller]
    pub fn new(dims: &[usize]) -> Shape {
        assert!(dims.len() <= 4, "a shape has at most four dimensions, not {}: {dims:?}", dims.len());
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() }
    }

    /// Elements.
    pub fn count(&self) -> usize {
        self.iter().product()
    }

    /// The last dimension: channels of an image, width of a row.
    pub fn last_dim(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// All dimensions but the last, multiplied.
    pub fn rows(&self) -> usize {
        self.count() / self.last_dim().max(1)
    }

    /// The same shape with another last dimension.
    pub fn with_last(&self, last: usize) -> Shape {
        let mut shape = *self;
        shape.dims[self.rank - 1] = last;
        shape
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", &**self)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    #[track_caller]
    fn from(dims: [usize; N]) -> Shape {
        Shape::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    #[track_caller]
    fn from(dims: &[usize]) -> Shape {
        Shape::new(dims)
    }
}
