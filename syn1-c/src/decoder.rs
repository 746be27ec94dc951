//! Bytes to frames, over a buffer of the caller's.

use core::slice;

use syn1_core::Decoder;

use crate::error::{outcome, syn1_error};
use crate::header::{syn1_frame, syn1_limits};
use crate::object::{begin, object, syn1_decoder};
use crate::view::{NO_ROOM, many_mut, one, put, syn1_room};

/// The caller's bytes, which an object keeps.
pub(crate) struct Bytes {
    data: *mut u8,
    len: usize,
}

impl Bytes {
    /// Those at `data`, if they can be.
    ///
    /// # Safety
    /// The rules of the crate, for as long as the object is used.
    pub(crate) unsafe fn lent(data: *mut u8, len: usize) -> Result<Self, syn1_error> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { many_mut(data, len)? };
        Ok(Self { data: bytes.as_mut_ptr(), len })
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `lent` has checked the pointer (or there are no bytes), and whoever lent them keeps them for the object.
        unsafe { slice::from_raw_parts(self.data, self.len) }
    }
}

impl AsMut<[u8]> for Bytes {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; `self` is borrowed alone, and nobody else uses the bytes.
        unsafe { slice::from_raw_parts_mut(self.data, self.len) }
    }
}

/// Sets up a decoder at the start of a stream. `buffer` must hold the longest frame: a header and `max_payload` bytes, and
/// a control frame. The decoder keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decoder_init(
    decoder: *mut syn1_decoder,
    buffer: *mut u8,
    len: usize,
    limits: *const syn1_limits,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (buffer, limits) = unsafe { (Bytes::lent(buffer, len)?, one(limits)?.checked()?) };
        // SAFETY: the rules of the crate.
        unsafe { begin(decoder, Decoder::new(buffer, limits)) }
    })
}

/// What frames must obey from the next one on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decoder_set_limits(decoder: *mut syn1_decoder, limits: *const syn1_limits) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (decoder, limits) = unsafe { (object(decoder)?, one(limits)?.checked()?) };
        decoder.set_limits(limits);
        Ok(())
    })
}

/// Where the next bytes of the stream go; not empty after `syn1_decoder_next` gave `SYN1_MORE`. Frames that were given
/// before are gone. Of a decoder that was not set up there is no room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decoder_spare(decoder: *mut syn1_decoder) -> syn1_room {
    // SAFETY: the rules of the crate.
    match unsafe { object(decoder) } {
        Ok(decoder) => {
            let spare = decoder.spare();
            syn1_room { data: spare.as_mut_ptr(), len: spare.len() }
        }
        Err(_) => NO_ROOM,
    }
}

/// Says that the first `count` bytes of that room now hold input.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decoder_commit(decoder: *mut syn1_decoder, count: usize) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| Ok(unsafe { object(decoder) }?.commit(count)?))
}

/// The next whole frame, or `SYN1_MORE` when more bytes are needed. Its payload is there until the decoder is used again.
///
/// The first error is final: the decoder gives it for ever, because after it no byte can be trusted to start a frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decoder_next(decoder: *mut syn1_decoder, frame: *mut syn1_frame) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let next = unsafe { object(decoder) }?.next()?.ok_or(syn1_error::SYN1_MORE)?;
        // SAFETY: the rules of the crate.
        unsafe { put(frame, next.into()) }
    })
}

/// Says that the stream has ended: an error where it ended inside a frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decoder_finish(decoder: *mut syn1_decoder) -> syn1_error {
    // SAFETY: the rules of the crate.
    outcome(|| Ok(unsafe { object(decoder) }?.finish()?))
}
