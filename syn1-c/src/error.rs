//! What came of a call: one small number, and a line of text for each.

use core::ffi::{CStr, c_char};

use syn1_core::{CodecError, ControlError, DecodeError, EncodeError, Fatal, HeaderError, OutputError};

use crate::message::{
    SYN1_REASON_PROTOCOL, SYN1_REASON_REFUSED, SYN1_REASON_TIMEOUT, SYN1_REASON_VERSION, syn1_reason,
};

/// What came of a call. `SYN1_OK`, `SYN1_MORE` and `SYN1_SKIP` are no errors; numbers only get more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum syn1_error {
    /// Done.
    SYN1_OK = 0,
    /// No error: nothing is there yet, or nothing more.
    SYN1_MORE = 1,
    /// No error: a frame to pass over.
    SYN1_SKIP = 2,
    /// A pointer is null that must not be.
    SYN1_ERROR_NULL = 3,
    /// A pointer is not aligned for what it points to.
    SYN1_ERROR_ALIGNMENT = 4,
    /// No object in memory is that long.
    SYN1_ERROR_RANGE = 5,
    /// The object was not initialised, or is one of another kind.
    SYN1_ERROR_OBJECT = 6,
    /// A text is not UTF-8.
    SYN1_ERROR_TEXT = 7,
    /// A number that its type does not have.
    SYN1_ERROR_VALUE = 8,
    /// The first bytes are not SYN1: the peer speaks another protocol.
    SYN1_ERROR_HEADER_MAGIC = 9,
    /// The peer speaks another major version: update the older of the two.
    SYN1_ERROR_HEADER_VERSION = 10,
    /// The frame's kind is unknown and not ignorable: update this end.
    SYN1_ERROR_HEADER_KIND = 11,
    /// The frame has reserved flags set.
    SYN1_ERROR_HEADER_RESERVED_FLAGS = 12,
    /// The frame's codec is unknown: update this end.
    SYN1_ERROR_HEADER_CODEC = 13,
    /// The frame has flags that the Hellos did not both offer.
    SYN1_ERROR_HEADER_NOT_NEGOTIATED = 14,
    /// Frames of this kind do not have these flags.
    SYN1_ERROR_HEADER_FLAGS_OF_KIND = 15,
    /// The flag quantized contradicts the codec.
    SYN1_ERROR_HEADER_QUANTIZED = 16,
    /// Frames of this kind do not travel in this codec.
    SYN1_ERROR_HEADER_CODEC_OF_KIND = 17,
    /// Rows of this codec can't be delta or compressed like that.
    SYN1_ERROR_HEADER_FLAGS_OF_CODEC = 18,
    /// A control frame's epoch, position, request, rows and cols must be 0.
    SYN1_ERROR_HEADER_CONTROL_FIELDS = 19,
    /// A data frame before the model is known: Hello and Model come first.
    SYN1_ERROR_HEADER_NO_MODEL = 20,
    /// More rows than agreed, or none.
    SYN1_ERROR_HEADER_ROWS = 21,
    /// The rows pass the last position.
    SYN1_ERROR_HEADER_POSITION = 22,
    /// Rows and columns do not fit the model.
    SYN1_ERROR_HEADER_SHAPE = 23,
    /// The payload is not as long as its shape needs.
    SYN1_ERROR_HEADER_LENGTH = 24,
    /// The payload is longer than agreed.
    SYN1_ERROR_HEADER_TOO_LONG = 25,
    /// The stream or message ends inside a frame.
    SYN1_ERROR_DECODE_TORN = 26,
    /// A frame is longer than the receive buffer: make it larger.
    SYN1_ERROR_DECODE_BUFFER = 27,
    /// More bytes were committed than there was room for.
    SYN1_ERROR_DECODE_OVERCOMMITTED = 28,
    /// The payload is not as long as its header says.
    SYN1_ERROR_ENCODE_LENGTH = 29,
    /// The frame does not fit the send buffer: make it larger.
    SYN1_ERROR_ENCODE_BUFFER = 30,
    /// The control message is unknown: update this end.
    SYN1_ERROR_CONTROL_UNKNOWN = 31,
    /// A control message's fields end early or hold what they can't.
    SYN1_ERROR_CONTROL_MALFORMED = 32,
    /// Bytes follow a control message.
    SYN1_ERROR_CONTROL_TRAILING = 33,
    /// The control message does not fit the buffer: SYN1_MAX_CONTROL bytes are always enough.
    SYN1_ERROR_CONTROL_BUFFER = 34,
    /// Activations do not travel in this codec: use f32, f16, q8 or q4.
    SYN1_ERROR_CODEC_NOT_ACTIVATION = 35,
    /// The values are not whole rows.
    SYN1_ERROR_CODEC_SHAPE = 36,
    /// The output is not as long as the shape needs.
    SYN1_ERROR_CODEC_BUFFER = 37,
    /// The payload is not as long as the shape needs.
    SYN1_ERROR_CODEC_LENGTH = 38,
    /// The shape needs more than 4 GiB: send fewer rows a frame.
    SYN1_ERROR_CODEC_TOO_MANY_BYTES = 39,
    /// A value is NaN or infinite: the layer before it computed garbage.
    SYN1_ERROR_CODEC_NOT_FINITE = 40,
    /// A magnitude is above 65504: send this frame as f32.
    SYN1_ERROR_CODEC_TOO_LARGE = 41,
    /// A scale is negative, no number, or too large.
    SYN1_ERROR_CODEC_SCALE = 42,
    /// A side slot names a column out of range or out of order.
    SYN1_ERROR_CODEC_SIDE_INDEX = 43,
    /// A side slot repeats a column with another value.
    SYN1_ERROR_CODEC_SIDE_VALUE = 44,
    /// A q8 body holds -128.
    SYN1_ERROR_CODEC_MINUS_128 = 45,
    /// A q4 body holds -8.
    SYN1_ERROR_CODEC_MINUS_8 = 46,
    /// Padding is not 0.
    SYN1_ERROR_CODEC_PADDING = 47,
    /// The delta frame goes on from a row that is not the one held here.
    SYN1_ERROR_CODEC_REFERENCE = 48,
    /// A delta row's weight is out of range.
    SYN1_ERROR_CODEC_WEIGHT = 49,
    /// A compressed row's table does not exist.
    SYN1_ERROR_CODEC_TABLE = 50,
    /// A compressed payload's stream is not one that an encoder writes.
    SYN1_ERROR_CODEC_ENTROPY = 51,
    /// More of the most likely tokens than the vocabulary has, or none.
    SYN1_ERROR_OUTPUT_TOP = 52,
    /// The output buffer is too short.
    SYN1_ERROR_OUTPUT_BUFFER = 53,
    /// The payload is not whole rows.
    SYN1_ERROR_OUTPUT_LENGTH = 54,
    /// A row's log-sum-exp is not finite, or its reserved word is not 0.
    SYN1_ERROR_OUTPUT_HEAD = 55,
    /// A logit is NaN or infinite: a layer before it computed garbage.
    SYN1_ERROR_OUTPUT_NOT_FINITE = 56,
    /// A token id is outside the vocabulary.
    SYN1_ERROR_OUTPUT_ID = 57,
    /// A token of the output is out of order.
    SYN1_ERROR_OUTPUT_ORDER = 58,
    /// The peer sent no Hello in time: is it syn1?.
    SYN1_ERROR_SESSION_NO_HELLO = 59,
    /// The peer did not prove its key in time.
    SYN1_ERROR_SESSION_NO_PROOF = 60,
    /// The peer was silent for too long.
    SYN1_ERROR_SESSION_SILENT = 61,
    /// The peer sent something before its Hello.
    SYN1_ERROR_SESSION_BEFORE_HELLO = 62,
    /// The peer sent a second Hello.
    SYN1_ERROR_SESSION_SECOND_HELLO = 63,
    /// Both ends of the link have the same role: join a coordinator with a node.
    SYN1_ERROR_SESSION_SAME_ROLE = 64,
    /// No minor version in common: update the older of the two.
    SYN1_ERROR_SESSION_NO_COMMON_MINOR = 65,
    /// Both ends must offer f32.
    SYN1_ERROR_SESSION_NO_COMMON_CODEC = 66,
    /// The limits of both ends leave room for no data frame.
    SYN1_ERROR_SESSION_NOTHING_FITS = 67,
    /// The ends want different models: give both the same manifest.
    SYN1_ERROR_SESSION_OTHER_MODEL = 68,
    /// The peer did not prove a key, which this end asks for.
    SYN1_ERROR_SESSION_ANONYMOUS = 69,
    /// The peer sent something before the proof of its key.
    SYN1_ERROR_SESSION_UNPROVEN = 70,
    /// The peer's proof is not signed by the key that it names.
    SYN1_ERROR_SESSION_FORGED = 71,
    /// The peer sent a proof that was not due.
    SYN1_ERROR_SESSION_STRAY_PROOF = 72,
    /// The peer sent more data frames than were granted.
    SYN1_ERROR_SESSION_NO_CREDIT = 73,
    /// The peer granted more data frames than its Hello gave.
    SYN1_ERROR_SESSION_OVERGRANTED = 74,
    /// The peer sent an activation in a codec that was not agreed.
    SYN1_ERROR_SESSION_CODEC = 75,
    /// The peer sent what only this end may send.
    SYN1_ERROR_SESSION_WRONG_WAY = 76,
}

