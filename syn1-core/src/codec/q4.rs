//! Q4: an int4 per value and one scale per 32 columns, with the row's 8 largest magnitudes beside it.
//!
//! ```text
//! 0 index 8 x u16 | 16 value 8 x f16 | 32 scale ceil(cols / 32) x f16 | body ceil(cols / 2) bytes
//! ```
//! - The side list is that of Q8; its columns are 0 in the body.
//! - A group is 32 columns that follow each other; the last one may be shorter. Its `scale` is the smallest binary16 that
//!   is not below the largest remaining magnitude / 7.
//! - The body is `x * (1 / scale)` in f32, rounded to the nearest integer, ties to even: always within -7..=7. Two columns
//!   share a byte, the lower one in the low half; an unused half is 0.

use super::side::{SIDE, SIDE_LEN, columns, largest, read_side, write_side};
use super::wide::wide;
use super::{CodecError, F16_MAX, copy, f16_from_f32, f16_to_f32};

/// Columns that share a scale.
pub const Q4_GROUP: usize = 32;

/// Bytes of a row of `cols` columns.
///
/// ```
/// assert_eq!(syn1_core::codec::q4_row_len(768), 32 + 2 * 768 / 32 + 768 / 2);
/// ```
#[must_use]
pub const fn q4_row_len(cols: u16) -> usize {
    let cols = cols as usize;
    SIDE_LEN + 2 * cols.div_ceil(Q4_GROUP) + cols.div_ceil(2)
}

/// Writes one row. `row` must be finite and within [`F16_MAX`], which
/// [`encode`](super::encode) checks for whole frames; `out` takes [`q4_row_len`] bytes.
///
/// ```
/// use syn1_core::codec::{encode_q4_row, q4_row_len};
///
/// let row: [f32; 64] = core::array::from_fn(|i| (i as f32).sin());
/// let mut bytes = [0; q4_row_len(64)];
/// encode_q4_row(&row, &mut bytes)?;
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// An empty row, one longer than `u16::MAX`, or an `out` of another length.
pub fn encode_q4_row(row: &[f32], out: &mut [u8]) -> Result<(), CodecError> {
    let cols = columns(row.len())?;
    let (need, have) = (q4_row_len(cols), out.len());
    let wrong = CodecError::Buffer { need, have };
    // SPEC 3.20
    let out = Some(out).filter(|out| out.len() == need).ok_or(wrong)?;
    let (side_list, out) = out.split_first_chunk_mut().ok_or(wrong)?;
    let (scales, body) = out.split_at_mut_checked(2 * row.len().div_ceil(Q4_GROUP)).ok_or(wrong)?;

    let (side, _) = largest(row);
    // SPEC 3.21
    write_side(&side, row, side_list);
    wide!(encode_groups(row, &side, scales.as_chunks_mut().0, body));
    Ok(())
}

