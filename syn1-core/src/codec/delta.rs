//! Delta: rows as what they add to the row before them.
//!
//! ```text
//! 0 check u32 | 4 weight rows x u8 | rows in Q8 or Q4
//! ```
//! The value of a column is `weight / 128` of the previous row's, plus the row's. The previous row is what the receiver
//! has reconstructed, never what the sender had: both ends go on from the same bits, so errors do not add up. In front of
//! a frame's first row stands the last one of the frame before, the *reference*; `check` is its hash. A row of weight 0 is a
//! *key row*, which needs nothing.

use super::wide::stripes;
use super::{Codec, CodecError, copy};
use crate::HAS_ROOM;

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

    // Whether the reference stands for the row before this one.
    let (mut usable, mut values, mut body) = (held, values, body);
    for (at, byte) in weights.iter_mut().enumerate() {
        let (row, values_behind) = values.split_at_checked(width).ok_or(short)?;
        copy(row, residual);
        let mut chosen = if usable { weight(reference, row) } else { 0 };
        add(reference, -factor(chosen), residual);
        let mut written = super::encode(codec, residual, cols, body);
        // SPEC 3.27: a residual may pass what the codec holds.
        if written.is_err() {
            chosen = 0;
            copy(row, residual);
            written = super::encode(codec, residual, cols, body);
        }
        let (bytes, body_behind) = core::mem::take(&mut body).split_at_mut_checked(written?).ok_or(short)?;
        if at == 0 && chosen > 0 {
            *hash = check(reference).to_le_bytes();
        }
        *byte = chosen;
        super::decode(codec, bytes, 1, cols, residual)?;
        add(reference, factor(chosen), residual);
        copy(residual, reference);
        (usable, values, body) = (true, values_behind, body_behind);
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
        add(last.unwrap_or(reference), factor(*weight), row);
        (last, rest) = (Some(&*row), behind);
    }
    if let Some(last) = last {
        copy(last, reference);
    }
}

/// The hash of a row's bits. Every step is a bijection of what it replaces, so a row that differs in one column always
/// shows, and another one but once in 2^32.
pub(crate) fn check(row: &[f32]) -> u32 {
    // SPEC 3.28
    let mut hashes = [SEED; LANES];
    let (stripes, tail) = stripes::<LANES>(row);
    for stripe in stripes {
        for (hash, x) in hashes.iter_mut().zip(stripe) {
            *hash = step(*hash, x.to_bits());
        }
    }
    for stripe in tail.chunks(LANES) {
        let padded = stripe.iter().chain(core::iter::repeat(&0.0));
        for (hash, x) in hashes.iter_mut().zip(padded) {
            *hash = step(*hash, x.to_bits());
        }
    }
    hashes.into_iter().fold(SEED, step)
}

// Smaller as a call, and firmware has no vectors that it would keep from.
#[cfg_attr(target_os = "none", inline(never))]
const fn step(hash: u32, word: u32) -> u32 {
    // Two products: with one, two flipped bits in neighbouring stripes can cancel each other.
    let mixed = (hash ^ word).wrapping_mul(FACTOR);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(SECOND);
    mixed ^ mixed >> 13
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
    // A mask, because the compiler makes a branch of `if` here.
    let term = |a: f32, b: f32| f32::from_bits((a * b).to_bits() & u32::from(a * a <= bound).wrapping_neg());
    if !HAS_ROOM {
        // One sum is less code, and another weight than that of the lanes is as good a choice.
        return a.iter().zip(b).map(|(a, b)| term(*a, *b)).sum();
    }
    let mut sums = [0.0; LANES];
    let ((a, a_tail), (b, b_tail)) = (stripes::<LANES>(a), stripes::<LANES>(b));
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(*a, *b);
        }
    }
    // No zip of chunks here: it divides by their length, and not every compiler sees that it is not zero.
    let mut b_tail = b_tail.chunks(LANES);
    for a in a_tail.chunks(LANES) {
        let b = b_tail.next().unwrap_or_default();
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(*a, *b);
        }
    }
    sums.into_iter().sum()
}

/// Adds a share of `previous` to the residuals in `row`, or takes it away.
///
/// Magnitudes stay below 2^42 whatever comes: a residual is at most 65504, and far above that a sum rounds it away.
#[inline(never)]
pub(crate) fn add(previous: &[f32], factor: f32, row: &mut [f32]) {
    // SPEC 3.27
    if factor != 0.0 {
        for (x, p) in row.iter_mut().zip(previous) {
            *x += factor * p;
        }
    }
}

/// What a weight multiplies by.
fn factor(weight: u8) -> f32 {
    f32::from(weight) / f32::from(ONE)
}

/// The largest weight, which stands for 1.
pub(crate) const ONE: u8 = 128;

/// How many times the mean square a column's may be to count for [`weight`].
const MASSIVE: f32 = 16.0;

/// Lanes of [`check`] and [`product`]: those of the widest vectors that compilers use.
const LANES: usize = 16;

/// 2^32 over the golden ratio, made odd: multiplying by it spreads low bits upwards.
const FACTOR: u32 = 0x9e37_79b1;

/// Another odd number whose bits have no pattern (one of xxHash's primes).
const SECOND: u32 = 0x85eb_ca77;

const SEED: u32 = 0x5359_4e31;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_that_of_its_definition() {
        let row: Vec<f32> = (0..37u8).map(|at| f32::from(at) - 7.5).collect();
        let step = |hash: u32, word: u32| {
            let m = (hash ^ word).wrapping_mul(2_654_435_761);
            let n = (m ^ m >> 15).wrapping_mul(2_246_822_519);
            n ^ n >> 13
        };
        let mut lanes = [1_398_361_649; 16];
        for (at, x) in row.iter().chain(&[0.0; 11]).enumerate() {
            lanes[at % 16] = step(lanes[at % 16], x.to_bits());
        }
        assert_eq!(check(&row), lanes.into_iter().fold(1_398_361_649, step));
    }

    #[test]
    fn two_bits_of_neighbouring_stripes_do_not_cancel() {
        let row: Vec<u32> = (0..48u8).map(|at| f32::from(at).to_bits()).collect();
        let hash = |row: &[u32]| check(&row.iter().copied().map(f32::from_bits).collect::<Vec<_>>());
        for first in 0..32 {
            for masks in [[1 << first, 0x8001_0000], [1 << first, 1 << 31], [1 << 31, 1 << first | 1 << 16]] {
                let mut other = row.clone();
                (other[3], other[19]) = (other[3] ^ masks[0], other[19] ^ masks[1]);
                assert_ne!(hash(&other), hash(&row), "{masks:x?}");
            }
        }
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
            let mut back = row.clone();
            add(&previous, -factor(weight), &mut back);
            add(&previous, factor(weight), &mut back);
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
