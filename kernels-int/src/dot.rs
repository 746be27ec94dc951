//! Rows of int8 weights times a quantised row of inputs.

use crate::GROUP;

/// A row of a packed matrix: its steps, then the f16 scale of each group.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row<'w> {
    steps: &'w [[u8; GROUP]],
    scales: &'w [[u8; 2]],
}

impl<'w> Row<'w> {
    /// The row of `groups` groups at the front of `bytes`.
    pub(crate) fn new(bytes: &'w [u8], groups: usize) -> Option<Self> {
        let (steps, scales) = bytes.split_at_checked(groups.checked_mul(GROUP)?)?;
        let scales = scales.get(..groups.checked_mul(2)?)?;
        Some(Self { steps: steps.as_chunks().0, scales: scales.as_chunks().0 })
    }

    /// Whether every scale is one that the kernels take.
    pub(crate) fn is_sound(&self) -> bool {
        self.scales.iter().all(|bytes| u16::from_le_bytes(*bytes) < SCALE_LIMIT)
    }
}

/// `sum over groups of scale * (sum of weight * input)`, exact, in units of 2^-24 times those of the inputs, for `R` rows
/// at a time. `rows` are packed rows of int8 weights, `inputs` whole groups; rows that are too short give zero.
///
/// ```
/// use syn1_kernels_int::dot_rows;
///
/// // One group of 32 weights of 3 steps of 0.5 (f16 bits 0x3800), and as many inputs of 2.
/// let mut row = [3u8; 48];
/// row[32..34].copy_from_slice(&0x3800u16.to_le_bytes());
/// let [sum] = dot_rows([&row[..]], &[[2i16; 32]]);
/// assert_eq!(sum, (96 << 24));
/// ```
#[inline]
pub fn dot_rows<const R: usize>(rows: [&[u8]; R], inputs: &[[i16; GROUP]]) -> [i64; R] {
    let rows = rows.map(|bytes| Row::new(bytes, inputs.len()).unwrap_or_default());
    products(rows, inputs)
}

#[inline]
pub(crate) fn products<const R: usize>(rows: [Row<'_>; R], inputs: &[[i16; GROUP]]) -> [i64; R] {
    let mut totals = [0i64; R];
    for (group, inputs) in inputs.iter().enumerate() {
        let steps = rows.map(|row| row.steps.get(group).unwrap_or(&[0; GROUP]));
        let mut sums = [0i32; R];
        for place in 0..GROUP {
            let input = i32::from(inputs[place]);
            for (sum, steps) in sums.iter_mut().zip(&steps) {
                *sum += i32::from(steps[place].cast_signed()) * input;
            }
        }
        for ((total, sum), row) in totals.iter_mut().zip(sums).zip(&rows) {
            let scale = row.scales.get(group).map_or(0, |bytes| in_2_24ths(u16::from_le_bytes(*bytes)));
            *total += i64::from(sum) * i64::from(scale);
        }
    }
    totals
}

/// A positive f16 below 2 as an integer in units of 2^-24, of which every f16 is a multiple.
const fn in_2_24ths(bits: u16) -> i32 {
    let (exponent, mantissa) = ((bits >> 10) & 31, (bits & 1023) as i32);
    if exponent == 0 { mantissa } else { (mantissa | 1024) << (exponent as u32 - 1 & 15) }
}

/// f16 bits from which on scales are refused: 2, and with it negative ones, infinities and NaNs. Weights of magnitude 254
/// are in no model, and below it sums cannot overflow.
pub(crate) const SCALE_LIMIT: u16 = 0x4000;

const _: () = {
    // A group's sum fits i32, and the sum of a row's groups fits i64.
    let group = GROUP as i64 * 128 * 32768;
    assert!(group <= i32::MAX as i64);
    let groups = (crate::shape::MAX_ROW / GROUP) as i64;
    assert!((group * (in_2_24ths(SCALE_LIMIT - 1) as i64)).checked_mul(groups).is_some());
};

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn every_scale_is_a_whole_number_of_units() {
        for bits in 0..SCALE_LIMIT {
            let units = f64::from(in_2_24ths(bits));
            assert_eq!(units * 2f64.powi(-24), f16::from_bits(bits).to_f64(), "{bits:x}");
        }
    }

    #[test]
    fn scales_of_two_and_more_and_what_is_no_scale_are_refused() {
        let sound = |scale: f16| {
            let mut row = [0; 34];
            row[32..].copy_from_slice(&scale.to_bits().to_le_bytes());
            Row::new(&row, 1).unwrap().is_sound()
        };
        assert!(sound(f16::ZERO) && sound(f16::from_f32(1.999)));
        for wrong in [f16::from_f32(2.0), f16::from_f32(-0.5), f16::NAN, f16::INFINITY] {
            assert!(!sound(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let groups = crate::shape::MAX_ROW / GROUP;
        let mut row = std::vec![0x80u8; groups * GROUP];
        row.extend((0..groups).flat_map(|_| (SCALE_LIMIT - 1).to_le_bytes()));
        let inputs = std::vec![[i16::MIN; GROUP]; groups];
        let wanted = (groups * GROUP) as i64 * 128 * 32768 * i64::from(in_2_24ths(SCALE_LIMIT - 1));
        assert_eq!(dot_rows([&row[..]], &inputs), [wanted]);
    }

    proptest! {
        /// The naive code that it equals.
        #[test]
        fn rows_together_give_the_exact_sum_of_each(
            steps in prop::collection::vec(any::<i8>(), 4 * 64),
            scales in prop::collection::vec(0..SCALE_LIMIT, 4 * 2),
            inputs in prop::collection::vec(any::<i16>(), 64),
        ) {
            let rows: Vec<Vec<u8>> = (0..4).map(|row| {
                let steps = steps[64 * row..][..64].iter().map(|step| step.cast_unsigned());
                steps.chain(scales[2 * row..][..2].iter().flat_map(|scale| scale.to_le_bytes())).collect()
            }).collect();
            let naive = |row: usize| -> f64 {
                (0..64).map(|k| {
                    let scale = f16::from_bits(scales[2 * row + k / GROUP]).to_f64();
                    scale * f64::from(steps[64 * row + k]) * f64::from(inputs[k])
                }).sum()
            };
            let groups: &[[i16; GROUP]] = inputs.as_chunks().0;
            let four = dot_rows([&rows[0][..], &rows[1], &rows[2], &rows[3]], groups);
            for row in 0..4 {
                prop_assert_eq!(dot_rows([&rows[row][..]], groups), [four[row]]);
                prop_assert_eq!(four[row] as f64 * 2f64.powi(-24), naive(row));
            }
        }
    }
}
