//! The functions between the products: exponential, activations, norms, arg max. Plain Rust that vectorises; compiled
//! once more for each instruction set where it matters (see `kernels.rs`), with bitwise the same results.

use syn1_model::spec::{Activation, Norm, NormKind};

/// `e^x` to about two units in the last place, without a branch; beyond ±87 the value at ±87.
///
/// Cody and Waite's range reduction to `|r| <= ln(2) / 2`, then the polynomial of Moshier's Cephes library (`expf`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x > 87.0 { 87.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]
        .into_iter()
        .fold(1.987_569_1e-4, |p, c| p * r + c);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (p * r * r + r + 1.0) * power
}

/// Applies the activation to every value.
#[inline(always)]
pub(super) fn activate(values: &mut [f32], activation: Activation) {
    match activation {
        // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u)).
        Activation::GeluTanh => values.iter_mut().for_each(|x| {
            const TWICE_ROOT: f32 = 1.595_769_2;
            let u = TWICE_ROOT * (*x + 0.044_715 * *x * *x * *x);
            *x /= 1.0 + exp(-u);
        }),
        Activation::Silu => values.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)),
    }
}

/// `cap * tanh(x / cap)` for every value, which keeps them within `cap` (Gemma Team 2024, section 2).
#[inline(always)]
pub(super) fn soft_cap(values: &mut [f32], cap: f32) {
    // tanh(u) = 1 - 2 / (1 + exp(2 u)). The error is absolute, some 2^-23 of `cap`.
    values.iter_mut().for_each(|x| *x = cap - 2.0 * cap / (1.0 + exp(*x * (2.0 / cap))));
}

/// `out = norm(x) * gamma` over `x.len()` elements; beta is in the product's `aux`.
///
/// The same bits whoever computes it: plain f32 sums over sixteen interleaved partial sums.
pub(super) fn normalise(x: &[f32], norm: Norm, gamma: &[f32], out: &mut [f32]) {
    let count = x.len() as f32;
    let mean = match norm.kind {
        NormKind::Layer => sum_of(x, |x| x) / count,
        NormKind::Rms => 0.0,
    };
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / count;
    let scale = 1.0 / (variance + norm.eps).sqrt();
    for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
        *out = (x - mean) * scale * gamma;
    }
}

/// The largest value.
#[inline(always)]
pub(super) fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (groups, rest) = values.as_chunks::<16>();
    for group in groups {
        lanes = std::array::from_fn(|i| if group[i] > lanes[i] { group[i] } else { lanes[i] });
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max })
}

/// The sum of `f(value)`, in an order that depends on the length alone.
#[inline(always)]
pub(super) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (groups, rest) = values.as_chunks::<16>();
    for group in groups {
        lanes = std::array::from_fn(|i| lanes[i] + f(group[i]));
    }
    let rest = rest.iter().fold(0.0, |sum, &value| sum + f(value));
    let mut width = 8;
    while width > 0 {
        (0..width).for_each(|i| lanes[i] += lanes[i + width]);
        width /= 2;
    }
    lanes[0] + rest
}

/// The index of the largest value, the lowest one among equals; 0 when there is none.
pub(crate) fn arg_max(values: &[f32]) -> usize {
    let max = max_of(values);
    values.iter().position(|&value| value == max).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library_everywhere_and_keeps_nan() {
        let mut worst = 0.0f64;
        for i in -870_000..=870_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "relative error {worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) > 0.0 && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_equal_their_formulas() {
        for i in -2000..=2000 {
            let x = i as f32 * 0.01;
            let wide = f64::from(x);
            let mut got = [x, x];
            activate(&mut got[..1], Activation::GeluTanh);
            activate(&mut got[1..], Activation::Silu);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
            assert!((f64::from(got[0]) - 0.5 * wide * (1.0 + u.tanh())).abs() < 2e-6, "gelu({x}) = {}", got[0]);
            assert!((f64::from(got[1]) - wide / (1.0 + (-wide).exp())).abs() < 2e-6, "silu({x}) = {}", got[1]);
        }
    }

    #[test]
    fn a_soft_cap_equals_its_formula() {
        for cap in [30.0_f32, 50.0] {
            let x: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.1).collect();
            let mut got = x.clone();
            soft_cap(&mut got, cap);
            for (got, x) in got.into_iter().zip(x) {
                let want = f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh();
                assert!((f64::from(got) - want).abs() < 2e-5, "cap {cap}, {x}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn norms_equal_their_formulas() {
        let x: Vec<f32> = (0..77).map(|i| (i as f32 * 0.37).sin() * 3.0 + 1.0).collect();
        let gamma: Vec<f32> = (0..77).map(|i| 1.0 + (i as f32 * 0.11).cos()).collect();
        for kind in [NormKind::Layer, NormKind::Rms] {
            let mut got = vec![0.0; 77];
            normalise(&x, Norm { kind, eps: 1e-5 }, &gamma, &mut got);
            let sum = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum::<f64>() / 77.0;
            let mean = if kind == NormKind::Layer { sum(&|x| x) } else { 0.0 };
            let root = (sum(&|x| (x - mean).powi(2)) + 1e-5).sqrt();
            for i in 0..77 {
                let want = (f64::from(x[i]) - mean) / root * f64::from(gamma[i]);
                assert!((f64::from(got[i]) - want).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn arg_max_takes_the_first_of_equals() {
        let mut values = vec![-1.0; 100];
        assert_eq!(arg_max(&values), 0);
        (values[37], values[38], values[99]) = (5.0, 5.0, 5.0);
        assert_eq!(arg_max(&values), 37);
        values[97] = 6.0;
        assert_eq!(arg_max(&values), 97);
        assert_eq!(arg_max(&[]), 0);
    }
}
