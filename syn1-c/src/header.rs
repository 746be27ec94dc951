//! Headers, limits and whole frames.

use syn1_core::header::parse;
use syn1_core::{Codec, Flags, Frame, Header, Kind, Limits, Parsed, encode_frame, encoded_len};

use crate::error::{outcome, syn1_error};
use crate::view::{many, many_mut, one, put};

/// What a payload means: one of `SYN1_KIND_...`.
pub type syn1_kind = u8;

/// Token ids, from the coordinator to the first node of a route.
pub const SYN1_KIND_TOKENS: syn1_kind = 1;
/// The residual stream between two nodes.
pub const SYN1_KIND_ACTIVATION: syn1_kind = 2;
/// Logits or an acknowledgement, from the last node to the coordinator.
pub const SYN1_KIND_OUTPUT: syn1_kind = 3;
/// A control message.
pub const SYN1_KIND_CONTROL: syn1_kind = 4;

/// How a payload was made: `SYN1_FLAG_...`, added up.
pub type syn1_flags = u8;

/// The codec is q8 or q4.
pub const SYN1_FLAG_QUANTIZED: syn1_flags = 1;
/// Rows are compressed.
pub const SYN1_FLAG_COMPRESSED: syn1_flags = 2;
/// Rows are differences from rows before.
pub const SYN1_FLAG_DELTA: syn1_flags = 4;
/// Rows of tokens that are not accepted yet.
pub const SYN1_FLAG_PREDICTED: syn1_flags = 8;

/// How a payload's numbers are written: one of `SYN1_CODEC_...`.
pub type syn1_codec = u8;

/// A control message.
pub const SYN1_CODEC_BYTES: syn1_codec = 0;
/// Binary32.
pub const SYN1_CODEC_F32: syn1_codec = 1;
/// Binary16.
pub const SYN1_CODEC_F16: syn1_codec = 2;
/// 8 bits a value.
pub const SYN1_CODEC_Q8: syn1_codec = 3;
/// 4 bits a value.
pub const SYN1_CODEC_Q4: syn1_codec = 4;
/// Token ids.
pub const SYN1_CODEC_IDS: syn1_codec = 8;
/// The most likely tokens.
pub const SYN1_CODEC_TOP: syn1_codec = 9;

/// The codecs of activations, as a Hello offers them: the bits `1 << SYN1_CODEC_...`.
pub const SYN1_CODECS_ACTIVATIONS: u32 = 30;

/// Bytes of a header.
pub const SYN1_HEADER_LEN: usize = 24;

/// The longest payload of a control frame.
pub const SYN1_MAX_CONTROL: usize = 1024;

const _: () = assert!(SYN1_CODECS_ACTIVATIONS == syn1_core::CodecSet::ACTIVATIONS.0);
const _: () = assert!(SYN1_HEADER_LEN == Header::LEN && SYN1_MAX_CONTROL == syn1_core::limits::MAX_CONTROL as usize);
const _: () = assert!(SYN1_FLAG_QUANTIZED == Flags::QUANTIZED.bits() && SYN1_FLAG_DELTA == Flags::DELTA.bits());
const _: () = assert!(SYN1_FLAG_COMPRESSED == Flags::COMPRESSED.bits());
const _: () = assert!(SYN1_FLAG_PREDICTED == Flags::PREDICTED.bits());

/// The 24 bytes in front of every payload, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct syn1_header {
    /// What the payload means.
    pub kind: syn1_kind,
    /// How the payload was made.
    pub flags: syn1_flags,
    /// How the payload's numbers are written.
    pub codec: syn1_codec,
    /// The incarnation of the request's route.
    pub epoch: u8,
    /// Position of the first row in the request's context.
    pub position: u32,
    /// Which request, among those open on this link.
    pub request: u32,
    /// Bytes after the header.
    pub payload_len: u32,
    /// Positions in the payload.
    pub rows: u16,
    /// Numbers per position.
    pub cols: u16,
}

/// What a receiver accepts at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct syn1_limits {
    /// Longest payload of a data frame, in bytes.
    pub max_payload: u32,
    /// Entries of the vocabulary; 0 while no model is known.
    pub vocab: u32,
    /// Most rows of a data frame.
    pub max_rows: u16,
    /// Elements of an activation row; 0 while no model is known.
    pub width: u16,
    /// The negotiated flags.
    pub flags: syn1_flags,
}

/// A header and its payload, which lies in the buffer that the frame was found in.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct syn1_frame {
    /// What the payload is.
    pub header: syn1_header,
    /// `header.payload_len` bytes.
    pub payload: *const u8,
}

/// What is acceptable before both Hellos are in: control frames only.
#[unsafe(no_mangle)]
pub extern "C" fn syn1_limits_handshake() -> syn1_limits {
    Limits::handshake().into()
}

