//! Logits in and out of payloads.

use syn1_core::output::{full_decode, full_encode, top_decode, top_encode};

use crate::error::{outcome, syn1_error};
use crate::view::{many, many_mut, put};

/// Writes the `k` most likely of all logits; `written` becomes the bytes of the payload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_top_encode(
    logits: *const f32,
    vocab: usize,
    k: u16,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (logits, out) = unsafe { (many(logits, vocab)?, many_mut(out, out_len)?) };
        let len = top_encode(logits, k, out)?;
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

/// Checks a payload of the `k` most likely tokens and reads its row number `row`: `k` ids and logits, the most likely
/// first, and the logarithm of the sum of `exp(logit)` over the whole vocabulary. `SYN1_MORE`: there is no such row.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_top_decode(
    payload: *const u8,
    payload_len: usize,
    k: u16,
    vocab: u32,
    row: usize,
    log_sum_exp: *mut f32,
    ids: *mut u32,
    logits: *mut f32,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (payload, ids, logits) =
            unsafe { (many(payload, payload_len)?, many_mut(ids, k.into())?, many_mut(logits, k.into())?) };
        let row = top_decode(payload, k, vocab)?.nth(row).ok_or(syn1_error::SYN1_MORE)?;
        for ((to_id, to_logit), (id, logit)) in ids.iter_mut().zip(logits).zip(row.entries()) {
            (*to_id, *to_logit) = (id, logit);
        }
        // SAFETY: the rules of the crate.
        unsafe { put(log_sum_exp, row.log_sum_exp()) }
    })
}

/// Writes all logits of one position; `written` becomes the bytes of the payload.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_full_encode(
    logits: *const f32,
    vocab: usize,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (logits, out) = unsafe { (many(logits, vocab)?, many_mut(out, out_len)?) };
        let len = full_encode(logits, out)?;
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

/// Reads all logits of one position.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_full_decode(
    payload: *const u8,
    payload_len: usize,
    logits: *mut f32,
    vocab: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (payload, logits) = unsafe { (many(payload, payload_len)?, many_mut(logits, vocab)?) };
        Ok(full_decode(payload, logits)?)
    })
}
