//! The bytes of single fields: postcard's, written by hand because what serde derives takes half of a microcontroller's
//! budget.
//!
//! One type reads and writes, so that each message lists its fields once: see [`fields`](super::fields). It remembers a
//! failure and goes on, so that the list has no branches and the question whether all was well is asked once. The functions
//! are never inlined: on a microcontroller a call takes fewer bytes than what it does.

use crate::codec::copy;
use crate::limits::MAX_TEXT;

/// The bytes of a message, on their way in or out.
pub(super) struct Wire<'a, 'o> {
    end: End<'a, 'o>,
    failed: bool,
}

enum End<'a, 'o> {
    /// What is left to read.
    Read(&'a [u8]),
    /// What is left to write to.
    Write(&'o mut [u8]),
}

impl<'a, 'o> Wire<'a, 'o> {
    pub(super) const fn read(bytes: &'a [u8]) -> Self {
        Self { end: End::Read(bytes), failed: false }
    }

    pub(super) const fn write(out: &'o mut [u8]) -> Self {
        Self { end: End::Write(out), failed: false }
    }

    /// How many bytes are left, or `None` if a field could not be read or written.
    pub(super) const fn finish(&self) -> Option<usize> {
        match &self.end {
            _ if self.failed => None,
            End::Read(rest) => Some(rest.len()),
            End::Write(rest) => Some(rest.len()),
        }
    }

    /// Bytes as they are.
    #[inline(never)]
    pub(super) fn bytes(&mut self, field: &mut [u8]) {
        match &mut self.end {
            End::Read(left) => {
                if let Some((bytes, rest)) = left.split_at_checked(field.len()) {
                    copy(bytes, field);
                    *left = rest;
                    return;
                }
            }
            End::Write(left) => {
                if let Some((room, rest)) = core::mem::take(left).split_at_mut_checked(field.len()) {
                    copy(field, room);
                    *left = rest;
                    return;
                }
            }
        }
        self.failed = true;
    }

    #[inline(never)]
    pub(super) fn u8(&mut self, field: &mut u8) {
        self.bytes(core::slice::from_mut(field));
    }

    #[inline(never)]
    pub(super) fn u16(&mut self, field: &mut u16) {
        let mut value = (*field).into();
        self.varint(&mut value, u16::BITS);
        *field = value as u16;
    }

    #[inline(never)]
    pub(super) fn u32(&mut self, field: &mut u32) {
        let mut value = (*field).into();
        self.varint(&mut value, u32::BITS);
        *field = value as u32;
    }

    #[inline(never)]
    pub(super) fn u64(&mut self, field: &mut u64) {
        self.varint(field, u64::BITS);
    }

    /// A text, [`clip`]ped where it is written.
    #[inline(never)]
    pub(super) fn text(&mut self, field: &mut &'a str) {
        let clipped = clip(field);
        let mut len = clipped.len() as u64;
        self.u64(&mut len);
        match &mut self.end {
            End::Read(left) => {
                if let Some((bytes, rest)) = left.split_at_checked(usize::try_from(len).unwrap_or(usize::MAX))
                    && let Ok(text) = core::str::from_utf8(bytes)
                {
                    (*field, *left) = (text, rest);
                    return;
                }
            }
            End::Write(left) => {
                if let Some((room, rest)) = core::mem::take(left).split_at_mut_checked(clipped.len()) {
                    copy(clipped.as_bytes(), room);
                    *left = rest;
                    return;
                }
            }
        }
        self.failed = true;
    }

    /// An enum, whose numbers are the places in `values`.
    pub(super) fn choice<T: Copy + PartialEq>(&mut self, field: &mut T, values: &[T]) {
        let mut number = (0..).zip(values).find_map(|(number, value)| (value == field).then_some(number)).unwrap_or(0);
        self.u32(&mut number);
        match values.get(number as usize) {
            Some(value) => *field = *value,
            None => self.failed = true,
        }
    }

    /// A number of a type of `bits` bits, seven bits a byte: written in the fewest bytes; read also from more, up to what
    /// the type's largest value takes.
    #[inline(never)]
    fn varint(&mut self, value: &mut u64, bits: u32) {
        let reading = matches!(self.end, End::Read(_));
        let mut rest = if reading { 0 } else { *value };
        let mut read = 0;
        let mut shift = 0;
        while shift < bits {
            // SPEC 5.1
            let more = u8::from(rest >= 0x80) << 7;
            let mut byte = rest as u8 & 0x7f | more;
            self.u8(&mut byte);
            let seven = u64::from(byte & 0x7f);
            // SPEC 5.4
            self.failed |= seven.checked_shr(bits - shift).unwrap_or(0) != 0;
            read |= seven << shift;
            if byte < 0x80 {
                *value = read;
                return;
            }
            rest >>= 7;
            shift += 7;
        }
        self.failed = true;
    }
}

/// The longest start of `text` that is at most [`MAX_TEXT`] bytes and ends between characters.
///
/// ```
/// let long = "é".repeat(200);
/// assert_eq!(syn1_core::clip(&long).len(), 256);
/// assert_eq!(syn1_core::clip("short"), "short");
/// ```
#[must_use]
pub fn clip(text: &str) -> &str {
    // SPEC 5.6
    let mut end = text.len().min(MAX_TEXT);
    loop {
        match text.get(..end) {
            Some(clipped) => return clipped,
            None => end = end.saturating_sub(1),
        }
    }
}
