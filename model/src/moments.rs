//! What a product's inputs are like: their mean and how they vary together, over the rows of a text.

use std::collections::TryReserveError;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};

use crate::threads::deal;

/// Mean and second moments of rows of `cols` inputs.
pub struct Moments {
    pub(crate) cols: usize,
    rows: usize,
    /// The mean of the first rows. Everything is counted from there: a large mean would drown a small variance.
    origin: Vec<f32>,
    sums: Vec<f64>,
    /// `[cols][cols]`: sums of products; what is far below the diagonal is not computed.
    products: Vec<f32>,
}

impl Moments {
    /// Of no rows yet.
    ///
    /// # Errors
    /// That there is no memory for `cols * cols` f32.
    pub fn new(cols: usize) -> Result<Self, TryReserveError> {
        let mut products = Vec::new();
        products.try_reserve_exact(cols * cols)?;
        products.resize(cols * cols, 0.0);
        Ok(Self { cols, rows: 0, origin: Vec::new(), sums: vec![0.0; cols], products })
    }

    /// Inputs of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Adds rows of inputs, `[row][cols]`. The result does not depend on the number of threads.
    ///
    /// # Panics
    /// If a row is torn.
    pub fn add(&mut self, rows: &[f32]) {
        let cols = self.cols;
        assert!(rows.len().is_multiple_of(cols), "{} elements are no rows of {cols}", rows.len());
        let count = rows.len() / cols;
        if count == 0 {
            return;
        }
        if self.rows == 0 {
            self.origin = sums(cols, rows).iter().map(|sum| (sum / count as f64) as f32).collect();
        }
        let mut shifted = rows.to_vec();
        for row in shifted.chunks_exact_mut(cols) {
            row.iter_mut().zip(&self.origin).for_each(|(value, origin)| *value -= origin);
        }
        self.rows += count;
        self.sums.iter_mut().zip(sums(cols, &shifted)).for_each(|(sum, more)| *sum += more);
        // Shapes fit by construction, here and below: no view is refused.
        let Ok(shifted) = ArrayView2::from_shape((count, cols), &shifted) else { return };
        deal(self.products.chunks_mut(BLOCK * cols).enumerate(), |(index, products)| {
            let (first, rows) = (index * BLOCK, products.len() / cols);
            let Ok(mut products) = ArrayViewMut2::from_shape((rows, cols), products) else { return };
            let own = shifted.slice(s![.., first..first + rows]);
            let right = shifted.slice(s![.., first..]);
            general_mat_mul(1.0, &own.t(), &right, 1.0, &mut products.slice_mut(s![.., first..]));
        });
    }

    /// The mean input, and the covariance in what is not far below the diagonal of `[cols][cols]`.
    pub(crate) fn into_covariance(self) -> (Vec<f32>, Vec<f32>) {
        let Self { cols, rows, origin, sums, mut products } = self;
        if rows == 0 {
            return (vec![0.0; cols], products);
        }
        let count = rows as f64;
        let shifts: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let inverse = (1.0 / count) as f32;
        deal(products.chunks_mut(cols).zip(&shifts), |(row, own)| {
            row.iter_mut().zip(&shifts).for_each(|(product, shift)| *product = *product * inverse - own * shift);
        });
        (origin.iter().zip(&shifts).map(|(origin, shift)| origin + shift).collect(), products)
    }
}

/// The sum of each column.
fn sums(cols: usize, rows: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; cols];
    for row in rows.chunks_exact(cols) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums
}

/// Rows of the square that are computed at once.
const BLOCK: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_covariance_are_those_of_their_definitions_also_far_from_zero() {
        let (cols, rows) = (150, 70);
        let value = |row: usize, col: usize| 100.0 + ((row * 31 + col * 17) % 23) as f32 / 8.0 + (row * col % 5) as f32;
        let inputs: Vec<f32> = (0..rows * cols).map(|at| value(at / cols, at % cols)).collect();
        let mut moments = Moments::new(cols).expect("room");
        inputs.chunks(30 * cols).for_each(|some| moments.add(some));
        let (mean, covariance) = moments.into_covariance();
        let exact = |col: usize| (0..rows).map(|row| f64::from(value(row, col))).sum::<f64>() / rows as f64;
        for a in (0..cols).step_by(7) {
            assert!((f64::from(mean[a]) - exact(a)).abs() < 1e-4);
            for b in (a..cols).step_by(11) {
                let product =
                    |row: usize| (f64::from(value(row, a)) - exact(a)) * (f64::from(value(row, b)) - exact(b));
                let wanted = (0..rows).map(product).sum::<f64>() / rows as f64;
                assert!((f64::from(covariance[a * cols + b]) - wanted).abs() < 1e-3, "{a} {b}");
            }
        }
    }
}
