//! The Fréchet distance of two normal distributions (Heusel et al. 2017, "GANs trained by a two time-scale update
//! rule", section 4: FID where the features are Inception's).

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt_pivoting::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Mat, MatRef, Par};
use serde::{Deserialize, Serialize};

use super::moments::Moments;
use crate::error::{Error, Result};

const NAME: &str = "Fréchet distance";

/// |μ1 - μ2|² + tr S1 + tr S2 - 2 tr (S1^½ S2 S1^½)^½, and what is known of both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrechetDistance {
    pub value: f64,
    /// |μ1 - μ2|², the part of the value that the means make.
    pub of_means: f64,
    pub width: usize,
    /// Images of each side, where its statistics say so.
    pub images: [Option<usize>; 2],
    /// Dimensions in which each side varies, to the precision of f64.
    pub ranks: [usize; 2],
    pub warnings: Vec<String>,
}

/// The distance of two sets, from their moments. With S1 = F1 F1ᵀ and S2 = F2 F2ᵀ the eigenvalues of S1^½ S2 S1^½ are the
/// squares of the singular values of F1ᵀ F2, so that no root of a rounded eigenvalue is taken: nothing can become
/// complex or NaN where a covariance lacks rank. Never negative; the same bits for any number of threads.
///
/// # Errors
/// `Metric` where the sides have different widths or a covariance is none.
pub fn frechet_distance(a: &Moments, b: &Moments) -> Result<FrechetDistance> {
    let width = a.width();
    if width != b.width() {
        let why = format!(
            "{width} features an image on one side and {} on the other; both must come from one network",
            b.width()
        );
        return Err(Error::metric(NAME, why));
    }
    let of_means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y) * (x - y)).sum();
    let (first, second) = (factor(a)?, factor(b)?);
    let ranks = [first.ncols(), second.ncols()];
    let value = of_means + a.trace() + b.trace() - 2.0 * sum_of_singular_values(first, second)?;
    if !value.is_finite() {
        return Err(Error::metric(NAME, "the statistics hold numbers that are too large"));
    }
    let images = [a.images, b.images];
    let warnings = warnings(images, width);
    Ok(FrechetDistance { value: value.max(0.0), of_means, width, images, ranks, warnings })
}

/// F [width, rank] with F Fᵀ = S: Cholesky's factor, the largest remaining variance first, up to where nothing remains.
fn factor(moments: &Moments) -> Result<Mat<f64>> {
    let width = moments.width();
    // The crate's first pivot is taken unseen.
    if moments.trace() == 0.0 {
        return Ok(Mat::zeros(width, 0));
    }
    let mut lower = MatRef::from_row_major_slice(&moments.covariance, width, width).to_owned();
    let (mut order, mut inverse) = (vec![0usize; width], vec![0usize; width]);
    let mut memory =
        MemBuffer::new(cholesky_in_place_scratch::<usize, f64>(width, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    let done =
        cholesky_in_place(lower.as_mut(), &mut order, &mut inverse, Par::Seq, stack, Default::default());
    let rank = match done {
        Ok((info, _)) => info.rank,
        Err(_) => {
            return Err(Error::metric(NAME, "the statistics hold no covariance: a variance is negative"));
        }
    };
    Ok(Mat::from_fn(width, rank, |i, j| if j <= inverse[i] { lower[(inverse[i], j)] } else { 0.0 }))
}

/// tr (S1^½ S2 S1^½)^½ from the factors.
fn sum_of_singular_values(first: Mat<f64>, second: Mat<f64>) -> Result<f64> {
    let (m, n) = (first.ncols(), second.ncols());
    if m.min(n) == 0 {
        return Ok(0.0);
    }
    let mut product = Mat::zeros(m, n);
    matmul(product.as_mut(), Accum::Replace, first.transpose(), second.as_ref(), 1.0, Par::Seq);
    drop((first, second));
    let none = ComputeSvdVectors::No;
    let mut memory = MemBuffer::new(svd_scratch::<f64>(m, n, none, none, Par::Seq, Default::default()));
    let mut values = Diag::zeros(m.min(n));
    svd(
        product.as_ref(),
        values.as_mut(),
        None,
        None,
        Par::Seq,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map_err(|_| Error::metric(NAME, "the singular values of the covariances' product were not found"))?;
    Ok(values.column_vector().iter().sum())
}

fn warnings(images: [Option<usize>; 2], width: usize) -> Vec<String> {
    let too_few = images.into_iter().flatten().filter(|&images| images <= width).min();
    let warn = |images: usize| {
        format!(
            "{images} images are no more than the {width} dimensions of the features: the distance is biased upwards \
             and compares only with the same number of images; the kernel distance (KID) is not, take that"
        )
    };
    too_few.map(warn).into_iter().collect()
}
