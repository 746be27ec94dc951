//! Links over tokio's streams.
//!
//! Framing, masking, fragments, pings and close frames are tungstenite's; this module gives it a socket that never blocks,
//! the session's limits as they change, and two halves that wait independently.

mod connect;
mod socket;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{Frame, Header, Limits, Link, Receive, Transmit, encode_frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocket, WebSocketConfig};
use tungstenite::{Bytes, Message};

use crate::WsError;
use socket::{Socket, Waiters};

pub use connect::{ConnectError, accept_key};

/// A link over a WebSocket on the byte stream `S`: a TCP or TLS stream, or what an HTTP server gives after an upgrade. Its
/// futures are `Send` where `S` is.
#[derive(Debug)]
pub struct WsLink<S: AsyncRead + AsyncWrite + Unpin> {
    rx: WsRx<S>,
    tx: WsTx<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsLink<S> {
    /// A coordinator's link over a connection that has been upgraded: the request was answered with
    /// [`accept_key`](crate::accept_key) and [`PROTOCOL`](crate::PROTOCOL). It sends and receives data payloads of up to
    /// `max_payload` bytes.
    pub fn server(stream: S, max_payload: u32) -> Self {
        let (waiters, longest) = (Arc::new(Waiters::default()), longest(max_payload));
        let socket = WebSocket::from_raw_socket(Socket::new(stream, &waiters), Role::Server, Some(config(longest)));
        Self::over(socket, waiters, longest)
    }

    fn over(socket: WebSocket<Socket<S>>, waiters: Arc<Waiters>, longest: usize) -> Self {
        let shared = Arc::new(Shared { socket: Mutex::new((socket, Parting::default())), waiters });
        let rx =
            WsRx { shared: shared.clone(), limits: Limits::handshake(), longest, message: Bytes::new(), failed: None };
        Self { rx, tx: WsTx { shared, longest, broken: false } }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link for WsLink<S> {
    type Error = WsError;
    type Rx = WsRx<S>;
    type Tx = WsTx<S>;

    fn split(self) -> (Self::Rx, Self::Tx) {
        (self.rx, self.tx)
    }
}

/// What the halves share.
struct Shared<S> {
    socket: Mutex<(WebSocket<Socket<S>>, Parting)>,
    waiters: Arc<Waiters>,
}

/// What the close frame will say.
type Parting = Option<(CloseCode, String)>;

impl<S: AsyncRead + AsyncWrite + Unpin> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, (WebSocket<Socket<S>>, Parting)> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the socket, or waits until the half of `waiter` is woken to try again.
    fn poll<T>(
        &self,
        waiter: &AtomicWaker,
        context: &Context<'_>,
        act: impl FnOnce(&mut WebSocket<Socket<S>>) -> tungstenite::Result<T>,
    ) -> Poll<Result<T, WsError>> {
        waiter.register(context.waker());
        match act(&mut self.lock().0) {
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result.map_err(failure)),
        }
    }
}

impl<S> std::fmt::Debug for Shared<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The receiving half of a [`WsLink`].
#[derive(Debug)]
pub struct WsRx<S: AsyncRead + AsyncWrite + Unpin> {
    shared: Arc<Shared<S>>,
    limits: Limits,
    /// Bytes of the longest frame that this end was made for.
    longest: usize,
    /// What came last.
    message: Bytes,
    failed: Option<WsError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsRx<S> {
    /// The next binary message, if the peer sends nothing else.
    async fn message(&mut self) -> Result<Bytes, WsError> {
        loop {
            let shared = &self.shared;
            let message = poll_fn(|context| shared.poll(&shared.waiters.rx, context, WebSocket::read)).await?;
            match message {
                Message::Binary(bytes) => return Ok(bytes),
                Message::Text(_) => return Err(WsError::Text),
                Message::Close(frame) => {
                    // The answer to a close is not worth waiting for.
                    let _ = shared.lock().0.flush();
                    return Err(WsError::Closed(frame.map_or_else(String::new, |frame| frame.reason.to_string())));
                }
                // tungstenite has an answer to a ping ready, and the next call sends it.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Takes messages in until one is a frame, whose header this is; the message is kept.
    async fn frame(&mut self) -> Result<Header, WsError> {
        loop {
            let message = self.message().await?;
            if let Some(Frame { header, .. }) = Frame::from_message(&message, &self.limits)? {
                self.message = message;
                return Ok(header);
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Receive for WsRx<S> {
    type Error = WsError;

    async fn recv(&mut self) -> Result<Frame<'_>, WsError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.frame().await {
            Ok(header) => Ok(Frame { header, payload: self.message.get(Header::LEN..).unwrap_or_default() }),
            Err(error) => {
                self.shared.lock().1 = parting(&error);
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        let most = longest(limits.max_payload).min(self.longest);
        self.shared.lock().0.set_config(|config| {
            (config.max_message_size, config.max_frame_size) = (Some(most), Some(most));
        });
    }
}

/// The sending half of a [`WsLink`]. Dropping it closes the WebSocket, with the reason if the peer has broken a rule.
#[derive(Debug)]
pub struct WsTx<S: AsyncRead + AsyncWrite + Unpin> {
    shared: Arc<Shared<S>>,
    longest: usize,
    /// Whether a frame has begun and not ended.
    broken: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transmit for WsTx<S> {
    type Error = WsError;

    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), WsError> {
        // SPEC 7.6
        if self.broken {
            return Err(WsError::Broken);
        }
        let mut frame = vec![0; header.frame_len().min(self.longest)];
        let len = encode_frame(header, payload, &mut frame)?.len();
        frame.truncate(len);
        self.broken = true;
        let mut message = Some(Message::Binary(frame.into()));
        let shared = &self.shared;
        let sent = poll_fn(|context| {
            shared.poll(&shared.waiters.tx, context, |socket| {
                if message.is_some() {
                    // Answers to pings may wait in the buffer, which has room for one frame beside them.
                    socket.flush()?;
                }
                if let Some(message) = message.take() {
                    socket.write(message)?;
                }
                socket.flush()
            })
        });
        sent.await?;
        self.broken = false;
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drop for WsTx<S> {
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        let (socket, parting) = &mut *self.shared.lock();
        let (code, reason) = parting.take().unwrap_or((CloseCode::Normal, String::new()));
        // A peer that takes no bytes is not waited for: it hears of the end by the socket's.
        let _ = socket.close(Some(CloseFrame { code, reason: reason.into() }));
    }
}

/// What a peer that broke a rule is told in the close frame.
fn parting(error: &WsError) -> Parting {
    let code = match error {
        WsError::Text => CloseCode::Unsupported,
        WsError::TooLong { .. } => CloseCode::Size,
        WsError::Protocol(_) => CloseCode::Protocol,
        WsError::Decode(_) => CloseCode::Policy,
        WsError::Closed(_) | WsError::Broken | WsError::Encode(_) | WsError::Socket(_) => return None,
    };
    let reason = error.to_string();
    let fits = reason.char_indices().take_while(|(at, char)| at + char.len_utf8() <= CLOSE_REASON);
    Some((code, fits.map(|(_, char)| char).collect()))
}

fn failure(error: tungstenite::Error) -> WsError {
    use io::ErrorKind as Kind;
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing) => {
            WsError::Closed(String::new())
        }
        Error::Protocol(error) => WsError::Protocol(error.to_string()),
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            WsError::TooLong { bytes: size, limit: max_size }
        }
        // Only text messages are looked into.
        Error::Utf8(_) => WsError::Text,
        Error::Io(error) => match error.kind() {
            // A TLS stream calls an end without a goodbye unexpected.
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::UnexpectedEof => WsError::Closed(String::new()),
            _ => WsError::Socket(error.to_string()),
        },
        error => WsError::Socket(error.to_string()),
    }
}

/// Bytes of the longest frame with data payloads of up to `max_payload` bytes.
fn longest(max_payload: u32) -> usize {
    Header::control(max_payload.max(MAX_CONTROL)).frame_len()
}

/// What a WebSocket begins with: nothing but control messages may come, and one frame of `longest` bytes may wait to go.
fn config(longest_frame: usize) -> WebSocketConfig {
    let first = longest(Limits::handshake().max_payload);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(longest_frame + FRAME_HEADER + ANSWERS)
        .max_message_size(Some(first))
        .max_frame_size(Some(first))
}

/// Bytes that a WebSocket reads at once: some frames of one row, and little enough for a thousand links.
const READ_BUFFER: usize = 16 << 10;

/// Bytes of the longest header of a WebSocket frame.
const FRAME_HEADER: usize = 14;

/// Bytes of answers to pings, and of a close frame, that may wait beside a frame: two of the longest (RFC 6455, section 5.5).
const ANSWERS: usize = 2 * (FRAME_HEADER + 125);

/// Bytes of a close frame's reason: what a control frame has beside the code.
const CLOSE_REASON: usize = 123;
