//! Objects that live in memory of the caller's.
//!
//! C sees so many words without a meaning. In front of the object lies a mark that says which kind it is: memory that was
//! never initialised, if it is static and so begins as zeros, and an object of another kind are errors and not accidents.

use syn1_core::{Decoder, Inbound, Outbound, Session};

use crate::activation::Floats;
use crate::decoder::Bytes;
use crate::error::syn1_error;
use crate::identity::Callbacks;
use crate::view::{check, put};

/// Finds frames in a stream of bytes; set up by `syn1_decoder_init`.
#[repr(C)]
pub struct syn1_decoder {
    opaque: [u64; SYN1_DECODER_WORDS],
}

/// The state of one link; set up by `syn1_session_init`.
#[repr(C)]
pub struct syn1_session {
    opaque: [u64; SYN1_SESSION_WORDS],
}

/// The sending end of one request's activations; set up by `syn1_outbound_init`.
#[repr(C)]
pub struct syn1_outbound {
    opaque: [u64; SYN1_OUTBOUND_WORDS],
}

/// The receiving end of one request's activations; set up by `syn1_inbound_init`.
#[repr(C)]
pub struct syn1_inbound {
    opaque: [u64; SYN1_INBOUND_WORDS],
}

/// An object's memory, as C sees it.
pub(crate) trait Object {
    /// What it is.
    type Value;
    /// Distinguishes it from all others.
    const MARK: u32;
}

impl Object for syn1_decoder {
    type Value = Decoder<Bytes>;
    const MARK: u32 = u32::from_le_bytes(*b"S1De");
}

impl Object for syn1_session {
    type Value = Session<Callbacks>;
    const MARK: u32 = u32::from_le_bytes(*b"S1Se");
}

impl Object for syn1_outbound {
    type Value = Outbound<Floats, Bytes>;
    const MARK: u32 = u32::from_le_bytes(*b"S1Ou");
}

impl Object for syn1_inbound {
    type Value = Inbound<Floats>;
    const MARK: u32 = u32::from_le_bytes(*b"S1In");
}

/// The same memory, as this crate sees it.
#[repr(C)]
struct Marked<T> {
    mark: u32,
    value: T,
}

/// Makes an object of `memory`.
///
/// # Safety
/// The rules of the crate.
pub(crate) unsafe fn begin<O: Object>(memory: *mut O, value: O::Value) -> Result<(), syn1_error> {
    const { assert!(fits::<O>()) }
    // SAFETY: `memory` has room for it, as just asserted, if the caller keeps the rules.
    unsafe { put(memory.cast::<Marked<O::Value>>(), Marked { mark: O::MARK, value }) }
}

/// The object in `memory`.
///
/// # Safety
/// The rules of the crate, for as long as `'a`.
pub(crate) unsafe fn object<'a, O: Object>(memory: *mut O) -> Result<&'a mut O::Value, syn1_error> {
    let marked = memory.cast::<Marked<O::Value>>();
    check(marked, 1)?;
    // SAFETY: neither null nor misaligned, and a number lies there by the caller's promise.
    if unsafe { (&raw const (*marked).mark).read() } != O::MARK {
        return Err(syn1_error::SYN1_ERROR_OBJECT);
    }
    // SAFETY: `begin` has written the object behind that mark; nobody else uses it by the caller's promise.
    Ok(unsafe { &mut (*marked).value })
}

const fn fits<O: Object>() -> bool {
    size_of::<Marked<O::Value>>() <= size_of::<O>() && align_of::<Marked<O::Value>>() <= align_of::<O>()
}

// A word or two are to spare, for compilers that lay things out another way.
const _: () = assert!(fits::<syn1_decoder>() && fits::<syn1_session>());
const _: () = assert!(fits::<syn1_outbound>() && fits::<syn1_inbound>());

/// Words of 8 bytes in a `syn1_decoder`.
#[cfg(target_pointer_width = "64")]
pub const SYN1_DECODER_WORDS: usize = 12;
/// Words of 8 bytes in a `syn1_decoder`.
#[cfg(target_pointer_width = "32")]
pub const SYN1_DECODER_WORDS: usize = 8;

/// Words of 8 bytes in a `syn1_session`.
#[cfg(target_pointer_width = "64")]
pub const SYN1_SESSION_WORDS: usize = 54;
/// Words of 8 bytes in a `syn1_session`.
#[cfg(target_pointer_width = "32")]
pub const SYN1_SESSION_WORDS: usize = 50;

/// Words of 8 bytes in a `syn1_outbound`.
#[cfg(target_pointer_width = "64")]
pub const SYN1_OUTBOUND_WORDS: usize = 8;
/// Words of 8 bytes in a `syn1_outbound`.
#[cfg(target_pointer_width = "32")]
pub const SYN1_OUTBOUND_WORDS: usize = 6;

/// Words of 8 bytes in a `syn1_inbound`.
#[cfg(target_pointer_width = "64")]
pub const SYN1_INBOUND_WORDS: usize = 6;
/// Words of 8 bytes in a `syn1_inbound`.
#[cfg(target_pointer_width = "32")]
pub const SYN1_INBOUND_WORDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::syn1_decoder_finish;

    #[test]
    fn memory_that_was_never_set_up_is_no_object_and_neither_is_one_of_another_kind() {
        let mut zeros = syn1_decoder { opaque: [0; SYN1_DECODER_WORDS] };
        // SAFETY: one decoder's memory.
        assert_eq!(unsafe { syn1_decoder_finish(&mut zeros) }, syn1_error::SYN1_ERROR_OBJECT);
        let mut other = syn1_session { opaque: [0; SYN1_SESSION_WORDS] };
        // SAFETY: a session's memory has room for a mark.
        unsafe { (&raw mut other).cast::<u32>().write(syn1_session::MARK) };
        // SAFETY: more than a decoder's memory.
        let taken = unsafe { syn1_decoder_finish((&raw mut other).cast()) };
        assert_eq!(taken, syn1_error::SYN1_ERROR_OBJECT);
    }
}