/// A line for people: the error's name, a colon, and what is wrong. It ends in a zero byte and lives for ever.
///
/// A program that does not call this does not contain the texts.
#[unsafe(no_mangle)]
pub extern "C" fn syn1_error_text(error: u8) -> *const c_char {
    TEXTS.get(usize::from(error)).copied().unwrap_or(c"Unknown: no such error").as_ptr()
}

/// What to tell the peer in a Bye after a session gave this error: one of `SYN1_REASON_...`.
#[unsafe(no_mangle)]
pub extern "C" fn syn1_error_reason(error: u8) -> syn1_reason {
    const TIMEOUT: [syn1_error; 3] = [
        syn1_error::SYN1_ERROR_SESSION_NO_HELLO,
        syn1_error::SYN1_ERROR_SESSION_NO_PROOF,
        syn1_error::SYN1_ERROR_SESSION_SILENT,
    ];
    const REFUSED: [syn1_error; 6] = [
        syn1_error::SYN1_ERROR_SESSION_SAME_ROLE,
        syn1_error::SYN1_ERROR_SESSION_NO_COMMON_CODEC,
        syn1_error::SYN1_ERROR_SESSION_NOTHING_FITS,
        syn1_error::SYN1_ERROR_SESSION_OTHER_MODEL,
        syn1_error::SYN1_ERROR_SESSION_ANONYMOUS,
        syn1_error::SYN1_ERROR_SESSION_FORGED,
    ];
    let among = |errors: &[syn1_error]| errors.iter().any(|other| *other as u8 == error);
    if error == syn1_error::SYN1_ERROR_SESSION_NO_COMMON_MINOR as u8 {
        SYN1_REASON_VERSION
    } else if among(&TIMEOUT) {
        SYN1_REASON_TIMEOUT
    } else if among(&REFUSED) {
        SYN1_REASON_REFUSED
    } else {
        SYN1_REASON_PROTOCOL
    }
}

