//! The boundary to transports: whole frames in, whole frames out.
//!
//! A link splits into two halves, so that both ends can send large frames at once: one task receives while another one
//! sends, and neither waits for the other's buffer. There is no `Send` bound here; whoever spawns does so at a concrete
//! type, where the compiler sees for itself.

use core::error::Error;

use crate::{Frame, Header, Limits};

/// A connection to one peer.
pub trait Link {
    /// Why either half fails.
    type Error: LinkError;
    /// The receiving half.
    type Rx: Receive<Error = Self::Error>;
    /// The sending half.
    type Tx: Transmit<Error = Self::Error>;

    /// The two halves. Dropping both closes the connection.
    fn split(self) -> (Self::Rx, Self::Tx);
}

/// The receiving half of a link. It starts with [`Limits::handshake`].
pub trait Receive {
    /// Why receiving fails.
    type Error: LinkError;

    /// The next frame, lent until the next call.
    ///
    /// Cancel-safe: a dropped future loses no byte. Frames to ignore are passed over.
    ///
    /// # Errors
    /// [`LinkErrorKind::Closed`] when the peer ended between frames, `Torn` when inside one, `Protocol` when it sent what
    /// the limits forbid. After an error the half is dead.
    #[allow(async_fn_in_trait)]
    async fn recv(&mut self) -> Result<Frame<'_>, Self::Error>;

    /// What frames must obey from the next one on.
    fn set_limits(&mut self, limits: Limits);
}

/// The sending half of a link.
pub trait Transmit {
    /// Why sending fails.
    type Error: LinkError;

    /// Sends one frame.
    ///
    /// Not cancel-safe: dropping the future in the middle of a frame leaves the link dead.
    ///
    /// # Errors
    /// The connection is gone, an earlier send was dropped, or `payload` is not as long as `header` says.
    #[allow(async_fn_in_trait)]
    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), Self::Error>;
}

/// What callers need to know of a link's error.
pub trait LinkError: Error {
    /// What went wrong, as far as it changes what to do next.
    fn kind(&self) -> LinkErrorKind;

    /// The major version byte of a peer that speaks another one.
    fn version(&self) -> Option<u8>;
}

/// What to make of a link's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LinkErrorKind {
    /// The peer is gone, between two frames.
    Closed,
    /// The connection ended inside a frame.
    Torn,
    /// The peer sent what it may not: reconnecting will not help.
    Protocol,
    /// Anything else, such as an error of the operating system.
    Other,
}
