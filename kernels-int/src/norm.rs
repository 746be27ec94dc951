//! Norms, in f32.

use crate::Norm;

/// Writes the normed row, times gamma, into `out`. `gamma` gives the vector's elements in order.
pub(crate) fn normalise(norm: Norm, eps: f32, x: &[f32], gamma: impl Iterator<Item = f32>, out: &mut [f32]) {
    let count = x.len() as f32;
    let mean = match norm {
        Norm::Layer => x.iter().sum::<f32>() / count,
        Norm::Rms => 0.0,
    };
    let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    let scale = 1.0 / libm::sqrtf(square + eps);
    for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
        *out = (x - mean) * scale * gamma;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_norm_takes_out_mean_and_spread_and_an_rms_norm_the_size_alone() {
        let mut out = [0.0; 4];
        normalise(Norm::Layer, 0.0, &[1.0, 3.0, 1.0, 3.0], [1.0, 1.0, 2.0, 2.0].into_iter(), &mut out);
        assert_eq!(out, [-1.0, 1.0, -2.0, 2.0]);
        normalise(Norm::Rms, 0.0, &[2.0, -2.0, 2.0, -2.0], [1.0; 4].into_iter(), &mut out);
        assert_eq!(out, [1.0, -1.0, 1.0, -1.0]);
        normalise(Norm::Layer, 1.0, &[5.0; 4], [1.0; 4].into_iter(), &mut out);
        assert_eq!(out, [0.0; 4]);
    }
}