/// Runs what a function of C does, and says what came of it.
pub(crate) fn outcome(work: impl FnOnce() -> Result<(), syn1_error>) -> syn1_error {
    work().err().unwrap_or(syn1_error::SYN1_OK)
}

/// Says that a call did nothing because there was nothing, or nothing yet.
pub(crate) fn something(there: bool) -> Result<(), syn1_error> {
    if there { Ok(()) } else { Err(syn1_error::SYN1_MORE) }
}

impl From<HeaderError> for syn1_error {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Magic(_) => Self::SYN1_ERROR_HEADER_MAGIC,
            HeaderError::Version(_) => Self::SYN1_ERROR_HEADER_VERSION,
            HeaderError::Kind(_) => Self::SYN1_ERROR_HEADER_KIND,
            HeaderError::ReservedFlags(_) => Self::SYN1_ERROR_HEADER_RESERVED_FLAGS,
            HeaderError::Codec(_) => Self::SYN1_ERROR_HEADER_CODEC,
            HeaderError::NotNegotiated(_) => Self::SYN1_ERROR_HEADER_NOT_NEGOTIATED,
            HeaderError::FlagsOfKind { .. } => Self::SYN1_ERROR_HEADER_FLAGS_OF_KIND,
            HeaderError::Quantized { .. } => Self::SYN1_ERROR_HEADER_QUANTIZED,
            HeaderError::CodecOfKind { .. } => Self::SYN1_ERROR_HEADER_CODEC_OF_KIND,
            HeaderError::FlagsOfCodec { .. } => Self::SYN1_ERROR_HEADER_FLAGS_OF_CODEC,
            HeaderError::ControlFields => Self::SYN1_ERROR_HEADER_CONTROL_FIELDS,
            HeaderError::NoModel(_) => Self::SYN1_ERROR_HEADER_NO_MODEL,
            HeaderError::Rows { .. } => Self::SYN1_ERROR_HEADER_ROWS,
            HeaderError::Position { .. } => Self::SYN1_ERROR_HEADER_POSITION,
            HeaderError::Shape { .. } => Self::SYN1_ERROR_HEADER_SHAPE,
            HeaderError::Length { .. } => Self::SYN1_ERROR_HEADER_LENGTH,
            HeaderError::TooLong { .. } => Self::SYN1_ERROR_HEADER_TOO_LONG,
        }
    }
}

