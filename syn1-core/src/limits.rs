//! Every number that bounds what a peer may send, each with its reason.

use crate::Flags;

/// What a receiver accepts at this moment. It only ever holds numbers that *we* chose or that both ends agreed on.
///
/// ```
/// use syn1_core::{DecodeError, Frame, Header, HeaderError, Kind, Limits};
///
/// // Before both ends have greeted each other, and before a model is known, no data frame is taken.
/// let frame = Header::acknowledge(1, 0, 8).emit();
/// let refused = Frame::from_message(&frame, &Limits::handshake()).unwrap_err();
/// assert_eq!(refused, DecodeError::Header(HeaderError::NoModel(Kind::Output)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Limits {
    /// Longest payload of a data frame, in bytes. Control frames are bounded by [`MAX_CONTROL`] instead.
    pub max_payload: u32,
    /// Most rows of a data frame.
    pub max_rows: u16,
    /// Elements of an activation row (the model's width); 0 while no model is known: no data frame is acceptable.
    pub width: u16,
    /// Entries of the vocabulary; 0 while no model is known.
    pub vocab: u32,
    /// The negotiated flags.
    pub flags: Flags,
}

impl Limits {
    /// What is acceptable before both Hellos are in: control frames only.
    ///
    /// ```
    /// let limits = syn1_core::Limits::handshake();
    /// assert_eq!((limits.max_rows, limits.width, limits.vocab), (0, 0, 0));
    /// ```
    #[must_use]
    pub const fn handshake() -> Self {
        Self { max_payload: MAX_CONTROL, max_rows: 0, width: 0, vocab: 0, flags: Flags::NONE }
    }
}

/// Longest control payload in bytes: the largest message (two texts of [`MAX_TEXT`] and some integers) stays below 600,
/// and a microcontroller can hold the frame in a 2 KiB buffer.
pub const MAX_CONTROL: u32 = 1024;

/// Longest text inside a control message, in bytes: a line for a person, never a document.
pub const MAX_TEXT: usize = 256;

/// The protocol minor versions that this crate speaks, lowest and highest.
pub const MINORS: (u8, u8) = (0, 0);

/// Milliseconds from the link's opening to the peer's Hello, and to its Prove if it named a key: a connection that says
/// nothing, or not who it is, must not hold a slot.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds between pings: short enough that a dead route is known before a person gives up waiting.
pub const PING_INTERVAL_MS: u64 = 5_000;

/// Milliseconds of silence after which a link is dead: three pings, so that one lost to a stall is no verdict.
pub const SILENCE_TIMEOUT_MS: u64 = 15_000;

const _: () = assert!(SILENCE_TIMEOUT_MS >= 2 * PING_INTERVAL_MS);
const _: () = assert!(MAX_CONTROL as usize >= 2 * MAX_TEXT + 128);
