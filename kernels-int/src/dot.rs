//! Rows of int8 weights times a quantised row of inputs.

use crate::GROUP;

/// A row of a packed matrix: its steps, then the f16 scale of each group.
#[derive(Clone, Copy)]
pub(crate) struct Row<'w> {
    #[cfg(not(kernel = "thumb2"))]
    steps: &'w [[u8; GROUP]],
    scales: &'w [[u8; 2]],
}

impl<'w> Row<'w> {
    /// The row of `groups` groups at the front of `bytes`.
    pub(crate) fn new(bytes: &'w [u8], groups: usize) -> Option<Self> {
        let parts = bytes.split_at_checked(groups.checked_mul(GROUP)?)?;
        Some(Self {
            #[cfg(not(kernel = "thumb2"))]
            steps: parts.0.as_chunks().0,
            scales: parts.1.get(..groups.checked_mul(2)?)?.as_chunks().0,
        })
    }

    /// Whether every scale is one that the kernels take.
    pub(crate) fn is_sound(&self) -> bool {
        self.scales.iter().all(|bytes| u16::from_le_bytes(*bytes) < SCALE_LIMIT)
    }
}

/// Puts quantised inputs into the order in which the kernel of this target takes them. It is another than that of the weights
/// on processors that compute two products at once, and the same everywhere else. Twice is never.
pub fn arrange(inputs: &mut [i16]) {
    if IN_PAIRS {
        for [_, b, c, _] in inputs.as_chunks_mut().0 {
            core::mem::swap(b, c);
        }
    }
}

/// Whether inputs 0 and 2 of each four stand beside each other, and 1 and 3.
const IN_PAIRS: bool = cfg!(kernel = "dsp");

/// Where the input for the weight at `place` stands.
#[cfg(not(kernel = "thumb2"))]
const fn arranged(place: usize) -> usize {
    match place % 4 {
        1 if IN_PAIRS => place + 1,
        2 if IN_PAIRS => place - 1,
        _ => place,
    }
}

/// `sum over groups of scale * (sum of weight * input)`, exact, in units of 2^-24 times those of the inputs, for four rows
/// at a time: an input is loaded once for several of them. Packed rows of int8 weights begin at the front of `rows` and
/// `row_bytes` behind each other, with scales that [`Block::new`](crate::Block::new) takes; `inputs` are whole groups that
/// [`arrange`] has put in order. All sums are zero where `rows` ends before its fourth row does.
///
/// ```
/// use syn1_kernels_int::{arrange, dot_rows};
///
/// // Rows of one group of 32 weights of 3 steps of 0.5 (f16 bits 0x3800), and as many inputs of 2.
/// let mut row = [3u8; 48];
/// row[32..34].copy_from_slice(&0x3800u16.to_le_bytes());
/// let mut inputs = [[2; 32]];
/// arrange(inputs.as_flattened_mut());
/// assert_eq!(dot_rows([row; 4].as_flattened(), 48, &inputs), [96 << 24; 4]);
/// ```
#[must_use]
pub fn dot_rows(rows: &[u8], row_bytes: usize, inputs: &[[i16; GROUP]]) -> [i64; 4] {
    let least = || row_bytes.checked_mul(3)?.checked_add(inputs.len().checked_mul(GROUP + 2)?);
    if inputs.is_empty() || least().is_none_or(|least| rows.len() < least) {
        return [0; 4];
    }
    #[cfg(kernel = "dsp")]
    let sums = crate::dsp::four(rows, row_bytes, inputs);
    #[cfg(kernel = "thumb2")]
    let sums = crate::thumb2::four(rows, row_bytes, inputs);
    #[cfg(kernel = "portable")]
    let sums = portable(rows, row_bytes, inputs, 0);
    sums
}

/// [`dot_rows`] from a group on, on any machine.
#[cfg(not(kernel = "thumb2"))]
#[inline(never)]
pub(crate) fn portable(rows: &[u8], row_bytes: usize, inputs: &[[i16; GROUP]], from: usize) -> [i64; 4] {
    let row = |row: usize| Row::new(rows.get(row * row_bytes..)?, inputs.len());
    let (Some(a), Some(b), Some(c), Some(d)) = (row(0), row(1), row(2), row(3)) else { return [0; 4] };
    let (mut of_a, mut of_b, mut of_c, mut of_d) = (0, 0, 0, 0);
    let steps = a.steps.iter().zip(b.steps).zip(c.steps.iter().zip(d.steps)).zip(inputs);
    let scales = a.scales.iter().zip(b.scales).zip(c.scales.iter().zip(d.scales));
    for ((((a, b), (c, d)), inputs), ((scale_a, scale_b), (scale_c, scale_d))) in steps.zip(scales).skip(from) {
        let [sum_a, sum_b, sum_c, sum_d] = group([a, b, c, d], inputs);
        of_a += scaled(sum_a, scale_a);
        of_b += scaled(sum_b, scale_b);
        of_c += scaled(sum_c, scale_c);
        of_d += scaled(sum_d, scale_d);
    }
    [of_a, of_b, of_c, of_d]
}

