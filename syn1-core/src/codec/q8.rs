//! Q8: one scale and an int8 per value, with the row's 8 largest magnitudes beside it.
//!
//! ```text
//! 0 scale f32 | 4 index 8 x u16 | 20 value 8 x f16 | 36 body cols x i8
//! ```
//! Transformers carry a few massive activations per row. With plain absmax int8 they set the scale and everything else
//! rounds to zero; taken out, they cost 32 bytes a row and the rest keeps its resolution.
//!
//! - The 8 largest magnitudes (of equal ones, those of lower columns) stand in `index` by rising column and in `value`;
//!   their int8 is 0. A row of fewer than 8 columns repeats its last column in the unused slots.
//! - `scale` is the largest remaining magnitude / 127, or 0 when that is below the smallest normal number.
//! - The body is `x * (1 / scale)` in f32, rounded to the nearest integer, ties to even: always within -127..=127.

use super::side::{SIDE_LEN, columns, largest, read_side, write_side};
use super::wide::wide;
use super::{CodecError, F16_MAX};

/// Bytes of a row in front of its body.
pub const Q8_OVERHEAD: usize = 4 + SIDE_LEN;

/// Writes one row. `row` must be finite and within [`F16_MAX`], which
/// [`encode`](super::encode) checks for whole frames; `out` takes `Q8_OVERHEAD + row.len()` bytes.
///
/// ```
/// use syn1_core::codec::{Q8_OVERHEAD, encode_q8_row};
///
/// let row: [f32; 64] = core::array::from_fn(|i| (i as f32).sin());
/// let mut bytes = [0; Q8_OVERHEAD + 64];
/// encode_q8_row(&row, &mut bytes)?;
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// An empty row, one longer than `u16::MAX`, or an `out` of another length.
pub fn encode_q8_row(row: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    let values = row.len();
    columns(values)?;
    let (need, have) = (Q8_OVERHEAD + values, out.len());
    // SPEC 3.9
    let Some((head, body)) = out.split_first_chunk_mut::<Q8_OVERHEAD>().filter(|(_, body)| body.len() == values) else {
        return Err(CodecError::Buffer { need, have });
    };
    let Some((scale, side_list)) = head.split_first_chunk_mut() else { return Err(CodecError::Buffer { need, have }) };
    let Some(side_list) = side_list.first_chunk_mut() else { return Err(CodecError::Buffer { need, have }) };

    let (side, rest) = largest(row);
    // SPEC 3.12
    let step = if rest / 127.0 >= f32::MIN_POSITIVE { rest / 127.0 } else { 0.0 };
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    // SPEC 3.13
    wide!(quantize(row, inverse, body));
    *scale = step.to_le_bytes();
    write_side(&side, row, side_list);
    for column in side {
        if let Some(q) = body.get_mut(usize::from(column)) {
            *q = 0;
        }
    }
    Ok(())
}

/// Reads one row of `out.len()` columns.
///
/// ```
/// use syn1_core::codec::{Q8_OVERHEAD, decode_q8_row, encode_q8_row};
///
/// let row: [f32; 64] = core::array::from_fn(|i| (i as f32).sin());
/// let (mut bytes, mut back) = ([0; Q8_OVERHEAD + 64], [0.0; 64]);
/// encode_q8_row(&row, &mut bytes)?;
/// decode_q8_row(&bytes, &mut back)?;
/// assert!(row.iter().zip(back).all(|(x, y)| (x - y).abs() < 1.0 / 253.9));
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// A length that does not fit, a scale that no encoder writes, side columns out of range or order, a side value
/// that is not finite, or -128 in the body.
pub fn decode_q8_row(row: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    let cols = out.len();
    let (need, have) = (Q8_OVERHEAD + cols, row.len());
    let Some((head, body)) = row.split_first_chunk::<Q8_OVERHEAD>().filter(|(_, body)| body.len() == cols) else {
        return Err(CodecError::Length { need, have });
    };
    let (scale, side) = read_head(head)?;
    // SPEC 3.15
    if wide!(dequantize(body, scale, out)) {
        return Err(CodecError::Minus128);
    }

    read_side(side, out)
}

/// The scale of a row and its side list.
pub(super) fn read_head(head: &[u8; Q8_OVERHEAD]) -> Result<(f32, &[u8; SIDE_LEN]), CodecError> {
    let (Some(scale), Some(side)) = (head.first_chunk(), head.last_chunk()) else {
        return Err(CodecError::Scale(f32::NAN));
    };
    let bits = u32::from_le_bytes(*scale);
    let scale = f32::from_bits(bits);
    // SPEC 3.14: positive floats are in the order of their bits, behind which negative ones and NaN stand.
    let sound = bits == 0 || (f32::MIN_POSITIVE.to_bits()..=(F16_MAX / 127.0).to_bits()).contains(&bits);
    if sound { Ok((scale, side)) } else { Err(CodecError::Scale(scale)) }
}

