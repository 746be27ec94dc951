//! Why a stream link fails.

use core::error::Error;
use core::fmt;

use embedded_io_async::ErrorKind;
use syn1_core::{DecodeError, EncodeError, HeaderError, LinkError, LinkErrorKind};

/// Why sending or receiving over a byte stream failed; `E` is the stream's own error.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError<E> {
    /// The peer ended the stream between two frames.
    Closed,
    /// An earlier send was dropped or failed in the middle of a frame, so that nothing can follow it.
    Broken,
    /// The stream failed.
    Io(E),
    /// The peer sent what is no acceptable frame.
    Decode(DecodeError),
    /// The frame to send is none, or does not fit the send buffer. The link still works.
    Encode(EncodeError),
}

impl<E: fmt::Display> fmt::Display for StreamError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer has closed the connection"),
            Self::Broken => f.write_str("the connection is unusable: an earlier send stopped inside a frame"),
            Self::Io(error) => error.fmt(f),
            Self::Decode(error) => error.fmt(f),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl<E: Error + 'static> Error for StreamError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Closed | Self::Broken => None,
            Self::Io(error) => error.source(),
            Self::Decode(error) => error.source(),
            Self::Encode(error) => error.source(),
        }
    }
}

impl<E: embedded_io_async::Error + 'static> LinkError for StreamError<E> {
    fn kind(&self) -> LinkErrorKind {
        match self {
            Self::Closed => LinkErrorKind::Closed,
            Self::Io(error) => match error.kind() {
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::NotConnected
                | ErrorKind::WriteZero => LinkErrorKind::Closed,
                _ => LinkErrorKind::Other,
            },
            Self::Decode(DecodeError::Torn { .. }) => LinkErrorKind::Torn,
            Self::Decode(DecodeError::Header(_)) => LinkErrorKind::Protocol,
            Self::Broken | Self::Decode(_) | Self::Encode(_) => LinkErrorKind::Other,
        }
    }

    fn version(&self) -> Option<u8> {
        match self {
            Self::Decode(DecodeError::Header(HeaderError::Version(major))) => Some(*major),
            _ => None,
        }
    }
}

impl<E> From<DecodeError> for StreamError<E> {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl<E> From<EncodeError> for StreamError<E> {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}
