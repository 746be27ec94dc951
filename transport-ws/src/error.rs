//! Why a WebSocket link fails.

use core::error::Error;
use core::fmt;

use syn1_core::{DecodeError, EncodeError, HeaderError, LinkError, LinkErrorKind};

/// Why sending or receiving over a WebSocket failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsError {
    /// The peer is gone, or has closed the connection; its reason if it gave one.
    Closed(String),
    /// An earlier send was dropped in the middle of a frame, so that nothing can follow it.
    Broken,
    /// The peer sent a text message.
    Text,
    /// The peer began a message that is longer than any frame that the limits allow. Nothing of it was kept.
    TooLong {
        /// Bytes of the message as far as it was announced.
        bytes: usize,
        /// Bytes of the longest frame that it may send.
        limit: usize,
    },
    /// The peer broke the rules of WebSocket.
    Protocol(String),
    /// The peer sent a binary message that is no acceptable frame.
    Decode(DecodeError),
    /// The frame to send is none, or is longer than this end may send. The link still works.
    Encode(EncodeError),
    /// The connection failed.
    Socket(String),
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) if reason.is_empty() => f.write_str("the peer has closed the connection"),
            Self::Closed(reason) => write!(f, "the peer has closed the connection: {reason}"),
            Self::Broken => f.write_str("the connection is unusable: an earlier send stopped inside a frame"),
            Self::Text => f.write_str("a text message came; SYN1 is spoken in binary messages"),
            Self::TooLong { bytes, limit } => {
                write!(f, "a message of {bytes} bytes came where a frame has {limit} at most")
            }
            Self::Protocol(what) => write!(f, "the peer broke the rules of WebSocket: {what}"),
            Self::Decode(error) => error.fmt(f),
            Self::Encode(error) => error.fmt(f),
            Self::Socket(what) => write!(f, "the connection failed: {what}"),
        }
    }
}

impl Error for WsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Decode(error) => error.source(),
            Self::Encode(error) => error.source(),
            _ => None,
        }
    }
}

impl LinkError for WsError {
    fn kind(&self) -> LinkErrorKind {
        match self {
            Self::Closed(_) => LinkErrorKind::Closed,
            // A message that holds no whole frame will hold none the next time either: it was not cut by the network.
            Self::Text | Self::TooLong { .. } | Self::Protocol(_) | Self::Decode(_) => LinkErrorKind::Protocol,
            Self::Broken | Self::Encode(_) | Self::Socket(_) => LinkErrorKind::Other,
        }
    }

    fn version(&self) -> Option<u8> {
        match self {
            Self::Decode(DecodeError::Header(HeaderError::Version(major))) => Some(*major),
            _ => None,
        }
    }
}

impl From<DecodeError> for WsError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<EncodeError> for WsError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}
