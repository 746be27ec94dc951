//! What a session is given, and what it gives.

use crate::control::{Bye, Control, Role};
use crate::{CodecSet, Flags, Frame};

/// What this end is and can receive.
///
/// ```
/// use syn1_core::{CodecSet, Flags, Role, SessionConfig};
///
/// let config = SessionConfig {
///     role: Role::Node,
///     agent: "example 1.0",
///     codecs: CodecSet::ACTIVATIONS,
///     flags: Flags::DELTA,
///     max_payload: 1 << 20,
///     max_rows: 32,
///     credit: 2,
///     model: [0; 32],
///     prove: false,
/// };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SessionConfig {
    /// What this end is.
    pub role: Role,
    /// Program and version, for the peer's logs.
    pub agent: &'static str,
    /// The codecs it can receive; F32 must be among them, because senders fall back to it.
    pub codecs: CodecSet,
    /// The negotiable flags it can receive.
    pub flags: Flags,
    /// The longest data payload it can receive, in bytes.
    pub max_payload: u32,
    /// The most rows of a data frame it can receive.
    pub max_rows: u16,
    /// A node's: the data frames that it holds at a time, those at work among them; at least 1. A coordinator's means
    /// nothing.
    pub credit: u16,
    /// SHA-256 of the manifest of the only model that it wants; zeros: any.
    pub model: [u8; 32],
    /// Whether a peer must prove that it holds a key. Which keys are welcome is the caller's to say: see [`Peer`].
    pub prove: bool,
}

/// What both ends can do.
///
/// ```
/// use syn1_core::{Codec, Form, Negotiated};
///
/// /// Delta where both ends know it.
/// fn form(agreed: &Negotiated) -> Form {
///     let wanted = Form::from_name("q8+delta").expect("a form that exists");
///     if agreed.flags.contains(wanted.flags()) { wanted } else { Form::plain(Codec::Q8) }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Negotiated {
    /// The protocol minor.
    pub minor: u8,
    /// Flags that frames may carry beside `quantized`.
    pub flags: Flags,
    /// Codecs that payloads may use.
    pub codecs: CodecSet,
    /// Longest data payload, in bytes.
    pub max_payload: u32,
    /// Most rows of a data frame.
    pub max_rows: u16,
    /// Data frames from coordinator to node that may be on their way or at work at a time.
    pub credit: u16,
}

/// Who the peer is, by its Hello.
///
/// ```
/// /// Whether a peer is one of those that this end knows.
/// fn welcome(peer: &syn1_core::Peer, known: &[[u8; 32]]) -> bool {
///     peer.proven && known.contains(&peer.key)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Peer {
    /// Its key; zeros: none.
    pub key: [u8; 32],
    /// Whether it has proven to hold that key, and this end could check it.
    pub proven: bool,
    /// SHA-256 of the manifest of the only model that it wants; zeros: any.
    pub model: [u8; 32],
}

/// What a frame meant.
///
/// ```
/// use syn1_core::Event;
///
/// fn log(event: &Event<'_>) -> String {
///     match event {
///         Event::Rtt { ms } => format!("{ms} ms there and back"),
///         Event::Bye(bye) => format!("closed: {}", bye.text),
///         other => format!("{other:?}"),
///     }
/// }
/// assert_eq!(log(&Event::Rtt { ms: 7 }), "7 ms there and back");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event<'f> {
    /// Nothing for the caller.
    Nothing,
    /// The peer's Hello is in, and its proof if it named a key: the link is open. Send what
    /// [`poll_transmit`](crate::Session::poll_transmit) gives before anything else, because this end's own proof may be in it.
    Established(Negotiated),
    /// A message for the caller.
    Control(Control<'f>),
    /// A data frame for the caller. A node calls [`done`](crate::Session::done) when it has finished with it.
    Data(Frame<'f>),
    /// The node takes more data frames: [`take_credit`](crate::Session::take_credit) may be asked again.
    Granted,
    /// The peer answered a ping.
    Rtt {
        /// Milliseconds from making the ping to its answer.
        ms: u64,
    },
    /// The peer closes the link.
    Bye(Bye<'f>),
}