/// Reads and checks the 24 bytes of a header.
///
/// `SYN1_SKIP`: a frame that this version does not know and may pass over; only `header->payload_len` means something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_header_parse(
    bytes: *const u8,
    limits: *const syn1_limits,
    header: *mut syn1_header,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (bytes, limits) = unsafe { (many(bytes, SYN1_HEADER_LEN)?, one(limits)?) };
        let bytes = bytes.first_chunk().ok_or(syn1_error::SYN1_ERROR_RANGE)?;
        let (found, said) = match parse(bytes, &limits.checked()?)? {
            Parsed::Frame(found) => (found, Ok(())),
            Parsed::Skip { payload_len } => (Header::control(payload_len), Err(syn1_error::SYN1_SKIP)),
        };
        // SAFETY: the rules of the crate.
        unsafe { put(header, found.into()) }?;
        said
    })
}

/// Writes the 24 bytes of a header. What they say is not checked beyond that its numbers exist.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_header_emit(header: *const syn1_header, bytes: *mut u8) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (header, bytes) = unsafe { (one(header)?, many_mut(bytes, SYN1_HEADER_LEN)?) };
        let emitted = header.checked()?.emit();
        bytes.iter_mut().zip(emitted).for_each(|(to, byte)| *to = byte);
        Ok(())
    })
}

/// The header of `rows` token ids, the first of which stands at `position`.
#[unsafe(no_mangle)]
pub extern "C" fn syn1_header_tokens(request: u32, epoch: u8, position: u32, rows: u16) -> syn1_header {
    Header::tokens(request, epoch, position, rows).into()
}

/// The header that says: positions below `position` are in the KV cache.
#[unsafe(no_mangle)]
pub extern "C" fn syn1_header_acknowledge(request: u32, epoch: u8, position: u32) -> syn1_header {
    Header::acknowledge(request, epoch, position).into()
}

/// The header of `rows` activations of `cols` elements in a plain codec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_header_activation(
    request: u32,
    epoch: u8,
    position: u32,
    codec: syn1_codec,
    rows: u16,
    cols: u16,
    header: *mut syn1_header,
) -> syn1_error {
    outcome(|| {
        let made = Header::activation(request, epoch, position, self::codec(codec)?, rows, cols);
        // SAFETY: the rules of the crate.
        unsafe { put(header, made.ok_or(syn1_error::SYN1_ERROR_VALUE)?.into()) }
    })
}

/// The header of the `k` most likely tokens after each of `rows` positions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_header_top(
    request: u32,
    epoch: u8,
    position: u32,
    rows: u16,
    k: u16,
    header: *mut syn1_header,
) -> syn1_error {
    outcome(|| {
        let made = Header::top(request, epoch, position, rows, k);
        // SAFETY: the rules of the crate.
        unsafe { put(header, made.ok_or(syn1_error::SYN1_ERROR_VALUE)?.into()) }
    })
}

/// The header of all `vocab` logits after one position.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_header_full(
    request: u32,
    epoch: u8,
    position: u32,
    vocab: u32,
    header: *mut syn1_header,
) -> syn1_error {
    outcome(|| {
        let made = Header::full(request, epoch, position, vocab);
        // SAFETY: the rules of the crate.
        unsafe { put(header, made.ok_or(syn1_error::SYN1_ERROR_VALUE)?.into()) }
    })
}

/// Bytes of a payload of `rows` x `cols` numbers in a plain codec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_encoded_len(codec: syn1_codec, rows: u16, cols: u16, len: *mut u32) -> syn1_error {
    outcome(|| {
        let found = encoded_len(self::codec(codec)?, rows, cols).ok_or(syn1_error::SYN1_ERROR_VALUE)?;
        // SAFETY: the rules of the crate.
        unsafe { put(len, found) }
    })
}

/// Writes a header and its payload into `out`; `written` becomes the bytes of the frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_frame_encode(
    header: *const syn1_header,
    payload: *const u8,
    payload_len: usize,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (header, payload, out) = unsafe { (one(header)?, many(payload, payload_len)?, many_mut(out, out_len)?) };
        let len = encode_frame(&header.checked()?, payload, out)?.len();
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

/// The frame of a message transport's message: `SYN1_SKIP` where it is one to ignore.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_frame_from_message(
    message: *const u8,
    len: usize,
    limits: *const syn1_limits,
    frame: *mut syn1_frame,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (message, limits) = unsafe { (many(message, len)?, one(limits)?) };
        let found = Frame::from_message(message, &limits.checked()?)?.ok_or(syn1_error::SYN1_SKIP)?;
        // SAFETY: the rules of the crate.
        unsafe { put(frame, found.into()) }
    })
}

