//! The side list of the quantized codecs: a row's 8 largest magnitudes, beside its integers.
//!
//! ```text
//! 0 index 8 x u16 | 16 value 8 x f16
//! ```
//! Transformers carry a few massive activations per row, which would set the scale for everything else. Of equal magnitudes
//! those of lower columns stand here; columns rise, and a row of fewer than 8 repeats its last in the unused slots.

use super::{CodecError, f16_from_f32, f16_to_f32};

/// Values that stand beside the integers.
pub const SIDE: usize = 8;

/// Bytes of a side list.
pub(super) const SIDE_LEN: usize = 4 * SIDE;

/// Writes `columns` of `row` and their values.
pub(super) fn write_side(columns: [u16; SIDE], row: &[f32], out: &mut [u8]) {
    let (index, value) = out.split_at_mut_checked(2 * SIDE).unwrap_or_default();
    for ((column, index), value) in columns.into_iter().zip(index.as_chunks_mut().0).zip(value.as_chunks_mut().0) {
        *index = column.to_le_bytes();
        *value = f16_from_f32(row.get(usize::from(column)).copied().unwrap_or_default()).to_le_bytes();
    }
}

/// Puts the values of a side list into a row of `out.len()` columns.
///
/// # Errors
/// Columns out of range or order, or a value that is not finite or repeated with another one.
pub(super) fn read_side(side: &[u8], out: &mut [f32]) -> Result<(), CodecError> {
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
/// Column c belongs to group `c % GROUPS`, so that the groups' maxima are vertical and vectorise. The ninth largest of
/// them bounds the ninth largest value from below: only the groups that reach it are searched, nine of them unless
/// values are equal. A frame of its own keeps each below 512 bytes of stack.
#[inline(never)]
pub(super) fn largest(row: &[f32], last: u16) -> ([u16; SIDE], f32) {
    let mut maxima = [0f32; GROUPS];
    let (stripes, tail) = row.as_chunks::<GROUPS>();
    for stripe in stripes.iter().map(<[f32; GROUPS]>::as_slice).chain([tail]) {
        for (max, x) in maxima.iter_mut().zip(stripe) {
            *max = if x.abs() > *max { x.abs() } else { *max };
        }
    }
    let mut best = Largest::new();
    for (max, group) in maxima.iter().zip(0..) {
        best.offer(*max, group);
    }
    let bound = best.ninth();

    let mut found = Largest::new();
    for (_, group) in maxima.iter().zip(0u16..).filter(|(max, _)| **max >= bound) {
        let mut rest = row.get(usize::from(group)..).unwrap_or_default();
        let mut column = group;
        while let Some(x) = rest.first() {
            if x.abs() >= bound {
                found.offer(x.abs(), column);
            }
            rest = rest.get(GROUPS..).unwrap_or_default();
            column = column.wrapping_add(GROUPS as u16);
        }
    }
    (found.columns(last), found.ninth())
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

/// Groups of [`largest`]: 256 bytes of stack, and nine groups are a seventh of a row.
const GROUPS: usize = 64;

const OFFERED: u64 = 1 << 48;