#[inline(always)]
fn quantize(row: &[f32], inverse: f32, body: &mut [u8]) {
    for (q, x) in body.iter_mut().zip(row) {
        // Adding 1.5 * 2^23 leaves the rounded integer in the low bits. The clamp, which changes nothing within -127..=127,
        // makes the compiler pack with saturation, which is faster than picking bytes.
        let rounded = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
        *q = (rounded.clamp(-128, 127) as i8).cast_unsigned();
    }
}

/// Writes the values and says whether the body has a -128.
#[inline(always)]
fn dequantize(body: &[u8], scale: f32, out: &mut [f32]) -> bool {
    for (x, &q) in out.iter_mut().zip(body) {
        *x = f32::from(q.cast_signed()) * scale;
    }
    body.iter().fold(0, |seen, &q| seen | u8::from(q == MINUS_128)) != 0
}

/// 1.5 * 2^23: floats of this size are integers, and the half above 2^23 leaves room for negative ones.
const ROUND: f32 = 12_582_912.0;

const MINUS_128: u8 = 0x80;

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::side::SIDE;

    /// The layout as its definition reads: sort, then divide and round each value.
    fn naive(row: &[f32]) -> Vec<u8> {
        let mut columns: Vec<usize> = (0..row.len()).collect();
        columns.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
        let rest = columns.get(SIDE).map_or(0.0, |&column| row[column].abs());
        let scale = if rest / 127.0 >= f32::MIN_POSITIVE { rest / 127.0 } else { 0.0 };
        let mut side = columns[..SIDE.min(row.len())].to_vec();
        side.sort_unstable();
        let slots = |slot: usize| side[slot.min(side.len() - 1)];
        let mut out = scale.to_le_bytes().to_vec();
        out.extend((0..SIDE).flat_map(|slot| (slots(slot) as u16).to_le_bytes()));
        out.extend((0..SIDE).flat_map(|slot| f16::from_f32(row[slots(slot)]).to_le_bytes()));
        out.extend(row.iter().enumerate().map(|(column, x)| {
            let kept = scale > 0.0 && !side.contains(&column);
            if kept { ((x * (1.0 / scale)).round_ties_even() as i8).cast_unsigned() } else { 0 }
        }));
        out
    }

    fn encoded(row: &[f32]) -> Vec<u8> {
        let mut out = vec![0xee; Q8_OVERHEAD + row.len()];
        encode_q8_row(row, &mut out).unwrap();
        out
    }

    fn decoded(bytes: &[u8], cols: usize) -> Result<Vec<f32>, CodecError> {
        let mut out = vec![f32::NAN; cols];
        decode_q8_row(bytes, &mut out).map(|()| out)
    }

    fn row() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            8 => -4.0..4.0f32,
            1 => -F16_MAX..=F16_MAX,
            1 => (-3..=3i8).prop_map(f32::from),
            1 => any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x807f_ffff)),
            1 => Just(-0.0f32),
        ];
        prop_oneof![
            prop::collection::vec(value.clone(), 1..40),
            prop::collection::vec(value.clone(), 1..2000),
            prop::collection::vec(any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x83ff_ffff)), 1..40),
            (value, 1..300usize).prop_map(|(value, cols)| vec![value; cols]),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_definition(row in row()) {
            prop_assert_eq!(encoded(&row), naive(&row));
        }

        #[test]
        fn the_error_is_half_a_step_or_binary16s(row in row()) {
            let back = decoded(&encoded(&row), row.len()).unwrap();
            let mut magnitudes: Vec<f64> = row.iter().map(|x| f64::from(x.abs())).collect();
            magnitudes.sort_by(|a, b| b.total_cmp(a));
            let ninth = magnitudes.get(SIDE).copied().unwrap_or_default();
            for (x, y) in row.iter().zip(back) {
                let error = (f64::from(*x) - f64::from(y)).abs();
                let body = (ninth / 254.0 * 1.000_04).max(127.0 * f64::from(f32::MIN_POSITIVE));
                let side = (f64::from(x.abs()) / 2048.0).max(2f64.powi(-25));
                prop_assert!(error <= body.max(if f64::from(x.abs()) >= ninth { side } else { 0.0 }), "{x} became {y}");
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), cols in 0..50usize) {
            let fits = bytes.len() == Q8_OVERHEAD + cols;
            prop_assert!(fits || decoded(&bytes, cols).is_err());
            let _any = decoded(&bytes, bytes.len().saturating_sub(Q8_OVERHEAD));
        }
    }

    /// Three roundings meet near the ends of the range: the bound must hold for them.
    #[test]
    fn the_worst_rounding_stays_within_the_bound() {
        let mut row = [2.0; 10];
        (row[8], row[9]) = (f32::from_bits(0x3ff5_c1be), f32::from_bits(0x3ff2_daa9));
        let back = decoded(&encoded(&row), 10).unwrap();
        let half = f64::from(row[8]) / 254.0;
        let error = (f64::from(row[9]) - f64::from(back[9])).abs();
        assert!(error > half * 1.00001 && error <= half * 1.000_04, "{}", error / half);
    }

    #[test]
    fn golden_row() {
        let row = [0.5, -20.0, 1.0, 9.0, -9.5, 10.0, 11.0, 12.0, 13.0, 1000.0, -0.25, 0.0];
        let mut golden = (1.0f32 / 127.0).to_le_bytes().to_vec();
        golden.extend([1, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0]);
        golden.extend([0x00, 0xcd, 0x80, 0x48, 0xc0, 0xc8, 0x00, 0x49, 0x80, 0x49, 0x00, 0x4a, 0x80, 0x4a, 0xd0, 0x63]);
        golden.extend([64, 0, 127, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0]);
        assert_eq!(encoded(&row), golden);
    }

    #[test]
    fn of_equal_magnitudes_those_of_lower_columns_stand_beside() {
        let row = [3.0, -3.0, -400.0, -3.5, 600.0, -3.1, 3.4, 3.9, -3.3, 3.0];
        let index: Vec<u8> = encoded(&row)[4..20].iter().copied().step_by(2).collect();
        assert_eq!(index, [0, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_row_of_768_takes_804_bytes() {
        assert_eq!(encoded(&[1.0; 768]).len(), 804);
    }

    #[test]
    fn massive_activations_do_not_hurt_the_rest() {
        let mut row: Vec<f32> = (0..768).map(|i| (i as f32 * 0.7).sin()).collect();
        row[17] = 3000.0;
        row[600] = -2500.0;
        let back = decoded(&encoded(&row), 768).unwrap();
        let worst =
            row.iter().zip(&back).filter(|(x, _)| x.abs() < 2.0).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst < 0.5 / 127.0 + 1e-4, "{worst}");
        assert_eq!((back[17], back[600]), (3000.0, -2500.0));
    }

    #[test]
    fn every_rule_of_the_layout_is_checked() {
        let row: Vec<f32> = (0..16u8).map(f32::from).collect();
        let with = |at: usize, bytes: &[u8]| {
            let mut spoilt = encoded(&row);
            spoilt[at..at + bytes.len()].copy_from_slice(bytes);
            decoded(&spoilt, 16)
        };
        assert!(with(0, &[]).is_ok());
        for scale in [-1.0, -0.0, 516.0, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(with(0, &scale.to_le_bytes()), Err(CodecError::Scale(scale)));
        }
        assert!(with(0, &f32::NAN.to_le_bytes()).is_err());
        assert_eq!(with(18, &16u16.to_le_bytes()), Err(CodecError::SideIndex { slot: 7, index: 16 }));
        assert_eq!(with(6, &8u16.to_le_bytes()), Err(CodecError::SideIndex { slot: 1, index: 8 }));
        assert_eq!(with(20, &0x7c00u16.to_le_bytes()), Err(CodecError::NotFinite));
        assert_eq!(with(36, &[0x80]), Err(CodecError::Minus128));
    }

    #[test]
    fn unused_slots_repeat_the_last_column_and_nothing_else() {
        let bytes = encoded(&[1.0, -2.0, 3.0]);
        assert_eq!(decoded(&bytes, 3).unwrap(), [1.0, -2.0, 3.0]);
        let (mut index, mut value) = (bytes.clone(), bytes);
        index[4 + 2 * 5] = 1;
        value[20 + 2 * 5] ^= 1;
        assert_eq!(decoded(&index, 3), Err(CodecError::SideIndex { slot: 5, index: 1 }));
        assert_eq!(decoded(&value, 3), Err(CodecError::SideValue { slot: 5 }));
    }

    #[test]
    fn buffers_of_another_size_are_refused() {
        assert!(matches!(encode_q8_row(&[], &mut [0; 36]), Err(CodecError::Shape { .. })));
        assert!(matches!(encode_q8_row(&[0.0; 65536], &mut [0; 36]), Err(CodecError::Shape { .. })));
        assert!(matches!(encode_q8_row(&[0.0; 4], &mut [0; 41]), Err(CodecError::Buffer { need: 40, have: 41 })));
        assert!(matches!(decoded(&[0; 41], 4), Err(CodecError::Length { need: 40, have: 41 })));
    }
}
