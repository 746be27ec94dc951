//! Activations in any form: with delta and compression.

use core::slice;

use syn1_core::{Form, Inbound, Outbound, Place};

use crate::decoder::Bytes;
use crate::error::{outcome, syn1_error};
use crate::header::{self, syn1_codec, syn1_flags, syn1_frame, syn1_header};
use crate::object::{begin, object, syn1_inbound, syn1_outbound};
use crate::view::{many, many_mut, one, put};

/// The caller's numbers, which an object keeps.
pub(crate) struct Floats {
    data: *mut f32,
    count: usize,
}

impl Floats {
    /// Those at `data`, if they can be.
    ///
    /// # Safety
    /// The rules of the crate, for as long as the object is used.
    unsafe fn lent(data: *mut f32, count: usize) -> Result<Self, syn1_error> {
        // SAFETY: the caller's promise.
        let values = unsafe { many_mut(data, count)? };
        Ok(Self { data: values.as_mut_ptr(), count })
    }
}

impl AsMut<[f32]> for Floats {
    fn as_mut(&mut self) -> &mut [f32] {
        // SAFETY: `lent` has checked the pointer (or there are no numbers), whoever lent them keeps them for the object, and
        // `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.data, self.count) }
    }
}

/// How a frame of activations is to be made.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct syn1_place {
    /// The request.
    pub request: u32,
    /// The position of the first row.
    pub position: u32,
    /// The incarnation of the request's route.
    pub epoch: u8,
    /// 1: rows of tokens that are not accepted yet; else 0.
    pub predicted: u8,
    /// The codec.
    pub codec: syn1_codec,
    /// `SYN1_FLAG_DELTA` and `SYN1_FLAG_COMPRESSED` as they are wanted.
    pub flags: syn1_flags,
}

/// Sets up an end that has sent nothing. `rows` holds two rows (2 x width values) where delta is used, `scratch` a frame's
/// payload in plain q8 where compressed is; each may be empty otherwise. The object keeps both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_outbound_init(
    outbound: *mut syn1_outbound,
    rows: *mut f32,
    rows_count: usize,
    scratch: *mut u8,
    scratch_len: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (rows, scratch) = unsafe { (Floats::lent(rows, rows_count)?, Bytes::lent(scratch, scratch_len)?) };
        // SAFETY: the rules of the crate.
        unsafe { begin(outbound, Outbound::new(rows, scratch)) }
    })
}

/// Writes whole rows of `cols` values as the payload of an activation frame; `header` becomes the frame's header, which
/// says what was done: values above 65504 go as f32, and what compression does not make shorter goes uncompressed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_outbound_encode(
    outbound: *mut syn1_outbound,
    place: *const syn1_place,
    values: *const f32,
    count: usize,
    cols: u16,
    out: *mut u8,
    out_len: usize,
    header: *mut syn1_header,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (outbound, place, values, out) =
            unsafe { (object(outbound)?, one(place)?, many(values, count)?, many_mut(out, out_len)?) };
        let syn1_place { request, position, epoch, predicted, codec, flags } = place;
        let form = Form::new(header::codec(codec)?, header::flags(flags)?).ok_or(syn1_error::SYN1_ERROR_VALUE)?;
        let place = Place { request, epoch, position };
        let made = outbound.encode(form, place, predicted != 0, values, cols, out)?;
        // SAFETY: the rules of the crate.
        unsafe { put(header, made.into()) }
    })
}

/// Sets up an end that has received nothing. `reference` holds one row (width values) where delta is used, and may be
/// empty otherwise. The object keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_inbound_init(
    inbound: *mut syn1_inbound,
    reference: *mut f32,
    count: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let reference = unsafe { Floats::lent(reference, count)? };
        // SAFETY: the rules of the crate.
        unsafe { begin(inbound, Inbound::new(reference)) }
    })
}

/// Reads the rows of an activation frame, in any form; `count` must be rows x cols.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_inbound_decode(
    inbound: *mut syn1_inbound,
    frame: *const syn1_frame,
    values: *mut f32,
    count: usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (inbound, frame, values) = unsafe { (object(inbound)?, one(frame)?.checked()?, many_mut(values, count)?) };
        Ok(inbound.decode(&frame, values)?)
    })
}
