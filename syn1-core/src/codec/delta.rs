//! Delta: rows as what they add to the row before them.
//!
//! ```text
//! 0 check u32 | 4 weight rows x u8 | rows in Q8 or Q4
//! ```
//! The value of a column is `weight / 128` of the previous row's, plus the row's. The previous row is what the receiver
//! has reconstructed, never what the sender had: both ends go on from the same bits, so errors do not add up. In front of
//! a frame's first row stands the last one of the frame before, the *reference*; `check` is its hash. A row of weight 0 is a
//! *key row*, which needs nothing.

use super::{
    Codec, CodecError, F16_MAX, Q8_OVERHEAD, copy, decode_q4_row, decode_q8_row, encode_q4_row, encode_q8_row,
    q4_row_len,
};

/// Bytes in front of the rows.
pub(crate) const fn prefix_len(rows: u16) -> u32 {
    4 + rows as u32
}

/// Writes check, weights and rows. `buffers` holds the reference, which counts if `held` and is replaced by what the
/// receiver will hold, and behind it a row of working space.
///
/// # Errors
/// A buffer that is too small.
pub(crate) fn encode(
    codec: Codec,
    held: bool,
    buffers: &mut [f32],
    (values, cols): (&[f32], u16),
    prefix: &mut [u8],
    body: &mut [u8],
) -> Result<(), CodecError> {
    let width = usize::from(cols.max(1));
    let (need, have) = (2 * width, buffers.len());
    let short = CodecError::Buffer { need, have };
    let (reference, behind) = buffers.split_at_mut_checked(width).ok_or(short)?;
    let residual = behind.get_mut(..width).ok_or(short)?;
    let (hash, weights) = prefix.split_first_chunk_mut().ok_or(short)?;
    *hash = [0; 4];

    let (len, encode_row, decode_row): (_, EncodeRow, DecodeRow) = if codec == Codec::Q4 {
        (q4_row_len(cols), encode_q4_row, decode_q4_row)
    } else {
        (Q8_OVERHEAD + width, encode_q8_row, decode_q8_row)
    };
    // Whether the reference stands for the row before this one.
    let (mut usable, mut values, mut body) = (held, values, body);
    for (at, byte) in weights.iter_mut().enumerate() {
        let (row, values_behind) = values.split_at_checked(width).ok_or(short)?;
        let (bytes, body_behind) = core::mem::take(&mut body).split_at_mut_checked(len).ok_or(short)?;
        (values, body) = (values_behind, body_behind);
        let mut chosen = if usable { weight(reference, row) } else { 0 };
        subtract(reference, chosen, row, residual);
        // SPEC 3.27
        if residual.iter().fold(false, |seen, x| seen | (x.abs() > F16_MAX)) {
            chosen = 0;
            subtract(reference, chosen, row, residual);
        }
        if at == 0 && chosen > 0 {
            *hash = check(reference).to_le_bytes();
        }
        *byte = chosen;
        encode_row(residual, bytes)?;
        decode_row(bytes, residual)?;
        add(reference, chosen, residual);
        copy(residual, reference);
        usable = true;
    }
    Ok(())
}

/// The weights and the rows of a payload, whose first row's previous one is `reference`, if that is at hand.
///
/// # Errors
/// A payload that is too short, a weight above 1, or a first row that needs another reference.
pub(crate) fn open<'a>(
    payload: &'a [u8],
    rows: u16,
    reference: Option<&[f32]>,
) -> Result<(&'a [u8], &'a [u8]), CodecError> {
    let short = CodecError::Length { need: prefix_len(rows) as usize, have: payload.len() };
    let (hash, rest) = payload.split_first_chunk().ok_or(short)?;
    let (weights, body) = rest.split_at_checked(rows.into()).ok_or(short)?;
    // SPEC 3.26
    if let Some(weight) = weights.iter().find(|weight| **weight > ONE) {
        return Err(CodecError::Weight(*weight));
    }
    // SPEC 3.28
    let expected = match weights {
        [0, ..] => Some(0),
        _ => reference.map(check),
    };
    if expected == Some(u32::from_le_bytes(*hash)) { Ok((weights, body)) } else { Err(CodecError::Reference) }
}

/// Makes rows of the residuals in `out`, and the last of them the reference.
pub(crate) fn restore(weights: &[u8], reference: &mut [f32], out: &mut [f32]) {
    let width = reference.len();
    let (mut last, mut rest) = (None::<&[f32]>, out);
    for weight in weights {
        let Some((row, behind)) = core::mem::take(&mut rest).split_at_mut_checked(width) else { break };
        add(last.unwrap_or(reference), *weight, row);
        (last, rest) = (Some(&*row), behind);
    }
    if let Some(last) = last {
        copy(last, reference);
    }
}

/// The hash of a row's bits. Every step is a bijection of what it replaces, so a change within one lane always shows, and
/// any other but once in 2^32.
pub(crate) fn check(row: &[f32]) -> u32 {
    // SPEC 3.28
    let mut hashes = [SEED; LANES];
    let (stripes, tail) = row.as_chunks();
    let mut last = [0.0; LANES];
    copy(tail, &mut last);
    for stripe in stripes.iter().chain((!tail.is_empty()).then_some(&last)) {
        for (hash, x) in hashes.iter_mut().zip(stripe) {
            *hash = step(*hash, x.to_bits());
        }
    }
    hashes.into_iter().fold(SEED, step)
}

const fn step(hash: u32, word: u32) -> u32 {
    let mixed = (hash ^ word).wrapping_mul(FACTOR);
    mixed ^ mixed >> 15
}

