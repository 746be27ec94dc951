//! Rounding with feedback: what rounding a weight does to a product is made up for by the weights that are rounded after it.
//!
//! With `C` the covariance of a product's inputs, a row `w` that is stored as `q` changes its output by a variance of
//! `(w - q) C (w - q)^T`. Let `C = (F + 1) D (F + 1)^T` with `F` strictly upper and `D` diagonal; then that variance is the sum
//! over `k` of `D_k (w_k + sum_{j<k} (w_j - q_j) F_jk - q_k)^2`. So the weights are rounded one after the other, each as
//! if it were `w_k + sum_{j<k} (w_j - q_j) F_jk`. This is LDLQ (Chee et al. 2023), whose authors show that it gives what
//! GPTQ (Frantar et al. 2022) does; no inverse is needed. The mean change, `(w - q)` times the mean input, is known and is
//! taken back in the product's constant, so that `C` may leave it out.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};

use crate::groups::{GROUP, Int4Group, Known};
use crate::moments::Moments;
use crate::threads::deal;

/// How a product's weights are rounded with feedback; see the module.
pub struct Feedback {
    pub(crate) cols: usize,
    /// `F` in its strict upper triangle, `[cols][cols]`; what is below has no meaning.
    factor: Vec<f32>,
    /// `D`.
    spread: Vec<f32>,
    /// The mean input.
    pub(crate) mean: Vec<f32>,
}

/// Those of a block's products: queries, keys and values; attention's projection; gate and up; down. A product without one
/// is rounded to the nearest.
pub type BlockFeedback = [Option<Feedback>; 4];

impl Feedback {
    /// For inputs with these moments.
    ///
    /// The diagonal of the covariance is raised by a hundredth of its mean: inputs of a text are a sample, and what
    /// seems to be an input's exact consequence of others must not be relied on.
    pub fn new(moments: Moments) -> Self {
        let cols = moments.cols;
        let (mean, mut factor) = moments.into_covariance();
        let trace: f64 = (0..cols).map(|k| f64::from(factor[k * cols + k])).sum();
        let damping = (DAMPING * trace / cols as f64) as f32;
        // Without any variance there is nothing to make up for, and any damping says so.
        let damping = if damping > 0.0 { damping } else { 1.0 };
        (0..cols).for_each(|k| factor[k * cols + k] += damping);
        let spread = factorise(&mut factor, cols, damping);
        Self { cols, factor, spread, mean }
    }

    /// Rounds rows of weights to int4, group by group: `exact` and `weights`, `[row][cols]`, hold them both at first, and
    /// `weights` what they are rounded to at last. `put` gets every group as `(row, first column, group)`.
    pub(crate) fn round(&self, exact: &[f32], weights: &mut [f32], mut put: impl FnMut(usize, usize, &Int4Group)) {
        let cols = self.cols;
        let rows = exact.len() / cols;
        let mut errors = vec![0.0; rows * BLOCK];
        for begin in (0..cols).step_by(BLOCK) {
            let end = cols.min(begin + BLOCK);
            for col in (begin..end).step_by(GROUP) {
                let len = GROUP.min(end - col);
                let known = self.known(col, len);
                for row in 0..rows {
                    let at = row * cols + col;
                    let (mut values, mut original) = ([0.0; GROUP], [0.0; GROUP]);
                    values[..len].copy_from_slice(&weights[at..at + len]);
                    original[..len].copy_from_slice(&exact[at..at + len]);
                    let (group, stored) = Int4Group::with_feedback(&values, &original, &known);
                    put(row, col, &group);
                    weights[at..at + len].copy_from_slice(&stored[..len]);
                    let errors = &mut errors[row * BLOCK + col - begin..][..len];
                    for (k, error) in errors.iter_mut().enumerate() {
                        *error = original[k] - stored[k];
                    }
                }
                self.feed(&errors, begin, col..col + len, col + len..end, weights);
            }
            self.feed(&errors, begin, begin..end, end..cols, weights);
        }
    }

    /// What a group needs to know of `D` and `F`. Padding is of no weight.
    fn known(&self, col: usize, len: usize) -> Known {
        let mut known = Known { spread: [0.0; GROUP], factor: [[0.0; GROUP]; GROUP] };
        known.spread[..len].copy_from_slice(&self.spread[col..col + len]);
        for (j, row) in known.factor.iter_mut().enumerate().take(len) {
            row[j + 1..len].copy_from_slice(&self.factor[(col + j) * self.cols + col..][j + 1..len]);
        }
        known
    }

