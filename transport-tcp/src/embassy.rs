//! Links over embassy-net's TCP sockets, for microcontrollers: no allocator, buffers of yours.

use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;

use embassy_net::tcp::{Error, TcpSocket};
use embedded_io_async::{ErrorType, Read, Write};

use crate::{StreamError, StreamLink, StreamRx, StreamTx};

/// A connected socket that a link runs over.
///
/// The socket outlives the link, because TCP does: what was sent last is still on its way when the link's halves are
/// dropped. [`close`](Self::close) waits for it.
///
/// ```
/// use embassy_net::tcp::TcpSocket;
/// use syn1_core::{Link, LinkErrorKind, LinkError, Receive};
/// use syn1_transport_tcp::EmbassySocket;
///
/// /// Counts what a peer sends, with buffers for frames of up to 1 KiB.
/// async fn frames(socket: TcpSocket<'_>) -> usize {
///     let (mut receive, mut send) = ([0; 1048], [0; 1048]);
///     let socket = EmbassySocket::new(socket);
///     let (mut rx, tx) = socket.link(&mut receive[..], &mut send[..]).split();
///     let mut count = 0;
///     while rx.recv().await.is_ok() {
///         count += 1;
///     }
///     drop((rx, tx));
///     socket.close().await;
///     count
/// }
/// ```
pub struct EmbassySocket<'a> {
    socket: RefCell<TcpSocket<'a>>,
    /// Halves that were dropped.
    dropped: Cell<u8>,
}

/// A link over an [`EmbassySocket`].
pub type EmbassyLink<'s, 'a, B> = StreamLink<EmbassyReader<'s, 'a>, EmbassyWriter<'s, 'a>, B>;

/// The receiving half of an [`EmbassyLink`].
pub type EmbassyRx<'s, 'a, B> = StreamRx<EmbassyReader<'s, 'a>, B>;

/// The sending half of an [`EmbassyLink`]. Dropping it ends the stream for the peer.
pub type EmbassyTx<'s, 'a, B> = StreamTx<EmbassyWriter<'s, 'a>, B>;

/// Why an [`EmbassyLink`] fails.
pub type EmbassyError = StreamError<Error>;

/// Reads from an [`EmbassySocket`].
pub struct EmbassyReader<'s, 'a>(&'s EmbassySocket<'a>);

/// Writes to an [`EmbassySocket`].
pub struct EmbassyWriter<'s, 'a>(&'s EmbassySocket<'a>);

impl<'a> EmbassySocket<'a> {
    /// A connected socket, which from now on sends small frames at once (Nagle's algorithm is off).
    pub fn new(mut socket: TcpSocket<'a>) -> Self {
        socket.set_nagle_enabled(false);
        Self { socket: RefCell::new(socket), dropped: Cell::new(0) }
    }

    /// The link, at the start of both streams; a socket has one. Each buffer must hold the longest frame of its direction, a
    /// header and its payload.
    pub fn link<B: AsRef<[u8]> + AsMut<[u8]>>(&self, receive: B, send: B) -> EmbassyLink<'_, 'a, B> {
        StreamLink::new(EmbassyReader(self), EmbassyWriter(self), receive, send)
    }

    /// Whether both halves of the link are gone.
    pub fn is_left(&self) -> bool {
        self.dropped.get() >= 2
    }

    /// Ends the stream and waits until the peer has all that was sent, or is gone. Then whatever the peer still sends is
    /// refused, as by any closed socket. Bound it by a timeout: a peer that has lost its power never answers.
    pub async fn close(self) {
        let mut socket = self.socket.into_inner();
        socket.close();
        // It fails where there is nothing left to wait for.
        let _ = socket.flush().await;
    }
}

impl Drop for EmbassyReader<'_, '_> {
    fn drop(&mut self) {
        self.0.dropped.set(self.0.dropped.get() + 1);
    }
}

impl Drop for EmbassyWriter<'_, '_> {
    fn drop(&mut self) {
        self.0.dropped.set(self.0.dropped.get() + 1);
        self.0.socket.borrow_mut().close();
    }
}

impl ErrorType for EmbassyReader<'_, '_> {
    type Error = Error;
}

impl ErrorType for EmbassyWriter<'_, '_> {
    type Error = Error;
}

impl Read for EmbassyReader<'_, '_> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        // The socket's own future keeps nothing between two polls, so each poll may have a new one; between them the other
        // half has the socket.
        poll_fn(|cx| pin!(self.0.socket.borrow_mut().read(out)).poll(cx)).await
    }
}

impl Write for EmbassyWriter<'_, '_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        poll_fn(|cx| pin!(self.0.socket.borrow_mut().write(bytes)).poll(cx)).await
    }

    /// Does nothing: TCP sends without being asked. The socket's own `flush` waits until the peer has acknowledged, which
    /// many do only after 40 ms, and a link flushes behind every frame.
    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