/// The sums of one group of four rows.
#[cfg(not(kernel = "thumb2"))]
#[inline(always)]
fn group([a, b, c, d]: [&[u8; GROUP]; 4], inputs: &[i16; GROUP]) -> [i32; 4] {
    let mut sums = [0; 4];
    for place in 0..GROUP {
        let input = i32::from(inputs[arranged(place)]);
        for (sum, row) in sums.iter_mut().zip([a, b, c, d]) {
            *sum += i32::from(row[place].cast_signed()) * input;
        }
    }
    sums
}

/// A group's sum times its scale.
#[cfg(not(kernel = "thumb2"))]
#[inline(always)]
fn scaled(sum: i32, scale: &[u8; 2]) -> i64 {
    i64::from(sum) * i64::from(in_2_24ths(u16::from_le_bytes(*scale)))
}

/// A positive f16 below 2 as an integer in units of 2^-24, of which every f16 is a multiple.
#[inline(always)]
const fn in_2_24ths(bits: u16) -> i32 {
    let (exponent, mantissa) = ((bits >> 10) & 31, (bits & 1023) as i32);
    if exponent == 0 { mantissa } else { (mantissa | 1024) << ((exponent as u32 - 1) & 15) }
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
    use crate::testing::checksum;

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
        assert_eq!(dot_rows(&row, 0, &inputs), [wanted; 4]);
    }

    #[test]
    fn rows_that_end_too_early_give_zero() {
        let (mut row, inputs) = ([3u8; 34], [[2; GROUP]]);
        row[32..].copy_from_slice(&0x3800u16.to_le_bytes());
        let rows = [row; 4];
        let rows = rows.as_flattened();
        assert_eq!(dot_rows(rows, 34, &inputs), [96 << 24; 4]);
        assert_eq!(dot_rows(&rows[..135], 34, &inputs), [0; 4]);
        assert_eq!(dot_rows(rows, usize::MAX, &inputs), [0; 4]);
        assert_eq!(dot_rows(rows, 34, &[]), [0; 4]);
    }

    /// The vectors that microcontrollers compute, too.
    #[test]
    fn the_vectors_of_all_machines_give_what_the_formula_gives() {
        let exact = |bytes: &[u8], inputs: &[[i16; GROUP]]| -> i64 {
            let row = Row::new(bytes, inputs.len()).unwrap();
            let group = |(group, inputs): (&[u8; GROUP], &[i16; GROUP])| -> i64 {
                group.iter().zip(inputs).map(|(step, input)| i64::from(step.cast_signed()) * i64::from(*input)).sum()
            };
            let units = |scale: &[u8; 2]| (f16::from_le_bytes(*scale).to_f64() * 2f64.powi(24)) as i64;
            row.steps.iter().zip(inputs).map(group).zip(row.scales).map(|(sum, scale)| sum * units(scale)).sum()
        };
        let exact = |rows: &[u8], row_bytes: usize, inputs: &[[i16; GROUP]]| -> [i64; 4] {
            core::array::from_fn(|row| exact(&rows[row * row_bytes..], inputs))
        };
        let wanted = checksum(exact);
        assert_eq!(checksum(dot_rows), wanted);
        let mut first = true;
        let wrong = |rows: &[u8], row_bytes: usize, inputs: &[[i16; GROUP]]| {
            dot_rows(rows, row_bytes, inputs).map(|sum| sum ^ i64::from(core::mem::take(&mut first)))
        };
        assert_ne!(checksum(wrong), wanted);
    }

    proptest! {
        /// The naive code that it equals.
        #[test]
        fn each_row_gives_its_exact_sum(
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
            let four = dot_rows(&rows.concat(), 64 + 4, groups);
            for (row, sum) in four.into_iter().enumerate() {
                prop_assert_eq!(sum as f64 * 2f64.powi(-24), naive(row));
            }
        }
    }
}
