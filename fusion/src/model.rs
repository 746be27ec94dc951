//! Random weights and rows, the same on every machine.

use crate::shape::{Shape, TOKENS};

/// The weights of a toy transformer and the rows that it is fed, teacher-forced: row t is the embedding of token t.
pub(crate) struct Model {
    pub(crate) shape: Shape,
    pub(crate) layers: Vec<Layer>,
    /// `[TOKENS][width]`
    pub(crate) rows: Vec<f32>,
}

/// The matrices of a block, `[outputs][inputs]`. There are no biases, and norms have gain 1 and no offset, as in the
/// public experiments.
pub(crate) struct Layer {
    /// Queries, keys, values: 3 `width` outputs.
    pub(crate) qkv: Vec<f32>,
    pub(crate) out: Vec<f32>,
    /// 4 `width` outputs.
    pub(crate) up: Vec<f32>,
    /// 4 `width` inputs.
    pub(crate) down: Vec<f32>,
}

impl Model {
    /// Weights from a normal distribution with variance 2 / `width`, rows from -0.05 to 0.05.
    pub(crate) fn random(shape: Shape) -> Self {
        let mut random = Random(SEED);
        let width = shape.width;
        let deviation = (2.0 / width as f64).sqrt();
        let mut matrix = |outputs: usize| (0..outputs * width).map(|_| (random.normal() * deviation) as f32).collect();
        let layers = (0..shape.layers)
            .map(|_| Layer {
                qkv: matrix(3 * width),
                out: matrix(width),
                up: matrix(4 * width),
                down: matrix(4 * width),
            })
            .collect();
        let rows = (0..TOKENS * width).map(|_| (random.uniform() * 0.1 - 0.05) as f32).collect();
        Self { shape, layers, rows }
    }
}

impl Layer {
    /// The same block for kernels that leave work to the weights: a norm's mean is taken out of the rows behind it (for
    /// `W (x - mean(x)) = (W - rowmean(W)) x`), and queries carry the scale of attention.
    pub(crate) fn folded(&self, shape: Shape) -> Self {
        let scale = 1.0 / (shape.head_dim() as f64).sqrt();
        let mut qkv = centred(&self.qkv, shape.width);
        for weight in &mut qkv[..shape.width * shape.width] {
            *weight = (f64::from(*weight) * scale) as f32;
        }
        Self { qkv, out: self.out.clone(), up: centred(&self.up, shape.width), down: self.down.clone() }
    }
}

/// Each row less its mean.
fn centred(matrix: &[f32], inputs: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let mean = row.iter().map(|&weight| f64::from(weight)).sum::<f64>() / inputs as f64;
        row.iter().map(|&weight| (f64::from(weight) - mean) as f32).collect::<Vec<f32>>()
    };
    matrix.chunks_exact(inputs).flat_map(row).collect()
}

/// SplitMix64, whose few lines are the same on every machine and in every browser.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// From 0 to 1, without 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, variance 1 (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

pub(crate) const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_mean_and_the_deviation_that_the_experiment_names() {
        let model = Model::random(Shape::new(128, 1).unwrap());
        let up = &model.layers[0].up;
        let mean = up.iter().map(|&w| f64::from(w)).sum::<f64>() / up.len() as f64;
        let variance = up.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>() / up.len() as f64;
        assert!(mean.abs() < 2e-3 && (variance * 64.0 - 1.0).abs() < 0.03, "{mean} {variance}");
        assert!(model.rows.iter().all(|row| row.abs() <= 0.05));
    }

    #[test]
    fn a_folded_product_needs_no_mean() {
        let shape = Shape::new(32, 1).unwrap();
        let layer = &Model::random(shape).layers[0];
        let x: Vec<f64> = (0..32).map(|i| f64::from(i * i)).collect();
        let mean = x.iter().sum::<f64>() / 32.0;
        let dot = |row: &[f32], mean: f64| row.iter().zip(&x).map(|(&w, x)| f64::from(w) * (x - mean)).sum::<f64>();
        for (plain, folded) in layer.up.chunks(32).zip(layer.folded(shape).up.chunks(32)) {
            assert!((dot(plain, mean) - dot(folded, 0.0)).abs() < 1e-4 * mean);
        }
    }
}
