//! What a norm in front of a product and a bias behind it add up to per output, so that kernels can norm afterwards.
//!
//! `c1 = sum W gamma` is of the weights as they are stored, because it takes a part of their product back. `c2 = sum W beta +
//! bias` is of the exact ones: it is what the product should be of an input that is known.

/// A norm's gamma and beta.
pub(crate) struct Fold {
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

impl Fold {
    /// Adds the exact weights from input `k` on to an output's `c2`.
    pub(crate) fn add_exact(&self, [_, c2]: &mut [f64; 2], k: usize, weights: &[f32]) {
        *c2 += dot(weights, &self.beta[k..]);
    }

    /// Adds the stored weights from input `k` on to an output's `c1`.
    pub(crate) fn add_stored(&self, [c1, _]: &mut [f64; 2], k: usize, weights: &[f32]) {
        *c1 += dot(weights, &self.gamma[k..]);
    }
}

/// The sum of the products, in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + f64::from(*a) * f64::from(*b))
}

/// The pairs `(c1, c2)` one behind the other.
pub(crate) fn aux(sums: &[[f64; 2]]) -> Vec<f32> {
    sums.iter().flatten().map(|sum| *sum as f32).collect()
}
