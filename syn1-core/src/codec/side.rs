//! The side list of the quantized codecs: a row's 8 largest magnitudes, beside its integers.
//!
//! ```text
//! 0 index 8 x u16 | 16 value 8 x f16
//! ```
//! Transformers carry a few massive activations per row, which would set the scale for everything else. Of equal magnitudes
//! those of lower columns stand here; columns rise, and a row of fewer than 8 repeats its last in the unused slots.

use super::wide::{VECTORS, wide};
use super::{CodecError, f16_from_f32, f16_to_f32};

/// Values that stand beside the integers.
pub const SIDE: usize = 8;

/// Bytes of a side list.
pub(super) const SIDE_LEN: usize = 4 * SIDE;

/// How many columns a row of so many values has: 1 to 65,535.
pub(super) fn columns(values: usize) -> Result<u16, CodecError> {
    let cols = u16::try_from(values).unwrap_or(u16::MAX);
    if cols == 0 || usize::from(cols) != values { Err(CodecError::Shape { values, cols }) } else { Ok(cols) }
}

/// Writes `columns` of `row` and their values.
pub(super) fn write_side(columns: &[u16; SIDE], row: &[f32], out: &mut [u8; SIDE_LEN]) {
    let (index, value) = out.split_at_mut_checked(2 * SIDE).unwrap_or_default();
    for ((column, index), value) in columns.iter().zip(index.as_chunks_mut().0).zip(value.as_chunks_mut().0) {
        *index = column.to_le_bytes();
        *value = f16_from_f32(row.get(usize::from(*column)).copied().unwrap_or_default()).to_le_bytes();
    }
}

/// Puts the values of a side list into a row of `out.len()` columns.
///
/// # Errors
/// Columns out of range or order, or a value that is not finite or repeated with another one.
pub(super) fn read_side(side: &[u8; SIDE_LEN], out: &mut [f32]) -> Result<(), CodecError> {
    let cols = out.len();
    let (index, value) = side.split_at_checked(2 * SIDE).unwrap_or_default();
    let mut before: Option<(u16, u16)> = None;
    for (slot, (index, value)) in (0u8..).zip(index.as_chunks().0.iter().zip(value.as_chunks().0)) {
        let (index, bits) = (u16::from_le_bytes(*index), u16::from_le_bytes(*value));
        // SPEC 3.16
        let repeats = usize::from(slot) >= cols;
        let in_order = match before {
            Some((last, _)) if repeats => index == last,
            Some((last, _)) => index > last,
            None => true,
        };
        let place = out.get_mut(usize::from(index)).filter(|_| in_order);
        let place = place.ok_or(CodecError::SideIndex { slot, index })?;
        // SPEC 3.17
        if bits & 0x7c00 == 0x7c00 {
            return Err(CodecError::NotFinite);
        }
        if repeats && before.is_some_and(|(_, last)| last != bits) {
            return Err(CodecError::SideValue { slot });
        }
        *place = f16_to_f32(bits);
        before = Some((index, bits));
    }
    Ok(())
}

/// The columns of the [`SIDE`] largest magnitudes by rising column, and the largest magnitude among the others.
///
/// The ninth largest of the groups' maxima bounds the ninth largest magnitude from below, and about 11 of a row reach it,
/// more where values are equal. Finding the maxima and then those 11 are two loops that vectorise. A frame of its own
/// keeps each below 512 bytes of stack.
#[inline(never)]
pub(super) fn largest(row: &[f32]) -> ([u16; SIDE], f32) {
    let mut found = Largest::new();
    if VECTORS {
        found.offer_all(&wide!(maxima(row)), 0, 0.0);
        found = wide!(reaching(row, found.ninth()));
    } else {
        found.offer_all(row, 0, 0.0);
    }
    let last = (row.len() as u16).wrapping_sub(1);
    (found.columns(last), found.ninth())
}

/// The largest magnitude of each group: column c belongs to group `c % GROUPS`.
#[inline(always)]
fn maxima(row: &[f32]) -> [f32; GROUPS] {
    let (stripes, tail) = row.as_chunks::<GROUPS>();
    let mut maxima = [0f32; GROUPS];
    for stripe in stripes {
        for (max, x) in maxima.iter_mut().zip(stripe) {
            *max = if x.abs() > *max { x.abs() } else { *max };
        }
    }
    // Another array: the loop above then holds its own in registers.
    let mut all = maxima;
    for (max, x) in all.iter_mut().zip(tail) {
        *max = if x.abs() > *max { x.abs() } else { *max };
    }
    all
}

/// The largest of the magnitudes that are not below `bound`.
#[inline(always)]
fn reaching(row: &[f32], bound: f32) -> Largest {
    let mut found = Largest::new();
    let (blocks, tail) = row.as_chunks::<BLOCK>();
    let mut start = 0u16;
    // What a magnitude must be above. With nine at hand an equal one of a higher column is none of them, which matters
    // where many are equal.
    let mut floor = if bound > 0.0 { f32::from_bits(bound.to_bits() - 1) } else { -1.0 };
    for block in blocks {
        if block.iter().fold(false, |seen, x| seen | (x.abs() > floor)) {
            found.offer_all(block, start, bound);
            if found.is_full() {
                floor = floor.max(found.ninth());
            }
        }
        start = start.wrapping_add(BLOCK as u16);
    }
    found.offer_all(tail, start, bound);
    found
}

/// The nine largest magnitudes offered so far, falling, each as a number that orders by magnitude and then by lower
/// column: `magnitude bits << 16 | !column`, plus one bit on top so that 0 means nothing.
struct Largest([u64; SIDE + 1]);

impl Largest {
    const fn new() -> Self {
        Self([0; SIDE + 1])
    }

    fn offer(&mut self, magnitude: f32, column: u16) {
        // SPEC 3.10
        let mut key = OFFERED | u64::from(magnitude.to_bits()) << 16 | u64::from(!column);
        let [.., least] = self.0;
        if key > least {
            for held in &mut self.0 {
                (*held, key) = (key.max(*held), key.min(*held));
            }
        }
    }

    /// Offers those of `values` that are not below `bound`; the first stands in column `start`.
    #[inline(never)]
    fn offer_all(&mut self, values: &[f32], start: u16, bound: f32) {
        for (x, column) in values.iter().zip(start..) {
            if x.abs() >= bound {
                self.offer(x.abs(), column);
            }
        }
    }

    fn is_full(&self) -> bool {
        let [.., least] = self.0;
        least != 0
    }

    fn ninth(&self) -> f32 {
        let [.., least] = self.0;
        f32::from_bits((least >> 16) as u32)
    }

    /// The columns of all but the ninth, rising; `last` where there are fewer.
    fn columns(&self, last: u16) -> [u16; SIDE] {
        let [side @ .., _] = self.0;
        // SPEC 3.11
        let mut columns = side.map(|key| if key == 0 { last } else { !(key as u16) });
        columns.sort_unstable();
        columns
    }
}

/// Groups whose maxima bound the search: they fit in the registers of SSE2.
const GROUPS: usize = 32;

/// Values that are passed over together.
const BLOCK: usize = 16;

const OFFERED: u64 = 1 << 48;