/// The weight, in 128ths, with which `previous` foretells `row` best, by least squares.
///
/// Massive values would decide alone and stand beside the integers anyway, so columns far above the mean do not count.
pub(crate) fn weight(previous: &[f32], row: &[f32]) -> u8 {
    let all = product(previous, previous, f32::INFINITY);
    let bound = MASSIVE * all / previous.len().max(1) as f32;
    let share = product(previous, row, bound) / product(previous, previous, bound);
    // A float cast saturates, and makes 0 of the NaN of 0 / 0.
    ((share * f32::from(ONE) + 0.5) as u8).min(ONE)
}

/// The sum of a * b over columns with a square of a within `bound`, in lanes: a compiler may not reorder additions.
#[inline(never)]
fn product(a: &[f32], b: &[f32], bound: f32) -> f32 {
    let mut sums = [0.0; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    // A mask, because the compiler makes a branch of `if` here.
    let term = |a: f32, b: f32| f32::from_bits((a * b).to_bits() & u32::from(a * a <= bound).wrapping_neg());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(*a, *b);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_tail).zip(b_tail) {
        *sum += term(*a, *b);
    }
    sums.into_iter().sum()
}

/// What `row` adds to `weight` of `previous`.
#[inline(never)]
pub(crate) fn subtract(previous: &[f32], weight: u8, row: &[f32], residual: &mut [f32]) {
    let factor = f32::from(weight) / f32::from(ONE);
    for ((residual, x), p) in residual.iter_mut().zip(row).zip(previous) {
        *residual = if weight > 0 { x - factor * p } else { *x };
    }
}

/// Adds `weight` of `previous` to the residuals in `row`.
///
/// Magnitudes stay below 2^42 whatever comes: a residual is at most 65504, and far above that a sum rounds it away.
#[inline(never)]
pub(crate) fn add(previous: &[f32], weight: u8, row: &mut [f32]) {
    // SPEC 3.27
    let factor = f32::from(weight) / f32::from(ONE);
    for (x, p) in row.iter_mut().zip(previous) {
        *x = if weight > 0 { factor * p + *x } else { *x };
    }
}

type EncodeRow = fn(&[f32], &mut [u8]) -> Result<(), CodecError>;
type DecodeRow = fn(&[u8], &mut [f32]) -> Result<(), CodecError>;

/// The largest weight, which stands for 1.
pub(crate) const ONE: u8 = 128;

/// How many times the mean square a column's may be to count for [`weight`].
const MASSIVE: f32 = 16.0;

/// Lanes of [`check`] and [`product`]: those of the widest vectors that compilers use.
const LANES: usize = 16;

/// 2^32 over the golden ratio, made odd: multiplying by it spreads low bits upwards.
const FACTOR: u32 = 0x9e37_79b1;

const SEED: u32 = 0x5359_4e31;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_that_of_its_definition() {
        let row: Vec<f32> = (0..37u8).map(|at| f32::from(at) - 7.5).collect();
        let mut lanes = [0x5359_4e31u32; 16];
        for (at, x) in row.iter().chain(&[0.0; 11]).enumerate() {
            let mixed = (lanes[at % 16] ^ x.to_bits()).wrapping_mul(0x9e37_79b1);
            lanes[at % 16] = mixed ^ mixed >> 15;
        }
        let mut hash = 0x5359_4e31u32;
        for lane in lanes {
            let mixed = (hash ^ lane).wrapping_mul(0x9e37_79b1);
            hash = mixed ^ mixed >> 15;
        }
        assert_eq!(check(&row), hash);
    }

    proptest! {
        #[test]
        fn a_changed_bit_changes_the_hash(mut row in prop::collection::vec(-9.0..9.0f32, 1..70), at: prop::sample::Index, bit in 0..32u32) {
            let before = check(&row);
            let at = at.index(row.len());
            row[at] = f32::from_bits(row[at].to_bits() ^ 1 << bit);
            prop_assert_ne!(check(&row), before);
        }

        #[test]
        fn the_weight_is_that_of_least_squares(previous in prop::collection::vec(-3.0..3.0f32, 40..80), share in -0.5..1.5f32) {
            let row: Vec<f32> = previous.iter().map(|p| share * p).collect();
            let expected = (share * 128.0).clamp(0.0, 128.0);
            prop_assert!((f32::from(weight(&previous, &row)) - expected).abs() <= 0.51);
        }

        #[test]
        fn adding_undoes_subtracting_but_for_rounding(
            (previous, row) in (1..40usize).prop_flat_map(|cols| {
                let row = || prop::collection::vec(-100.0..100.0f32, cols);
                (row(), row())
            }),
            weight in 0..=128u8,
        ) {
            let mut back = vec![0.0; row.len()];
            subtract(&previous, weight, &row, &mut back);
            add(&previous, weight, &mut back);
            prop_assert!(row.iter().zip(&back).all(|(x, y)| (x - y).abs() <= 400.0 * f32::EPSILON));
            prop_assert!(weight > 0 || row == back);
        }
    }

    #[test]
    fn massive_values_do_not_decide_the_weight() {
        let mut previous: Vec<f32> = (0..64u8).map(|at| f32::from(at % 7) - 3.0).collect();
        let mut row: Vec<f32> = previous.iter().map(|p| p / 2.0).collect();
        (previous[5], row[5]) = (3000.0, -3000.0);
        assert_eq!(weight(&previous, &row), 64);
        assert_eq!(weight(&[0.0; 4], &[1.0; 4]), 0);
    }
}
