//! Memory of the caller's, looked at before it is used.

use core::ffi::c_char;
use core::{ptr, slice, str};

use crate::error::syn1_error;

/// Where bytes may be written.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_room {
    /// The first of them.
    pub data: *mut u8,
    /// How many.
    pub len: usize,
}

/// A text in UTF-8, without a zero byte at its end.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_text {
    /// Its first byte; may be null where `len` is 0.
    pub data: *const c_char,
    /// Its bytes.
    pub len: usize,
}

impl syn1_text {
    /// A text of this program's.
    pub(crate) fn of(text: &str) -> Self {
        Self { data: text.as_ptr().cast(), len: text.len() }
    }

    /// The text that the caller lends.
    ///
    /// # Safety
    /// The rules of the crate, for as long as `'a`.
    pub(crate) unsafe fn read<'a>(self) -> Result<&'a str, syn1_error> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { many(self.data.cast::<u8>(), self.len)? };
        str::from_utf8(bytes).map_err(|_| syn1_error::SYN1_ERROR_TEXT)
    }
}

/// What may lie in memory that C has written: any bits are a value of it.
pub(crate) trait Plain: Copy {}

impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for f32 {}

/// `count` values that the caller lends.
///
/// # Safety
/// The rules of the crate, for as long as `'a`.
pub(crate) unsafe fn many<'a, T: Plain>(data: *const T, count: usize) -> Result<&'a [T], syn1_error> {
    if count == 0 {
        return Ok(&[]);
    }
    check(data, count)?;
    // SAFETY: `data` is neither null nor misaligned, the length is one that an object can have, any bits are a `T`, and that
    // `count` values lie there is the caller's promise.
    Ok(unsafe { slice::from_raw_parts(data, count) })
}

/// `count` values that the caller lends to be written.
///
/// # Safety
/// The rules of the crate, for as long as `'a`.
pub(crate) unsafe fn many_mut<'a, T: Plain>(data: *mut T, count: usize) -> Result<&'a mut [T], syn1_error> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(data, count)?;
    // SAFETY: as in `many`; that nobody else uses them is the caller's promise, too.
    Ok(unsafe { slice::from_raw_parts_mut(data, count) })
}

/// The value that the caller lends.
///
/// # Safety
/// The rules of the crate; every field of a `T` is a number, an array of numbers, a pointer or a union of such.
pub(crate) unsafe fn one<T: Copy>(data: *const T) -> Result<T, syn1_error> {
    check(data, 1)?;
    // SAFETY: `data` is neither null nor misaligned, and a `T` lies there by the caller's promise.
    Ok(unsafe { data.read() })
}

/// Gives the caller a value.
///
/// # Safety
/// The rules of the crate.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), syn1_error> {
    check(to, 1)?;
    // SAFETY: `to` is neither null nor misaligned, and there is room by the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Whether `count` values can lie at `data`.
pub(crate) fn check<T>(data: *const T, count: usize) -> Result<(), syn1_error> {
    if data.is_null() {
        return Err(syn1_error::SYN1_ERROR_NULL);
    }
    if !data.is_aligned() {
        return Err(syn1_error::SYN1_ERROR_ALIGNMENT);
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|bytes| *bytes <= isize::MAX.unsigned_abs());
    if bytes.is_some() { Ok(()) } else { Err(syn1_error::SYN1_ERROR_RANGE) }
}

/// No room, for what has none to give.
pub(crate) const NO_ROOM: syn1_room = syn1_room { data: ptr::null_mut(), len: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_slice_can_be_is_refused_before_it_is_made() {
        let words = [7_u32; 2];
        let odd = words.as_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
        for (data, count, expected) in [
            (ptr::null(), 1, syn1_error::SYN1_ERROR_NULL),
            (odd, 1, syn1_error::SYN1_ERROR_ALIGNMENT),
            (words.as_ptr(), usize::MAX, syn1_error::SYN1_ERROR_RANGE),
            (words.as_ptr(), usize::MAX / 8 + 1, syn1_error::SYN1_ERROR_RANGE),
        ] {
            // SAFETY: no slice is made of any of these.
            assert_eq!(unsafe { many(data, count) }, Err(expected));
        }
    }

    #[test]
    fn nothing_may_lie_anywhere() {
        // SAFETY: nothing is read.
        assert_eq!(unsafe { many::<f32>(ptr::null(), 0) }, Ok(&[][..]));
        // SAFETY: as above.
        assert!(unsafe { many_mut::<f32>(ptr::null_mut(), 0) }.is_ok_and(|empty| empty.is_empty()));
    }

    #[test]
    fn a_text_that_is_not_utf_8_is_refused() {
        let text = |bytes: &'static [u8]| syn1_text { data: bytes.as_ptr().cast(), len: bytes.len() };
        // SAFETY: the bytes live for ever.
        assert_eq!(unsafe { text("f\u{fc}nf".as_bytes()).read() }, Ok("f\u{fc}nf"));
        // SAFETY: as above.
        assert_eq!(unsafe { text(&[b'f', 0xff]).read() }, Err(syn1_error::SYN1_ERROR_TEXT));
    }
}
