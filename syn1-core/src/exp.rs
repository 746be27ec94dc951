//! `exp` and `ln`, which `core` does not have, as far as a log-sum-exp needs them.

use crate::codec::wide::wide;

/// `ln(sum(exp(x)))`; `None` when that is not a number, because a value is NaN or +inf or all are -inf.
///
/// The largest value is taken out first (the usual form that can't overflow). The relative error is that of f32.
pub(crate) fn log_sum_exp(values: &[f32]) -> Option<f32> {
    // In the order of their keys NaNs stand beyond the infinities, on the side of their sign.
    let (least, most) = wide!(ends(values));
    let bounds = [f32::NEG_INFINITY, f32::INFINITY].map(|x| key(x.to_bits().cast_signed()));
    let [lowest, highest] = bounds;
    if least < lowest || most >= highest || most <= lowest {
        return None;
    }
    let max = f32::from_bits(key(most).cast_unsigned());
    let total = wide!(total(values, max));
    Some((f64::from(max) + ln(total)) as f32)
}

/// The least and the largest key.
#[inline(always)]
fn ends(values: &[f32]) -> (i32, i32) {
    let (mut least, mut most) = (i32::MAX, i32::MIN);
    for x in values {
        let key = key(x.to_bits().cast_signed());
        (least, most) = (least.min(key), most.max(key));
    }
    (least, most)
}

/// `sum(exp(x - max))`: f32 sums of short runs, so that rounding does not pile up over a large vocabulary.
#[inline(always)]
fn total(values: &[f32], max: f32) -> f64 {
    values.chunks(RUN).map(|run| f64::from(sum_exp(run, max))).sum()
}

/// An integer for the bits of a float, or the bits for the integer: integers compare as their floats do, in fewer steps.
#[inline(always)]
const fn key(bits: i32) -> i32 {
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

#[inline(always)]
fn sum_exp(values: &[f32], max: f32) -> f32 {
    let (blocks, tail) = values.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += exp(x - max);
        }
    }
    sums.iter().sum::<f32>() + tail.iter().map(|x| exp(x - max)).sum::<f32>()
}

/// `exp(x)` for `x <= 0`; below -87 it stays at `exp(-87)`, which is nothing beside the largest term's 1.
///
/// `exp(x) = 2^n * exp(r)` with `n = round(x / ln 2)`, and seven terms of the series for `|r| <= ln(2) / 2`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x > -87.0 { x } else { -87.0 };
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let series = 1.0 + r * (1.0 + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))));
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(power)
}

/// `ln(x)` for a normal `x > 0`: `x = m * 2^e`, and `ln(m) = 2 atanh((m - 1) / (m + 1))` by its series.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let half = u64::from(bits & MANTISSA > SQRT2_MANTISSA);
    let exponent = (bits >> 52) as i32 + half as i32 - 1023;
    let m = f64::from_bits(bits & MANTISSA | (1023 - half) << 52);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = ODD_PARTS.iter().fold(0.0, |sum, part| sum * square + part);
    2.0 * s * series + f64::from(exponent) * core::f64::consts::LN_2
}

const ODD_PARTS: [f64; 9] =
    [1.0 / 17.0, 1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
const LANES: usize = 16;
const RUN: usize = 1024;
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has 9 bits of mantissa, so that its product with `n` is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
const C2: f32 = 1.0 / 2.0;
const C3: f32 = 1.0 / 6.0;
const C4: f32 = 1.0 / 24.0;
const C5: f32 = 1.0 / 120.0;
const C6: f32 = 1.0 / 720.0;
const C7: f32 = 1.0 / 5040.0;
const MANTISSA: u64 = (1 << 52) - 1;
const SQRT2_MANTISSA: u64 = core::f64::consts::SQRT_2.to_bits() & MANTISSA;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(values: &[f32]) -> f64 {
        let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(max) + values.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum::<f64>().ln()
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_f64(values in prop::collection::vec(-50.0..50f32, 1..3000), spread in 0.0..2f32) {
            let values: Vec<f32> = values.iter().map(|x| x * spread).collect();
            let (exact, got) = (naive(&values), f64::from(log_sum_exp(&values).unwrap()));
            prop_assert!((exact - got).abs() <= 1e-6 + exact.abs() * 1e-7, "{got} where {exact} is exact");
        }

        #[test]
        fn exp_and_ln_are_those_of_f64(x in -87.0..=0f32, y in 1.0..1e9f64) {
            prop_assert!((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs() < 3e-7);
            prop_assert!((ln(y) - y.ln()).abs() < 1e-13 * y.ln().abs() + 1e-14);
        }
    }

    #[test]
    fn a_large_vocabulary_loses_nothing() {
        let values: Vec<f32> = (0..152_000).map(|i| ((i as f32) * 0.37).sin() * 9.0).collect();
        assert!((f64::from(log_sum_exp(&values).unwrap()) - naive(&values)).abs() < 2e-6);
    }

    #[test]
    fn what_is_no_distribution_has_no_sum() {
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 15, 16, 20] {
                let mut values = [1.0; 21];
                values[at] = bad;
                assert_eq!(log_sum_exp(&values), None);
            }
        }
        assert_eq!(log_sum_exp(&[]), None);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 40]), None);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY, 3.5]), Some(3.5));
    }
}
