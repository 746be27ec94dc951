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

    /// What a group needs to know of `D`, against its largest element, and of `F`. Padding is of no weight.
    fn known(&self, col: usize, len: usize) -> Known {
        let mut known = Known { spread: [0.0; GROUP], factor: [[0.0; GROUP]; GROUP] };
        let largest = self.spread[col..col + len].iter().copied().fold(0.0, f32::max);
        for (known, spread) in known.spread.iter_mut().zip(&self.spread[col..col + len]) {
            *known = spread / largest;
        }
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
        // The shapes fit by construction: no view is refused.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers around zero from a multiplicative generator, bell-shaped.
    fn numbers(seed: u32) -> impl FnMut() -> f32 {
        let mut state = seed;
        let mut uniform = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        };
        move || (0..6).map(|_| uniform()).sum()
    }

    fn many(count: usize, seed: u32) -> Vec<f32> {
        let mut number = numbers(seed);
        (0..count).map(|_| number()).collect()
    }

    /// Rows of `cols` inputs that are mixtures of a few causes, with a little noise and a mean.
    fn correlated(rows: usize, cols: usize, seed: u32) -> Vec<f32> {
        let causes = cols / 4;
        let (mix, noise) = (many(causes * cols, 7), many(rows * cols, seed));
        let active = many(rows * causes, seed ^ 0xA5A5);
        let input = |at: usize| {
            let (row, col) = (at / cols, at % cols);
            let causes = (0..causes).map(|cause| active[row * causes + cause] * mix[cause * cols + col]);
            0.5 + causes.sum::<f32>() + 0.2 * noise[at]
        };
        (0..rows * cols).map(input).collect()
    }

    fn moments(cols: usize, inputs: &[f32]) -> Moments {
        let mut moments = Moments::new(cols).expect("room");
        moments.add(inputs);
        moments
    }

    fn rounded(feedback: &Feedback, exact: &[f32]) -> Vec<f32> {
        let mut stored = exact.to_vec();
        feedback.round(exact, &mut stored, |_, _, _| {});
        stored
    }

    fn nearest(cols: usize, exact: &[f32]) -> Vec<f32> {
        let mut stored = exact.to_vec();
        for row in stored.chunks_exact_mut(cols) {
            crate::store::store(row, crate::plan::WeightFormat::Int4, (0, cols.next_multiple_of(GROUP)), None);
        }
        stored
    }

    /// The mean square of what rounding changes in the outputs, their mean change taken out.
    fn output_error(cols: usize, exact: &[f32], stored: &[f32], inputs: &[f32]) -> f64 {
        let mut sum = 0.0;
        for (exact, stored) in exact.chunks_exact(cols).zip(stored.chunks_exact(cols)) {
            let changes = inputs.chunks_exact(cols).map(|input| {
                input.iter().zip(exact).zip(stored).map(|((x, w), q)| f64::from(*x) * f64::from(w - q)).sum::<f64>()
            });
            let changes: Vec<f64> = changes.collect();
            let mean = changes.iter().sum::<f64>() / changes.len() as f64;
            sum += changes.iter().map(|change| (change - mean).powi(2)).sum::<f64>();
        }
        sum
    }

    #[test]
    fn feedback_halves_the_error_of_outputs_also_for_inputs_it_has_not_seen() {
        // Neither whole blocks nor whole groups.
        let cols = 300;
        let feedback = Feedback::new(moments(cols, &correlated(2000, cols, 1)));
        let weights = many(20 * cols, 3);
        let unseen = correlated(500, cols, 99);
        let found = output_error(cols, &weights, &rounded(&feedback, &weights), &unseen);
        let plain = output_error(cols, &weights, &nearest(cols, &weights), &unseen);
        assert!(found < 0.5 * plain, "{found} {plain}");
    }

    #[test]
    fn without_correlation_every_weight_goes_to_the_nearest() {
        let cols = 160;
        let mut inputs = vec![0.0; 2 * cols * cols];
        for (index, row) in inputs.chunks_exact_mut(cols).enumerate() {
            row[index / 2] = if index % 2 == 0 { 2.0 } else { -2.0 };
        }
        let feedback = Feedback::new(moments(cols, &inputs));
        let weights = many(5 * cols, 4);
        assert_eq!(rounded(&feedback, &weights), nearest(cols, &weights));
    }

    #[test]
    fn dead_inputs_are_harmless_and_no_inputs_mean_the_nearest() {
        let cols = 96;
        let mut inputs = correlated(400, cols, 5);
        inputs.chunks_exact_mut(cols).for_each(|row| row[30..70].fill(0.0));
        let feedback = Feedback::new(moments(cols, &inputs));
        let weights = many(10 * cols, 6);
        let stored = rounded(&feedback, &weights);
        assert!(stored.iter().zip(&weights).all(|(stored, exact)| (stored - exact).abs() < 1.0));
        assert!(feedback.mean[30..70].iter().all(|mean| *mean == 0.0));
        let error = |stored: &[f32]| output_error(cols, &weights, stored, &inputs);
        assert!(error(&stored) < error(&nearest(cols, &weights)));

        for nothing in [Moments::new(cols).expect("room"), moments(cols, &vec![0.0; 3 * cols])] {
            assert_eq!(rounded(&Feedback::new(nothing), &weights), nearest(cols, &weights));
        }
    }

    #[test]
    fn the_factors_multiply_to_the_covariance() {
        let cols = 200;
        let inputs = correlated(1000, cols, 8);
        let (_, covariance) = moments(cols, &inputs).into_covariance();
        let feedback = Feedback::new(moments(cols, &inputs));
        let trace: f64 = (0..cols).map(|k| f64::from(covariance[k * cols + k])).sum();
        let damping = DAMPING * trace / cols as f64;
        let factor = |row: usize, col: usize| match row.cmp(&col) {
            std::cmp::Ordering::Less => f64::from(feedback.factor[row * cols + col]),
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => 0.0,
        };
        for i in (0..cols).step_by(3) {
            for j in i..cols {
                let product: f64 = (j..cols).map(|k| factor(i, k) * f64::from(feedback.spread[k]) * factor(j, k)).sum();
                let wanted = f64::from(covariance[i * cols + j]) + if i == j { damping } else { 0.0 };
                assert!((product - wanted).abs() < 1e-4 * trace / cols as f64, "{i} {j}: {product} {wanted}");
            }
        }
    }
}