impl From<DecodeError> for syn1_error {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Header(error) => error.into(),
            DecodeError::Torn { .. } => Self::SYN1_ERROR_DECODE_TORN,
            DecodeError::Buffer { .. } => Self::SYN1_ERROR_DECODE_BUFFER,
            DecodeError::Overcommitted { .. } => Self::SYN1_ERROR_DECODE_OVERCOMMITTED,
        }
    }
}

impl From<EncodeError> for syn1_error {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Control(error) => error.into(),
            EncodeError::Length { .. } => Self::SYN1_ERROR_ENCODE_LENGTH,
            EncodeError::Buffer { .. } => Self::SYN1_ERROR_ENCODE_BUFFER,
        }
    }
}

impl From<ControlError> for syn1_error {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Unknown(_) => Self::SYN1_ERROR_CONTROL_UNKNOWN,
            ControlError::Malformed => Self::SYN1_ERROR_CONTROL_MALFORMED,
            ControlError::Trailing(_) => Self::SYN1_ERROR_CONTROL_TRAILING,
            ControlError::Buffer { .. } => Self::SYN1_ERROR_CONTROL_BUFFER,
        }
    }
}

impl From<CodecError> for syn1_error {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::NotActivation(_) => Self::SYN1_ERROR_CODEC_NOT_ACTIVATION,
            CodecError::Shape { .. } => Self::SYN1_ERROR_CODEC_SHAPE,
            CodecError::Buffer { .. } => Self::SYN1_ERROR_CODEC_BUFFER,
            CodecError::Length { .. } => Self::SYN1_ERROR_CODEC_LENGTH,
            CodecError::TooManyBytes => Self::SYN1_ERROR_CODEC_TOO_MANY_BYTES,
            CodecError::NotFinite => Self::SYN1_ERROR_CODEC_NOT_FINITE,
            CodecError::TooLarge { .. } => Self::SYN1_ERROR_CODEC_TOO_LARGE,
            CodecError::Scale(_) => Self::SYN1_ERROR_CODEC_SCALE,
            CodecError::SideIndex { .. } => Self::SYN1_ERROR_CODEC_SIDE_INDEX,
            CodecError::SideValue { .. } => Self::SYN1_ERROR_CODEC_SIDE_VALUE,
            CodecError::Minus128 => Self::SYN1_ERROR_CODEC_MINUS_128,
            CodecError::Minus8 => Self::SYN1_ERROR_CODEC_MINUS_8,
            CodecError::Padding => Self::SYN1_ERROR_CODEC_PADDING,
            CodecError::Reference => Self::SYN1_ERROR_CODEC_REFERENCE,
            CodecError::Weight(_) => Self::SYN1_ERROR_CODEC_WEIGHT,
            CodecError::Table(_) => Self::SYN1_ERROR_CODEC_TABLE,
            CodecError::Entropy => Self::SYN1_ERROR_CODEC_ENTROPY,
        }
    }
}

impl From<OutputError> for syn1_error {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Top { .. } => Self::SYN1_ERROR_OUTPUT_TOP,
            OutputError::Buffer { .. } => Self::SYN1_ERROR_OUTPUT_BUFFER,
            OutputError::Length { .. } => Self::SYN1_ERROR_OUTPUT_LENGTH,
            OutputError::Head => Self::SYN1_ERROR_OUTPUT_HEAD,
            OutputError::NotFinite => Self::SYN1_ERROR_OUTPUT_NOT_FINITE,
            OutputError::Id { .. } => Self::SYN1_ERROR_OUTPUT_ID,
            OutputError::Order { .. } => Self::SYN1_ERROR_OUTPUT_ORDER,
        }
    }
}