/// Reads one row of `out.len()` columns.
///
/// ```
/// use syn1_core::codec::{decode_q4_row, encode_q4_row, q4_row_len};
///
/// let row: [f32; 64] = core::array::from_fn(|i| (i as f32).sin());
/// let (mut bytes, mut back) = ([0; q4_row_len(64)], [0.0; 64]);
/// encode_q4_row(&row, &mut bytes)?;
/// decode_q4_row(&bytes, &mut back)?;
/// assert!(row.iter().zip(back).all(|(x, y)| (x - y).abs() < 1.0 / 13.9));
/// # Ok::<(), syn1_core::CodecError>(())
/// ```
///
/// # Errors
/// A length that does not fit, a scale that no encoder writes, -8 or a used padding in the body, side columns out of range
/// or order, or a side value that is not finite.
pub fn decode_q4_row(row: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
    let cols = u16::try_from(out.len()).map_err(|_| CodecError::Shape { values: out.len(), cols: u16::MAX })?;
    let (need, have) = (q4_row_len(cols), row.len());
    let wrong = CodecError::Length { need, have };
    let row = Some(row).filter(|row| row.len() == need).ok_or(wrong)?;
    let (side, row) = row.split_first_chunk().ok_or(wrong)?;
    let (scales, body) = row.split_at_checked(2 * out.len().div_ceil(Q4_GROUP)).ok_or(wrong)?;

    // SPEC 3.24
    if let Some(bits) = scales.as_chunks().0.iter().map(|bits| u16::from_le_bytes(*bits)).find(|bits| *bits > MAX_SCALE)
    {
        return Err(CodecError::Scale(f16_to_f32(bits)));
    }
    // A half byte of 8 is one whose top bit alone is set.
    let minus_8 = |byte: u8| (byte & 0x0f == 0x08) | (byte & 0xf0 == 0x80);
    if body.iter().fold(false, |seen, &byte| seen | minus_8(byte)) {
        return Err(CodecError::Minus8);
    }
    if cols & 1 == 1 && body.last().is_some_and(|byte| byte & 0xf0 != 0) {
        return Err(CodecError::Padding);
    }
    wide!(decode_groups(scales.as_chunks().0, body, out));
    read_side(side, out)
}

/// Writes the scales and the integers of a row whose columns in `side` stand beside.
#[inline(always)]
fn encode_groups(row: &[f32], side: &[u16; SIDE], scales: &mut [[u8; 2]], body: &mut [u8]) {
    let mut start = 0;
    for scale in scales {
        let mut group = [0f32; Q4_GROUP];
        copy(row.get(start..).unwrap_or_default(), &mut group);
        for column in side {
            if let Some(beside) = group.get_mut(usize::from(*column).wrapping_sub(start)) {
                *beside = 0.0;
            }
        }
        *scale = encode_group(&group, body.get_mut(start / 2..).unwrap_or_default()).to_le_bytes();
        start += Q4_GROUP;
    }
}

/// Reads the integers of a row.
#[inline(always)]
fn decode_groups(scales: &[[u8; 2]], body: &[u8], out: &mut [f32]) {
    let mut start = 0;
    let mut groups = out.chunks_mut(Q4_GROUP);
    for scale in scales {
        let out = groups.next().unwrap_or_default();
        let body = body.get(start / 2..).unwrap_or_default();
        start += Q4_GROUP;
        let scale = f16_to_f32(u16::from_le_bytes(*scale));
        let value = |half: u8| f32::from(half.cast_signed() >> 4) * scale;
        let (pairs, odd) = out.as_chunks_mut();
        for ([low, high], &byte) in pairs.iter_mut().zip(body) {
            (*low, *high) = (value(byte << 4), value(byte & 0xf0));
        }
        if let ([x], Some(&byte)) = (odd, body.last()) {
            *x = value(byte << 4);
        }
    }
}

/// Writes a group's integers and gives the bits of its scale.
#[inline(always)]
fn encode_group(group: &[f32; Q4_GROUP], body: &mut [u8]) -> u16 {
    // SPEC 3.22
    // The order of magnitudes is that of their bits, whose maximum vectorises.
    let step = f32::from_bits(group.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff))) / 7.0;
    let nearest = f16_from_f32(step);
    let bits = nearest + u16::from(f16_to_f32(nearest) < step);
    let inverse = if bits > 0 { 1.0 / f16_to_f32(bits) } else { 0.0 };
    // SPEC 3.23
    // Adding 1.5 * 2^23 leaves the rounded integer in the low bits, in two's complement.
    let mut halves = [0; Q4_GROUP];
    for (half, x) in halves.iter_mut().zip(group) {
        *half = (x * inverse + ROUND).to_bits() as u8 & 0x0f;
    }
    for (byte, [low, high]) in body.iter_mut().zip(halves.as_chunks().0) {
        *byte = low | high << 4;
    }
    bits
}

/// Bits of the scale of the largest magnitude: [`F16_MAX`] / 7, rounded up.
const MAX_SCALE: u16 = f16_from_f32(F16_MAX / 7.0);

