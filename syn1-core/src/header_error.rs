//! Why 24 bytes are not an acceptable header.

use core::fmt;

use crate::header::MAJOR;
use crate::{Codec, Flags, Kind};

/// The first rule that a header breaks.
///
/// ```
/// use syn1_core::header::parse;
/// use syn1_core::{Header, HeaderError, Limits};
///
/// let error = parse(&Header::control(5000).emit(), &Limits::handshake()).unwrap_err();
/// assert_eq!(error, HeaderError::TooLong { payload_len: 5000, limit: 1024 });
/// println!("{error}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum HeaderError {
    /// The first bytes are not SYN1's: the peer speaks another protocol.
    Magic([u8; 4]),
    /// The peer speaks another major version; the byte is its fourth magic byte.
    Version(u8),
    /// A kind that this version does not know and may not pass over.
    Kind(u8),
    /// Bits of the flag byte that no version defines yet are set.
    ReservedFlags(u8),
    /// A codec that this version does not know.
    Codec(u8),
    /// Flags that the two ends did not agree on in their Hellos.
    NotNegotiated(Flags),
    /// Flags that mean nothing on frames of this kind.
    FlagsOfKind {
        /// The frame's kind.
        kind: Kind,
        /// The flags without meaning.
        flags: Flags,
    },
    /// The quantized flag says something else than the codec.
    Quantized {
        /// The frame's flags.
        flags: Flags,
        /// The frame's codec.
        codec: Codec,
    },
    /// Frames of this kind do not travel in this codec.
    CodecOfKind {
        /// The frame's kind.
        kind: Kind,
        /// The frame's codec.
        codec: Codec,
    },
    /// Flags that the rows of this codec can't have: delta is for Q8 and Q4, compressed for Q8.
    FlagsOfCodec {
        /// The flags, of which at least one is not the codec's.
        flags: Flags,
        /// The frame's codec.
        codec: Codec,
    },
    /// A control frame with position, request, epoch, rows or cols.
    ControlFields,
    /// A data frame before a model is known.
    NoModel(Kind),
    /// No rows, or more than agreed.
    Rows {
        /// Rows announced.
        rows: u16,
        /// Most rows accepted.
        limit: u16,
    },
    /// The last row's position passes `u32`.
    Position {
        /// Position of the first row.
        position: u32,
        /// Rows announced.
        rows: u16,
    },
    /// Columns that do not fit the model: its width for activations, its vocabulary for outputs, 1 for tokens.
    Shape {
        /// The frame's kind.
        kind: Kind,
        /// Rows announced.
        rows: u16,
        /// Columns announced.
        cols: u16,
    },
    /// The payload's length is not that of its shape, or out of the bounds that its shape gives a compressed one.
    Length {
        /// Bytes announced.
        payload_len: u32,
        /// Bytes that the shape needs, or the bound that was passed.
        len: u32,
    },
    /// The payload is longer than agreed.
    TooLong {
        /// Bytes announced.
        payload_len: u32,
        /// Most bytes accepted.
        limit: u32,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic(magic) => {
                write!(
                    f,
                    "the first bytes are \"{}\", not \"SYN1\": the peer speaks another protocol",
                    magic.escape_ascii()
                )
            }
            Self::Version(major) => write!(
                f,
                "the peer speaks SYN{} and we speak SYN{}: update the older of the two",
                [major].escape_ascii(),
                [MAJOR].escape_ascii()
            ),
            Self::Kind(kind) => write!(f, "frame kind {kind} is unknown and not ignorable: update this end"),
            Self::ReservedFlags(bits) => write!(f, "flags {bits:#04x} have reserved bits set"),
            Self::Codec(codec) => write!(f, "codec {codec} is unknown: update this end"),
            Self::NotNegotiated(flags) => {
                write!(
                    f,
                    "the frame is marked {flags}, which was not negotiated: both ends must offer it in their Hello"
                )
            }
            Self::FlagsOfKind { kind, flags } => write!(f, "{kind} frames can't be marked {flags}"),
            Self::Quantized { flags, codec } => write!(f, "flags {flags} contradict codec {codec} about quantization"),
            Self::CodecOfKind { kind, codec } => write!(f, "{kind} frames do not travel in codec {codec}"),
            Self::FlagsOfCodec { flags, codec } => write!(f, "rows of codec {codec} can't be {flags}"),
            Self::ControlFields => f.write_str("a control frame's epoch, position, request, rows and cols must be 0"),
            Self::NoModel(kind) => write!(f, "{kind} frame before the model is known: Hello and Model come first"),
            Self::Rows { rows, limit } => write!(f, "{rows} rows where 1 to {limit} were agreed"),
            Self::Position { position, rows } => {
                write!(f, "{rows} rows from position {position} pass the last position")
            }
            Self::Shape { kind, rows, cols } => write!(f, "{rows} x {cols} does not fit the model for {kind} frames"),
            Self::Length { payload_len, len } => {
                write!(f, "payload of {payload_len} bytes where its shape needs {len}")
            }
            Self::TooLong { payload_len, limit } => {
                write!(f, "payload of {payload_len} bytes where {limit} were agreed")
            }
        }
    }
}

impl core::error::Error for HeaderError {}