    /// Adds to the weights of the columns `to` what the errors of the columns `from` ask of them. `errors` is
    /// `[row][BLOCK]`, from column `begin` on.
    fn feed(
        &self,
        errors: &[f32],
        begin: usize,
        from: std::ops::Range<usize>,
        to: std::ops::Range<usize>,
        weights: &mut [f32],
    ) {
        let (cols, rows) = (self.cols, errors.len() / BLOCK);
        let views = (
            ArrayView2::from_shape((rows, BLOCK), errors),
            ArrayView2::from_shape((cols, cols), &self.factor),
            ArrayViewMut2::from_shape((rows, cols), weights),
        );
        if let (Ok(errors), Ok(factor), Ok(mut weights)) = views {
            let errors = errors.slice(s![.., from.start - begin..from.end - begin]);
            let factor = factor.slice(s![from, to.clone()]);
            general_mat_mul(1.0, &errors, &factor, 1.0, &mut weights.slice_mut(s![.., to]));
        }
    }
}

/// Turns the upper triangle of `a = (F + 1) D (F + 1)^T`, `[n][n]`, into `F`, and gives `D`. No element of `D` is below
/// `least`, which must hold of the exact one.
///
/// A Cholesky decomposition that begins in the last corner, block by block: the diagonal block, the columns above it, and
/// then what is left of the matrix.
fn factorise(a: &mut [f32], n: usize, least: f32) -> Vec<f32> {
    let mut spread = vec![0.0; n];
    for start in (0..n).step_by(BLOCK).rev() {
        let end = n.min(start + BLOCK);
        let size = end - start;
        // The diagonal block, transposed: row k holds the column k above the diagonal.
        let mut turned = vec![0.0; size * size];
        for k in (0..size).rev() {
            let pivot = a[(start + k) * n + start + k].max(least);
            spread[start + k] = pivot;
            for i in 0..k {
                turned[k * size + i] = a[(start + i) * n + start + k] / pivot;
            }
            for i in 0..k {
                let scale = turned[k * size + i] * pivot;
                let row = &mut a[(start + i) * n + start..][..k];
                for j in i..k {
                    row[j] -= scale * turned[k * size + j];
                }
            }
            for i in 0..k {
                a[(start + i) * n + start + k] = turned[k * size + i];
            }
        }
        // The columns above: once as they meet D, once divided by it.
        let mut above = vec![0.0; start * size];
        let mut divided = vec![0.0; start * size];
        let rows = a.chunks_exact_mut(n).zip(above.chunks_exact_mut(size).zip(divided.chunks_exact_mut(size)));
        let spread = &spread[start..end];
        deal(rows, |(row, (above, divided))| {
            let row = &mut row[start..end];
            for k in (0..size).rev() {
                let value = row[k] / spread[k];
                (above[k], divided[k]) = (row[k], value);
                row[k] = value;
                let (before, _) = row.split_at_mut(k);
                before.iter_mut().zip(&turned[k * size..]).for_each(|(left, factor)| *left -= above[k] * factor);
            }
        });
        let views = (ArrayView2::from_shape((start, size), &above), ArrayView2::from_shape((start, size), &divided));
        let (Ok(above), Ok(divided)) = views else { continue };
        deal(a[..start * n].chunks_mut(BLOCK * n).enumerate(), |(index, rows)| {
            let (first, count) = (index * BLOCK, rows.len() / n);
            let Ok(mut rows) = ArrayViewMut2::from_shape((count, n), rows) else { return };
            let own = above.slice(s![first..first + count, ..]);
            let right = divided.slice(s![first.., ..]);
            general_mat_mul(-1.0, &own, &right.t(), 1.0, &mut rows.slice_mut(s![.., first..start]));
        });
    }
    spread
}

/// What is added to the variances, in parts of their mean.
const DAMPING: f64 = 0.01;

/// Columns whose errors are gathered before they are fed on to all later ones, and the size of a decomposition's blocks.
const BLOCK: usize = 128;

const _: () = assert!(BLOCK.is_multiple_of(GROUP));