const _: () = assert!(f16_to_f32(MAX_SCALE) >= F16_MAX / 7.0 && f16_to_f32(MAX_SCALE - 1) < F16_MAX / 7.0);

/// 1.5 * 2^23: floats of this size are integers, and the half above 2^23 leaves room for negative ones.
const ROUND: f32 = 12_582_912.0;

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    /// The smallest binary16 that is not below `x`, by search.
    fn rounded_up(x: f32) -> f16 {
        (0..0x7c00).map(f16::from_bits).find(|y| y.to_f32() >= x).unwrap()
    }

    /// The layout as its definition reads: sort, then divide and round each value.
    fn naive(row: &[f32]) -> Vec<u8> {
        let mut columns: Vec<usize> = (0..row.len()).collect();
        columns.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
        let mut side = columns[..SIDE.min(row.len())].to_vec();
        side.sort_unstable();
        let slots = |slot: usize| side[slot.min(side.len() - 1)];
        let rest = |column: usize| if side.contains(&column) { 0.0 } else { row[column] };
        let scales: Vec<f16> = (0..row.len())
            .step_by(Q4_GROUP)
            .map(|start| (start..row.len().min(start + Q4_GROUP)).map(|c| rest(c).abs()).fold(0.0, f32::max))
            .map(|largest| rounded_up(largest / 7.0))
            .collect();
        let q = |column: usize| {
            let scale = scales[column / Q4_GROUP].to_f32();
            let kept = column < row.len() && scale > 0.0;
            if kept { (rest(column) * (1.0 / scale)).round_ties_even() as i8 } else { 0 }
        };
        let nibble = |column: usize| if column < row.len() { q(column).cast_unsigned() & 0x0f } else { 0 };
        let mut out: Vec<u8> = (0..SIDE).flat_map(|slot| (slots(slot) as u16).to_le_bytes()).collect();
        out.extend((0..SIDE).flat_map(|slot| f16::from_f32(row[slots(slot)]).to_le_bytes()));
        out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
        out.extend((0..row.len()).step_by(2).map(|column| nibble(column) | nibble(column + 1) << 4));
        out
    }

    fn encoded(row: &[f32]) -> Vec<u8> {
        let mut out = vec![0xee; q4_row_len(row.len() as u16)];
        encode_q4_row(row, &mut out).unwrap();
        out
    }

    fn decoded(bytes: &[u8], cols: usize) -> Result<Vec<f32>, CodecError> {
        let mut out = vec![f32::NAN; cols];
        decode_q4_row(bytes, &mut out).map(|()| out)
    }

    fn row() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            8 => -4.0..4.0f32,
            1 => -F16_MAX..=F16_MAX,
            1 => (-3..=3i8).prop_map(f32::from),
            1 => any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x807f_ffff)),
            1 => -1e-6..1e-6f32,
            1 => Just(-0.0f32),
        ];
        prop_oneof![
            prop::collection::vec(value.clone(), 1..80),
            prop::collection::vec(-1e-6..1e-6f32, 1..80),
            (value, 1..100usize).prop_map(|(value, cols)| vec![value; cols]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn bytes_are_those_of_the_definition(row in row()) {
            prop_assert_eq!(encoded(&row), naive(&row));
        }

        #[test]
        fn the_error_is_half_a_step_of_the_group_or_binary16s(row in row()) {
            let bytes = encoded(&row);
            let back = decoded(&bytes, row.len()).unwrap();
            let side: Vec<u16> = bytes[..16].as_chunks().0.iter().map(|index| u16::from_le_bytes(*index)).collect();
            for (start, group) in row.chunks(Q4_GROUP).enumerate().map(|(i, group)| (i * Q4_GROUP, group)) {
                let beside = |at: usize| side.contains(&((start + at) as u16));
                let rest = group.iter().enumerate().filter(|(at, _)| !beside(*at)).map(|(_, x)| f64::from(x.abs()));
                let largest = rest.fold(0.0, f64::max);
                for (at, x) in group.iter().enumerate() {
                    let error = (f64::from(*x) - f64::from(back[start + at])).abs();
                    let body = largest / 14.0 * 1.001 + 2f64.powi(-25);
                    let exact = (f64::from(x.abs()) / 2048.0).max(2f64.powi(-25));
                    prop_assert!(error <= if beside(at) { exact } else { body }, "{x} became {}", back[start + at]);
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 32..120), cols in 0..170usize) {
            let fits = bytes.len() == q4_row_len(cols as u16);
            let result = decoded(&bytes, cols);
            prop_assert!(fits || result.is_err());
            prop_assert!(result.is_err() || result.unwrap().iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn golden_row() {
        // Eight stand beside; of the rest 7 is the largest, so that the scale is 1, and 2.5 goes to the even 2.
        let row = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0, -107.0, 7.0, -1.0, 2.5, -6.6, 0.0];
        let mut golden: Vec<u8> = (0..8u16).flat_map(u16::to_le_bytes).collect();
        golden.extend([0x40, 0x56, 0x50, 0x56, 0x60, 0x56, 0x70, 0x56, 0x80, 0x56, 0x90, 0x56, 0xa0, 0x56, 0xb0, 0xd6]);
        golden.extend([0x00, 0x3c, 0, 0, 0, 0, 0xf7, 0x92, 0]);
        assert_eq!(encoded(&row), golden);
        let back = decoded(&golden, 13).unwrap();
        assert_eq!(back[7..], [-107.0, 7.0, -1.0, 2.0, -7.0, 0.0]);
    }

    #[test]
    fn a_row_of_768_takes_464_bytes() {
        assert_eq!(encoded(&[1.0; 768]).len(), 464);
        assert_eq!([0, 1, 2, 32, 33, u16::MAX].map(q4_row_len), [32, 35, 35, 50, 53, 32 + 2 * 2048 + 32_768]);
    }

    #[test]
    fn every_rule_of_the_layout_is_checked() {
        let row: Vec<f32> = (0..35u8).map(f32::from).collect();
        let with = |at: usize, bytes: &[u8]| {
            let mut spoilt = encoded(&row);
            spoilt[at..at + bytes.len()].copy_from_slice(bytes);
            decoded(&spoilt, 35)
        };
        assert!(with(0, &[]).is_ok());
        assert!(with(34, &MAX_SCALE.to_le_bytes()).is_ok());
        for scale in [MAX_SCALE + 1, 0x7c00, 0x7e00, 0x8000, 0xbc00] {
            assert!(matches!(with(34, &scale.to_le_bytes()), Err(CodecError::Scale(_))), "{scale:#x}");
        }
        for byte in [0x08, 0x80, 0x88, 0x18, 0x81] {
            assert_eq!(with(40, &[byte]), Err(CodecError::Minus8));
        }
        assert_eq!(with(53, &[0x10]), Err(CodecError::Padding));
        assert_eq!(with(14, &35u16.to_le_bytes()), Err(CodecError::SideIndex { slot: 7, index: 35 }));
        assert_eq!(with(16, &0x7c00u16.to_le_bytes()), Err(CodecError::NotFinite));
    }

    #[test]
    fn buffers_of_another_size_are_refused() {
        assert!(matches!(encode_q4_row(&[], &mut [0; 32]), Err(CodecError::Shape { .. })));
        assert!(matches!(encode_q4_row(&[0.0; 65536], &mut [0; 36]), Err(CodecError::Shape { .. })));
        assert!(matches!(encode_q4_row(&[0.0; 4], &mut [0; 37]), Err(CodecError::Buffer { need: 36, have: 37 })));
        assert!(matches!(decoded(&[0; 37], 4), Err(CodecError::Length { need: 36, have: 37 })));
    }
}
