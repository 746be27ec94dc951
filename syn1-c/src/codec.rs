//! Numbers in and out of payloads.

use syn1_core::codec::{Q8_OVERHEAD, choose, decode, decode_q8_row, encode, encode_ids, encode_q8_row, ids};

use crate::error::{outcome, syn1_error};
use crate::header::{self, syn1_codec};
use crate::view::{many, many_mut, put};

/// Bytes that a row takes in q8 beyond its values.
pub const SYN1_Q8_OVERHEAD: usize = 36;

const _: () = assert!(SYN1_Q8_OVERHEAD == Q8_OVERHEAD);

/// The codec that `values` can travel in: `wanted`, or f32 where a magnitude is above 65504. An error where one is not finite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_choose(
    wanted: syn1_codec,
    values: *const f32,
    count: usize,
    codec: *mut syn1_codec,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let values = unsafe { many(values, count)? };
        let chosen = choose(header::codec(wanted)?, values)?;
        // SAFETY: the rules of the crate.
        unsafe { put(codec, chosen as u8) }
    })
}

/// Writes whole rows of `cols` values in a plain codec; `written` becomes the bytes of the payload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_encode(
    codec: syn1_codec,
    values: *const f32,
    count: usize,
    cols: u16,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (values, out) = unsafe { (many(values, count)?, many_mut(out, out_len)?) };
        let len = encode(header::codec(codec)?, values, cols, out)?;
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

/// Reads a payload of `rows` x `cols` values in a plain codec; `count` must be as many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_decode(
    codec: syn1_codec,
    payload: *const u8,
    payload_len: usize,
    rows: u16,
    cols: u16,
    values: *mut f32,
    count: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (payload, values) = unsafe { (many(payload, payload_len)?, many_mut(values, count)?) };
        Ok(decode(header::codec(codec)?, payload, rows, cols, values)?)
    })
}

/// Writes one row in q8, which takes `SYN1_Q8_OVERHEAD + cols` bytes: for firmware that needs no other codec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_q8_encode_row(
    values: *const f32,
    cols: usize,
    out: *mut u8,
    out_len: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (values, out) = unsafe { (many(values, cols)?, many_mut(out, out_len)?) };
        Ok(encode_q8_row(values, out)?)
    })
}

/// Reads one row of q8: for firmware that needs no other codec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_q8_decode_row(
    row: *const u8,
    row_len: usize,
    values: *mut f32,
    cols: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (row, values) = unsafe { (many(row, row_len)?, many_mut(values, cols)?) };
        Ok(decode_q8_row(row, values)?)
    })
}

/// Writes `count` token ids, four bytes each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_ids_encode(tokens: *const u32, count: usize, out: *mut u8, out_len: usize) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (tokens, out) = unsafe { (many(tokens, count)?, many_mut(out, out_len)?) };
        if out.len() / 4 < tokens.len() {
            return Err(syn1_error::SYN1_ERROR_CODEC_BUFFER);
        }
        encode_ids(tokens, out);
        Ok(())
    })
}

/// Reads `count` token ids out of a payload, which must be as long as that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_ids_decode(
    payload: *const u8,
    payload_len: usize,
    tokens: *mut u32,
    count: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (payload, tokens) = unsafe { (many(payload, payload_len)?, many_mut(tokens, count)?) };
        if !payload.len().is_multiple_of(4) || payload.len() / 4 != tokens.len() {
            return Err(syn1_error::SYN1_ERROR_CODEC_LENGTH);
        }
        tokens.iter_mut().zip(ids(payload)).for_each(|(to, id)| *to = id);
        Ok(())
    })
}