impl From<Fatal> for syn1_error {
    fn from(error: Fatal) -> Self {
        match error {
            Fatal::Control(error) => error.into(),
            Fatal::NoHello => Self::SYN1_ERROR_SESSION_NO_HELLO,
            Fatal::NoProof => Self::SYN1_ERROR_SESSION_NO_PROOF,
            Fatal::Silent { .. } => Self::SYN1_ERROR_SESSION_SILENT,
            Fatal::BeforeHello(_) => Self::SYN1_ERROR_SESSION_BEFORE_HELLO,
            Fatal::SecondHello => Self::SYN1_ERROR_SESSION_SECOND_HELLO,
            Fatal::SameRole(_) => Self::SYN1_ERROR_SESSION_SAME_ROLE,
            Fatal::NoCommonMinor { .. } => Self::SYN1_ERROR_SESSION_NO_COMMON_MINOR,
            Fatal::NoCommonCodec { .. } => Self::SYN1_ERROR_SESSION_NO_COMMON_CODEC,
            Fatal::NothingFits { .. } => Self::SYN1_ERROR_SESSION_NOTHING_FITS,
            Fatal::OtherModel { .. } => Self::SYN1_ERROR_SESSION_OTHER_MODEL,
            Fatal::Anonymous => Self::SYN1_ERROR_SESSION_ANONYMOUS,
            Fatal::Unproven(_) => Self::SYN1_ERROR_SESSION_UNPROVEN,
            Fatal::Forged => Self::SYN1_ERROR_SESSION_FORGED,
            Fatal::StrayProof => Self::SYN1_ERROR_SESSION_STRAY_PROOF,
            Fatal::NoCredit { .. } => Self::SYN1_ERROR_SESSION_NO_CREDIT,
            Fatal::Overgranted { .. } => Self::SYN1_ERROR_SESSION_OVERGRANTED,
            Fatal::Codec(_) => Self::SYN1_ERROR_SESSION_CODEC,
            Fatal::WrongWay { .. } => Self::SYN1_ERROR_SESSION_WRONG_WAY,
        }
    }
}

