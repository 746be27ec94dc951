//! The boundary to transports: whole frames in, whole frames out.
//!
//! A link splits into two halves, so that both ends can send large frames at once: one task receives while another one
//! sends, and neither waits for the other's buffer. There is no `Send` bound here; whoever spawns does so at a concrete
//! type, where the compiler sees for itself.

use core::error::Error;

use crate::{Frame, Header, Limits};

/// A connection to one peer.
///
/// ```
/// use syn1_core::{Link, Receive, Transmit};
///
/// /// Sends every frame back.
/// async fn echo<L: Link>(link: L) -> Result<(), L::Error> {
///     let (mut rx, mut tx) = link.split();
///     loop {
///         let frame = rx.recv().await?;
///         tx.send(&frame.header, frame.payload).await?;
///     }
/// }
/// ```
pub trait Link {
    /// Why either half fails.
    type Error: LinkError;
    /// The receiving half.
    type Rx: Receive<Error = Self::Error>;
    /// The sending half.
    type Tx: Transmit<Error = Self::Error>;

    /// The two halves. Dropping both closes the connection.
    ///
    /// ```
    /// use syn1_core::{Limits, Link, Receive};
    ///
    /// fn ready<L: Link>(link: L, limits: Limits) -> (L::Rx, L::Tx) {
    ///     let (mut rx, tx) = link.split();
    ///     rx.set_limits(limits);
    ///     (rx, tx)
    /// }
    /// ```
    fn split(self) -> (Self::Rx, Self::Tx);
}

/// The receiving half of a link. It starts with [`Limits::handshake`].
///
/// ```
/// use syn1_core::{Control, Kind, Receive};
///
/// /// Counts the pings until the link ends.
/// async fn pings(mut rx: impl Receive) -> usize {
///     let mut count = 0;
///     while let Ok(frame) = rx.recv().await {
///         let control = frame.header.kind == Kind::Control;
///         count += usize::from(control && matches!(Control::decode(frame.payload), Ok(Control::Ping(_))));
///     }
///     count
/// }
/// ```
pub trait Receive {
    /// Why receiving fails.
    type Error: LinkError;

    /// The next frame, lent until the next call.
    ///
    /// Cancel-safe: a dropped future loses no byte. Frames to ignore are passed over.
    ///
    /// ```
    /// use syn1_core::Receive;
    ///
    /// async fn first_position<R: Receive>(rx: &mut R) -> Result<u32, R::Error> {
    ///     Ok(rx.recv().await?.header.position)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`LinkErrorKind::Closed`] when the peer ended between frames, `Torn` when inside one, `Protocol` when it sent what
    /// the limits forbid. After an error the half is dead.
    #[allow(async_fn_in_trait)]
    async fn recv(&mut self) -> Result<Frame<'_>, Self::Error>;

    /// What frames must obey from the next one on.
    ///
    /// ```
    /// use syn1_core::{Receive, Session};
    ///
    /// fn keep_in_step(rx: &mut impl Receive, session: &Session) {
    ///     rx.set_limits(session.limits());
    /// }
    /// ```
    fn set_limits(&mut self, limits: Limits);
}

/// The sending half of a link.
///
/// ```
/// use syn1_core::{Header, Transmit};
///
/// async fn acknowledge<T: Transmit>(tx: &mut T, request: u32, position: u32) -> Result<(), T::Error> {
///     tx.send(&Header::acknowledge(request, 0, position), &[]).await
/// }
/// ```
pub trait Transmit {
    /// Why sending fails.
    type Error: LinkError;

    /// Sends one frame.
    ///
    /// Not cancel-safe: dropping the future in the middle of a frame leaves the link dead.
    ///
    /// ```
    /// use syn1_core::codec::encode_ids;
    /// use syn1_core::{Header, Transmit};
    ///
    /// async fn prompt<T: Transmit>(tx: &mut T, request: u32, tokens: [u32; 3]) -> Result<(), T::Error> {
    ///     let mut payload = [0; 12];
    ///     encode_ids(&tokens, &mut payload);
    ///     tx.send(&Header::tokens(request, 0, 0, 3), &payload).await
    /// }
    /// ```
    ///
    /// # Errors
    /// The connection is gone, an earlier send was dropped, or `payload` is not as long as `header` says.
    #[allow(async_fn_in_trait)]
    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), Self::Error>;

    /// Sends frames in their order, as [`send`](Self::send) does one by one. A link over a byte stream puts several into one
    /// write.
    ///
    /// ```
    /// use syn1_core::{Header, Transmit};
    ///
    /// async fn relay<T: Transmit>(tx: &mut T, frames: &[(Header, Vec<u8>)]) -> Result<(), T::Error> {
    ///     tx.send_all(frames).await
    /// }
    /// ```
    ///
    /// # Errors
    /// As for [`send`](Self::send), of the first frame that fails; those in front of it were sent.
    #[allow(async_fn_in_trait)]
    async fn send_all<P: AsRef<[u8]>>(&mut self, frames: &[(Header, P)]) -> Result<(), Self::Error> {
        for (header, payload) in frames {
            self.send(header, payload.as_ref()).await?;
        }
        Ok(())
    }
}

/// What callers need to know of a link's error.
///
/// ```
/// use syn1_core::{LinkError, LinkErrorKind};
///
/// fn should_reconnect(error: &impl LinkError) -> bool {
///     error.kind() != LinkErrorKind::Protocol
/// }
/// ```
pub trait LinkError: Error {
    /// What went wrong, as far as it changes what to do next.
    ///
    /// ```
    /// use syn1_core::{LinkError, LinkErrorKind};
    ///
    /// fn is_goodbye(error: &impl LinkError) -> bool {
    ///     error.kind() == LinkErrorKind::Closed
    /// }
    /// ```
    fn kind(&self) -> LinkErrorKind;

    /// The major version byte of a peer that speaks another one.
    ///
    /// ```
    /// fn advice(error: &impl syn1_core::LinkError) -> String {
    ///     match error.version() {
    ///         Some(major) => format!("the peer speaks SYN{}", char::from(major)),
    ///         None => error.to_string(),
    ///     }
    /// }
    /// ```
    fn version(&self) -> Option<u8>;
}

/// What to make of a link's error.
///
/// ```
/// use syn1_core::LinkErrorKind;
///
/// let lost = |kind| matches!(kind, LinkErrorKind::Torn | LinkErrorKind::Other);
/// assert!(lost(LinkErrorKind::Torn) && !lost(LinkErrorKind::Closed));
/// ```
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
