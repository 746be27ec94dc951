//! The MLP's nonlinearities, in f32, by one exponential each.

use crate::Activation;

impl Activation {
    /// The activated value.
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u))
            Self::GeluTanh => x / (1.0 + libm::expf(-2.0 * ROOT_2_BY_PI * (x + 0.044_715 * x * x * x))),
            Self::Silu => x / (1.0 + libm::expf(-x)),
        }
    }
}

const ROOT_2_BY_PI: f32 = 0.797_884_6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_their_formulas_say_in_f64() {
        for step in -2000..2000 {
            let x = step as f32 / 100.0;
            let wide = f64::from(x);
            let gelu =
                0.5 * wide * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3))).tanh());
            let silu = wide / (1.0 + (-wide).exp());
            for (got, want) in [(Activation::GeluTanh.of(x), gelu), (Activation::Silu.of(x), silu)] {
                assert!((f64::from(got) - want).abs() <= 2e-6 * wide.abs().max(1.0), "{x}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn far_out_they_stay_finite() {
        for activation in [Activation::GeluTanh, Activation::Silu] {
            assert_eq!(activation.of(1e30), 1e30);
            assert_eq!(activation.of(-1e30), 0.0);
        }
    }
}
