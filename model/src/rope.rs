//! Rotary position embedding (Su et al. 2021): the angles by which pairs of a head's elements turn.

use std::ops::Range;

use crate::spec::{Rope, RopeScaling};

impl Rope {
    /// Radians per position of each pair, `dims / 2` of them: `f = theta^(-2i / dims)` (Su et al. 2021, section 3.3),
    /// stretched by the scaling.
    ///
    /// Linear scaling divides by its factor (Chen et al. 2023, section 3). Llama 3's scaling (Dubey et al. 2024, and the
    /// `apply_scaling` of the models' published code) compares the wavelength `w = 2 pi / f` with the first training's
    /// context `c`: `f` stays for `w < c / high`, becomes `f / factor` for `w > c / low`, and between them becomes
    /// `(1 - s) f / factor + s f` with `s = (c / w - low) / (high - low)`.
    pub fn frequencies(&self) -> Vec<f64> {
        let frequency = |pair: usize| {
            let plain = f64::from(self.theta).powf(-(2.0 * pair as f64) / self.dims as f64);
            self.scaling.stretched(plain)
        };
        (0..self.dims / 2).map(frequency).collect()
    }

    /// Cosine and sine of the angles at `positions`, computed in f64: `[position][pair][cos, sin]`.
    pub fn table(&self, positions: Range<usize>) -> Vec<f32> {
        let frequencies = self.frequencies();
        let mut table = Vec::with_capacity(positions.len() * 2 * frequencies.len());
        for position in positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                table.extend([cos as f32, sin as f32]);
            }
        }
        table
    }
}

impl RopeScaling {
    fn stretched(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / f64::from(factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let (low, high) = (f64::from(low_freq_factor), f64::from(high_freq_factor));
                let turns = original_positions as f64 * frequency / std::f64::consts::TAU;
                let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - share) * frequency / f64::from(factor) + share * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{got}, not {want}");
        }
    }

    #[test]
    fn wavelengths_are_a_geometric_series_that_linear_scaling_stretches() {
        let rope = Rope { theta: 1e4, dims: 8, scaling: RopeScaling::None };
        close(&rope.frequencies(), &[1.0, 0.1, 0.01, 0.001]);
        let rope = Rope { scaling: RopeScaling::Linear { factor: 8.0 }, ..rope };
        close(&rope.frequencies(), &[0.125, 0.0125, 0.00125, 0.000125]);
    }

    #[test]
    fn llama3_stretches_long_wavelengths_only() {
        let llama3 = |original_positions| RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions,
        };
        // Wavelengths 6.3, 63, 628 and 6283 around limits of 62.8 and 251 or so: short, at the edge, long, long.
        let rope = Rope { theta: 1e4, dims: 8, scaling: llama3(400) };
        let plain = [1.0, 0.1, 0.01, 0.001];
        let turns = 400.0 * 0.01 / std::f64::consts::TAU;
        assert!(turns < 1.0);
        close(&rope.frequencies(), &[plain[0], plain[1], plain[2] / 32.0, plain[3] / 32.0]);
        // The second pair turns 1.6 times within 100 positions: between the limits, by 0.2 of the way.
        let rope = Rope { scaling: llama3(100), ..rope };
        let share = (100.0 * 0.1 / std::f64::consts::TAU - 1.0) / 3.0;
        close(&rope.frequencies()[1..2], &[(1.0 - share) * 0.1 / 32.0 + share * 0.1]);
    }

    #[test]
    fn a_table_turns_by_the_frequency_at_every_position() {
        let rope = Rope { theta: 1e4, dims: 4, scaling: RopeScaling::None };
        let table = rope.table(0..3);
        assert_eq!(table[..4], [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(table[8..], [2_f32.cos(), 2_f32.sin(), 0.02_f32.cos(), 0.02_f32.sin()]);
        assert_eq!(rope.table(2..3), table[8..]);
    }
}
