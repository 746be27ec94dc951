//! Rows of floats as 16-bit integers with a power of two in common.

use core::fmt;

/// A row holds an infinity or a NaN.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

/// Writes `values` as integers `q` with one exponent `e`, so that `value = q * 2^e` but for rounding, and gives `e`. What of
/// `out` is left over becomes zero; values that it has no room for are left out.
///
/// The largest magnitude uses 15 bits: `2^14 <= |q| <= 32767` for it. Every value is off by half a step (`2^e`) at most, but
/// those that round to 32768 steps, which saturate. Subnormal values count as zero. Integers and shifts do it all.
///
/// ```
/// let mut out = [0; 4];
/// let exponent = syn1_kernels_int::quantise(&[1.0, -0.5, 0.0], &mut out).unwrap();
/// assert_eq!((out, exponent), ([16384, -8192, 0, 0], -14));
/// ```
///
/// # Errors
/// [`NotFinite`].
pub fn quantise(values: &[f32], out: &mut [i16]) -> Result<i32, NotFinite> {
    let largest = values.iter().map(|value| value.to_bits() & MAGNITUDE).max().unwrap_or(0);
    if largest >= f32::INFINITY.to_bits() {
        return Err(NotFinite);
    }
    let top = largest >> MANTISSA_BITS;
    let padded = values.iter().copied().chain(core::iter::repeat(0.0));
    for (out, value) in out.iter_mut().zip(padded) {
        *out = steps(value, top);
    }
    // The largest is 1.m * 2^(top - 127) and is to have 15 bits.
    Ok(if top == 0 { 0 } else { top as i32 - 127 - 14 })
}

/// A value in steps of `2^(top - 141)`.
fn steps(value: f32, top: u32) -> i16 {
    let bits = value.to_bits();
    let exponent = (bits & MAGNITUDE) >> MANTISSA_BITS;
    // The mantissa counts in 2^(exponent - 150): so much has to go.
    let shift = top.saturating_sub(exponent) + 9;
    if exponent == 0 || shift > MANTISSA_BITS + 1 {
        return 0;
    }
    let mantissa = bits & ((1 << MANTISSA_BITS) - 1) | 1 << MANTISSA_BITS;
    let steps = (mantissa + (1 << (shift - 1))) >> shift;
    let steps = steps.min(i16::MAX as u32) as i16;
    if bits >> 31 == 0 { steps } else { -steps }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row holds an infinity or a NaN")
    }
}

impl core::error::Error for NotFinite {}

const MANTISSA_BITS: u32 = 23;
const MAGNITUDE: u32 = 0x7fff_ffff;

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_is_within_half_a_step(values in prop::collection::vec(-1e30f32..1e30, 1..40)) {
            let mut out = std::vec![0i16; values.len()];
            let exponent = quantise(&values, &mut out).unwrap();
            let step = 2f64.powi(exponent);
            let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (value, steps) in values.iter().zip(&out) {
                let error = (f64::from(*value) - f64::from(*steps) * step).abs();
                let bound = if steps.unsigned_abs() == 32767 { step } else { step / 2.0 };
                prop_assert!(error <= bound, "{value} became {steps} steps of {step}");
                prop_assert!(error <= f64::from(largest) * 2f64.powi(-14));
            }
            prop_assert!(largest == 0.0 || out.iter().any(|steps| steps.unsigned_abs() >= 1 << 14));
        }

        #[test]
        fn a_power_of_two_changes_the_exponent_alone(values in prop::collection::vec(-1.0f32..1.0, 1..40)) {
            let larger: Vec<f32> = values.iter().map(|value| value * 64.0).collect();
            let (mut out, mut more) = (std::vec![0i16; values.len()], std::vec![0i16; values.len()]);
            let exponents = (quantise(&values, &mut out).unwrap(), quantise(&larger, &mut more).unwrap());
            prop_assume!(values.iter().all(|value| *value == 0.0 || value.is_normal()) && exponents.0 != 0);
            prop_assert_eq!(exponents.0 + 6, exponents.1);
            prop_assert_eq!(out, more);
        }
    }

    #[test]
    fn zeros_and_subnormals_are_zero_and_what_is_not_finite_is_refused() {
        let mut out = [7; 3];
        assert_eq!(quantise(&[0.0, -0.0, f32::from_bits(1)], &mut out), Ok(0));
        assert_eq!(out, [0; 3]);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(quantise(&[1.0, wrong], &mut out), Err(NotFinite));
        }
        assert_eq!(quantise(&[f32::MAX, f32::MIN], &mut out), Ok(254 - 141));
        assert_eq!(out, [32767, -32767, 0]);
    }
}