/// In the order of [`syn1_error`].
const TEXTS: [&CStr; 77] = [
    c"Ok: done",
    c"More: no error: nothing is there yet, or nothing more",
    c"Skip: no error: a frame to pass over",
    c"Null: a pointer is null that must not be",
    c"Alignment: a pointer is not aligned for what it points to",
    c"Range: no object in memory is that long",
    c"Object: the object was not initialised, or is one of another kind",
    c"Text: a text is not UTF-8",
    c"Value: a number that its type does not have",
    c"Magic: the first bytes are not SYN1: the peer speaks another protocol",
    c"Version: the peer speaks another major version: update the older of the two",
    c"Kind: the frame's kind is unknown and not ignorable: update this end",
    c"ReservedFlags: the frame has reserved flags set",
    c"Codec: the frame's codec is unknown: update this end",
    c"NotNegotiated: the frame has flags that the Hellos did not both offer",
    c"FlagsOfKind: frames of this kind do not have these flags",
    c"Quantized: the flag quantized contradicts the codec",
    c"CodecOfKind: frames of this kind do not travel in this codec",
    c"FlagsOfCodec: rows of this codec can't be delta or compressed like that",
    c"ControlFields: a control frame's epoch, position, request, rows and cols must be 0",
    c"NoModel: a data frame before the model is known: Hello and Model come first",
    c"Rows: more rows than agreed, or none",
    c"Position: the rows pass the last position",
    c"Shape: rows and columns do not fit the model",
    c"Length: the payload is not as long as its shape needs",
    c"TooLong: the payload is longer than agreed",
    c"Torn: the stream or message ends inside a frame",
    c"Buffer: a frame is longer than the receive buffer: make it larger",
    c"Overcommitted: more bytes were committed than there was room for",
    c"Length: the payload is not as long as its header says",
    c"Buffer: the frame does not fit the send buffer: make it larger",
    c"Unknown: the control message is unknown: update this end",
    c"Malformed: a control message's fields end early or hold what they can't",
    c"Trailing: bytes follow a control message",
    c"Buffer: the control message does not fit the buffer: SYN1_MAX_CONTROL bytes are always enough",
    c"NotActivation: activations do not travel in this codec: use f32, f16, q8 or q4",
    c"Shape: the values are not whole rows",
    c"Buffer: the output is not as long as the shape needs",
    c"Length: the payload is not as long as the shape needs",
    c"TooManyBytes: the shape needs more than 4 GiB: send fewer rows a frame",
    c"NotFinite: a value is NaN or infinite: the layer before it computed garbage",
    c"TooLarge: a magnitude is above 65504: send this frame as f32",
    c"Scale: a scale is negative, no number, or too large",
    c"SideIndex: a side slot names a column out of range or out of order",
    c"SideValue: a side slot repeats a column with another value",
    c"Minus128: a q8 body holds -128",
    c"Minus8: a q4 body holds -8",
    c"Padding: padding is not 0",
    c"Reference: the delta frame goes on from a row that is not the one held here",
    c"Weight: a delta row's weight is out of range",
    c"Table: a compressed row's table does not exist",
    c"Entropy: a compressed payload's stream is not one that an encoder writes",
    c"Top: more of the most likely tokens than the vocabulary has, or none",
    c"Buffer: the output buffer is too short",
    c"Length: the payload is not whole rows",
    c"Head: a row's log-sum-exp is not finite, or its reserved word is not 0",
    c"NotFinite: a logit is NaN or infinite: a layer before it computed garbage",
    c"Id: a token id is outside the vocabulary",
    c"Order: a token of the output is out of order",
    c"NoHello: the peer sent no Hello in time: is it syn1?",
    c"NoProof: the peer did not prove its key in time",
    c"Silent: the peer was silent for too long",
    c"BeforeHello: the peer sent something before its Hello",
    c"SecondHello: the peer sent a second Hello",
    c"SameRole: both ends of the link have the same role: join a coordinator with a node",
    c"NoCommonMinor: no minor version in common: update the older of the two",
    c"NoCommonCodec: both ends must offer f32",
    c"NothingFits: the limits of both ends leave room for no data frame",
    c"OtherModel: the ends want different models: give both the same manifest",
    c"Anonymous: the peer did not prove a key, which this end asks for",
    c"Unproven: the peer sent something before the proof of its key",
    c"Forged: the peer's proof is not signed by the key that it names",
    c"StrayProof: the peer sent a proof that was not due",
    c"NoCredit: the peer sent more data frames than were granted",
    c"Overgranted: the peer granted more data frames than its Hello gave",
    c"Codec: the peer sent an activation in a codec that was not agreed",
    c"WrongWay: the peer sent what only this end may send",
];

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use syn1_core::control::{Reason, Role};
    use syn1_core::{Codec, CodecSet, Flags, Kind};

    use super::*;

    fn text(error: syn1_error) -> &'static str {
        // SAFETY: the texts end in a zero byte and live for ever.
        unsafe { CStr::from_ptr(syn1_error_text(error as u8)) }.to_str().unwrap()
    }

    /// What the core calls an error: its variant.
    fn name(error: impl core::fmt::Debug) -> String {
        let text = format!("{error:?}");
        text[..text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len())].into()
    }

    fn fatals() -> Vec<Fatal> {
        let what = "Ping";
        [
            Fatal::NoHello,
            Fatal::NoProof,
            Fatal::Silent { ms: 1 },
            Fatal::BeforeHello(what),
            Fatal::SecondHello,
            Fatal::SameRole(Role::Node),
            Fatal::NoCommonMinor { theirs: (1, 1) },
            Fatal::NoCommonCodec { theirs: CodecSet(0) },
            Fatal::NothingFits { max_payload: 0, max_rows: 0, credit: 0 },
            Fatal::OtherModel { ours: 1, theirs: 2 },
            Fatal::Anonymous,
            Fatal::Unproven(what),
            Fatal::Forged,
            Fatal::StrayProof,
            Fatal::NoCredit { credit: 1 },
            Fatal::Overgranted { frames: 1 },
            Fatal::Codec(Codec::Q4),
            Fatal::WrongWay { what, peer: Role::Node },
            Fatal::Control(ControlError::Malformed),
        ]
        .into()
    }

    /// Errors of the core, one of each, with what they are here.
    fn all() -> Vec<(String, syn1_error)> {
        let (kind, codec, flags) = (Kind::Output, Codec::Q8, Flags::DELTA);
        let header = [
            HeaderError::Magic([0; 4]),
            HeaderError::Version(0),
            HeaderError::Kind(0),
            HeaderError::ReservedFlags(0),
            HeaderError::Codec(0),
            HeaderError::NotNegotiated(flags),
            HeaderError::FlagsOfKind { kind, flags },
            HeaderError::Quantized { flags, codec },
            HeaderError::CodecOfKind { kind, codec },
            HeaderError::FlagsOfCodec { flags, codec },
            HeaderError::ControlFields,
            HeaderError::NoModel(kind),
            HeaderError::Rows { rows: 0, limit: 0 },
            HeaderError::Position { position: 0, rows: 0 },
            HeaderError::Shape { kind, rows: 0, cols: 0 },
            HeaderError::Length { payload_len: 0, len: 0 },
            HeaderError::TooLong { payload_len: 0, limit: 0 },
        ];
        let (need, have) = (1, 0);
        let decode = [
            DecodeError::Torn { have, need },
            DecodeError::Buffer { need, have },
            DecodeError::Overcommitted { count: 1, offered: 0 },
        ];
        let encode = [EncodeError::Length { payload_len: 1, have }, EncodeError::Buffer { need, have }];
        let control = [
            ControlError::Unknown(0),
            ControlError::Malformed,
            ControlError::Trailing(1),
            ControlError::Buffer { have },
        ];
        let codec = [
            CodecError::NotActivation(codec),
            CodecError::Shape { values: 1, cols: 2 },
            CodecError::Buffer { need, have },
            CodecError::Length { need, have },
            CodecError::TooManyBytes,
            CodecError::NotFinite,
            CodecError::TooLarge { magnitude: 1e9 },
            CodecError::Scale(-1.0),
            CodecError::SideIndex { slot: 0, index: 0 },
            CodecError::SideValue { slot: 0 },
            CodecError::Minus128,
            CodecError::Minus8,
            CodecError::Padding,
            CodecError::Reference,
            CodecError::Weight(0),
            CodecError::Table(0),
            CodecError::Entropy,
        ];
        let output = [
            OutputError::Top { k: 0, vocab: 0 },
            OutputError::Buffer { need, have },
            OutputError::Length { have, row: 1 },
            OutputError::Head,
            OutputError::NotFinite,
            OutputError::Id { id: 0, vocab: 0 },
            OutputError::Order { id: 0 },
        ];
        let mut all = Vec::new();
        all.extend(header.map(|error| (name(error), error.into())));
        all.extend(decode.map(|error| (name(error), error.into())));
        all.extend(encode.map(|error| (name(error), error.into())));
        all.extend(control.map(|error| (name(error), error.into())));
        all.extend(codec.map(|error| (name(error), error.into())));
        all.extend(output.map(|error| (name(error), error.into())));
        let own = fatals().into_iter().filter(|fatal| !matches!(fatal, Fatal::Control(_)));
        all.extend(own.map(|fatal| (name(fatal), fatal.into())));
        all
    }

    #[test]
    fn every_error_of_the_core_is_one_here_under_its_name_and_none_is_left_over() {
        let all = all();
        for (number, (name, error)) in (9..).zip(&all) {
            assert_eq!((*error as usize, text(*error).split(':').next()), (number, Some(name.as_str())));
        }
        assert_eq!(TEXTS.len(), 9 + all.len());
    }

    #[test]
    fn what_the_peer_is_told_is_what_the_core_would_tell_it() {
        for fatal in fatals() {
            let reason = syn1_error_reason(syn1_error::from(fatal) as u8);
            assert_eq!(reason, fatal.reason() as u8, "{fatal:?}");
        }
        assert_eq!(syn1_error_reason(255), Reason::Protocol as u8);
    }

    #[test]
    fn a_number_that_is_no_error_has_a_text() {
        // SAFETY: as in `text`.
        let unknown = unsafe { CStr::from_ptr(syn1_error_text(255)) };
        assert_eq!(unknown, c"Unknown: no such error");
    }
}
