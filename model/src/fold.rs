//! What a norm in front of a product and a bias behind it add up to per output, so that kernels can norm afterwards.

/// A norm's gamma and beta.
pub(crate) struct Fold {
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

impl Fold {
    /// Adds an output's weights from input `k` on to its `(sum W gamma, sum W beta)`, in f64 over the weights as they are
    /// stored.
    pub(crate) fn add(&self, [c1, c2]: &mut [f64; 2], k: usize, weights: &[f32]) {
        for ((weight, gamma), beta) in weights.iter().zip(&self.gamma[k..]).zip(&self.beta[k..]) {
            *c1 += f64::from(*weight) * f64::from(*gamma);
            *c2 += f64::from(*weight) * f64::from(*beta);
        }
    }
}

/// The pairs `(c1, c2)` one behind the other.
pub(crate) fn aux(sums: &[[f64; 2]]) -> Vec<f32> {
    sums.iter().flatten().map(|sum| *sum as f32).collect()
}
