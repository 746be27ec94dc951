//! What a norm in front of a product and a bias behind it add up to per output, so that kernels can norm afterwards.

/// The sums that fold a norm and a bias into `aux`, in f64 over the weights as they are stored.
pub(crate) struct Fold {
    /// Gamma and beta.
    pub(crate) norm: Option<(Vec<f32>, Vec<f32>)>,
    /// Per output `sum W gamma` and `sum W beta + bias`.
    pub(crate) sums: Vec<[f64; 2]>,
}

impl Fold {
    /// Adds a whole row of the matrix.
    pub(crate) fn add_row(&mut self, row: usize, weights: &[f32]) {
        let Some((gamma, beta)) = &self.norm else { return };
        let [mut c1, mut c2] = self.sums[row];
        for ((weight, gamma), beta) in weights.iter().zip(gamma).zip(beta) {
            c1 += f64::from(*weight) * f64::from(*gamma);
            c2 += f64::from(*weight) * f64::from(*beta);
        }
        self.sums[row] = [c1, c2];
    }

    /// Adds a part of a column: the weights of outputs from `row` on for input `k`.
    pub(crate) fn add_column(&mut self, row: usize, k: usize, weights: &[f32]) {
        let Some((gamma, beta)) = &self.norm else { return };
        let (gamma, beta) = (f64::from(gamma[k]), f64::from(beta[k]));
        for ([c1, c2], weight) in self.sums[row..].iter_mut().zip(weights) {
            *c1 += f64::from(*weight) * gamma;
            *c2 += f64::from(*weight) * beta;
        }
    }

    /// The pairs `(c1, c2)` one behind the other.
    pub(crate) fn aux(&self) -> Vec<f32> {
        self.sums.iter().flatten().map(|sum| *sum as f32).collect()
    }
}