impl syn1_header {
    /// The same header, if its numbers exist.
    pub(crate) fn checked(self) -> Result<Header, syn1_error> {
        let Self { kind, flags, codec, epoch, position, request, payload_len, rows, cols } = self;
        let kind = match kind {
            SYN1_KIND_TOKENS => Kind::Tokens,
            SYN1_KIND_ACTIVATION => Kind::Activation,
            SYN1_KIND_OUTPUT => Kind::Output,
            SYN1_KIND_CONTROL => Kind::Control,
            _ => return Err(syn1_error::SYN1_ERROR_VALUE),
        };
        let (flags, codec) = (self::flags(flags)?, self::codec(codec)?);
        Ok(Header { kind, flags, codec, epoch, position, request, payload_len, rows, cols })
    }
}

impl From<Header> for syn1_header {
    fn from(header: Header) -> Self {
        let Header { kind, flags, codec, epoch, position, request, payload_len, rows, cols } = header;
        let (kind, flags, codec) = (kind as u8, flags.bits(), codec as u8);
        Self { kind, flags, codec, epoch, position, request, payload_len, rows, cols }
    }
}

impl syn1_limits {
    /// The same limits, if their flags exist.
    pub(crate) fn checked(self) -> Result<Limits, syn1_error> {
        let Self { max_payload, vocab, max_rows, width, flags } = self;
        Ok(Limits { max_payload, max_rows, width, vocab, flags: self::flags(flags)? })
    }
}

impl From<Limits> for syn1_limits {
    fn from(limits: Limits) -> Self {
        let Limits { max_payload, max_rows, width, vocab, flags } = limits;
        Self { max_payload, vocab, max_rows, width, flags: flags.bits() }
    }
}

impl syn1_frame {
    /// The same frame.
    ///
    /// # Safety
    /// The rules of the crate, for as long as `'a`.
    pub(crate) unsafe fn checked<'a>(self) -> Result<Frame<'a>, syn1_error> {
        let header = self.header.checked()?;
        let len = usize::try_from(header.payload_len).map_err(|_| syn1_error::SYN1_ERROR_RANGE)?;
        // SAFETY: the caller's promise.
        Ok(Frame { header, payload: unsafe { many(self.payload, len)? } })
    }
}

impl From<Frame<'_>> for syn1_frame {
    fn from(frame: Frame<'_>) -> Self {
        Self { header: frame.header.into(), payload: frame.payload.as_ptr() }
    }
}

/// A codec that exists.
pub(crate) fn codec(codec: syn1_codec) -> Result<Codec, syn1_error> {
    Codec::from_byte(codec).ok_or(syn1_error::SYN1_ERROR_VALUE)
}

/// Flags that exist.
pub(crate) fn flags(flags: syn1_flags) -> Result<Flags, syn1_error> {
    Flags::from_bits(flags).ok_or(syn1_error::SYN1_ERROR_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_numbers_that_do_not_exist_is_not_written() {
        let sound = syn1_header_tokens(1, 2, 3, 4);
        for spoilt in
            [syn1_header { kind: 5, ..sound }, syn1_header { codec: 7, ..sound }, syn1_header { flags: 16, ..sound }]
        {
            let mut bytes = [7; SYN1_HEADER_LEN];
            // SAFETY: both pointers are those of values here.
            let said = unsafe { syn1_header_emit(&spoilt, bytes.as_mut_ptr()) };
            assert_eq!((said, bytes), (syn1_error::SYN1_ERROR_VALUE, [7; SYN1_HEADER_LEN]));
        }
    }

    #[test]
    fn numbers_are_those_of_the_core() {
        let kinds = [Kind::Tokens, Kind::Activation, Kind::Output, Kind::Control];
        let here = [SYN1_KIND_TOKENS, SYN1_KIND_ACTIVATION, SYN1_KIND_OUTPUT, SYN1_KIND_CONTROL];
        assert_eq!(kinds.map(|kind| kind as u8), here);
        let codecs = [Codec::Bytes, Codec::F32, Codec::F16, Codec::Q8, Codec::Q4, Codec::Ids, Codec::Top];
        let here = [
            SYN1_CODEC_BYTES,
            SYN1_CODEC_F32,
            SYN1_CODEC_F16,
            SYN1_CODEC_Q8,
            SYN1_CODEC_Q4,
            SYN1_CODEC_IDS,
            SYN1_CODEC_TOP,
        ];
        assert_eq!(codecs.map(|codec| codec as u8), here);
    }

    #[test]
    fn a_frame_to_pass_over_is_said_with_its_length() {
        let mut bytes = Header::control(300).emit();
        bytes[4] |= syn1_core::header::IGNORABLE;
        let (limits, mut header) = (syn1_limits_handshake(), syn1_header_tokens(0, 0, 0, 0));
        // SAFETY: all pointers are those of values here.
        let said = unsafe { syn1_header_parse(bytes.as_ptr(), &limits, &mut header) };
        assert_eq!((said, header.payload_len), (syn1_error::SYN1_SKIP, 300));
    }
}
