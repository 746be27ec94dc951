//! The handshake, from a node's side and what a server needs for its answer.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};
use tungstenite::client::{ClientRequestBuilder, IntoClientRequest as _};
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::http::Uri;

use super::socket::{Socket, Waiters};
use super::{WsLink, config, longest};
use crate::{PATH, PROTOCOL, code_protocol};

/// Why no WebSocket link came of a connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server answered with another HTTP status than 101, which opens a WebSocket.
    Status(u16),
    /// The server did not answer as a SYN1 coordinator does, or the address cannot be asked for.
    Handshake(String),
    /// The connection failed.
    Socket(io::Error),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "it answered HTTP {status} where it should have opened a WebSocket"),
            Self::Handshake(what) => write!(f, "it opened no WebSocket for SYN1: {what}"),
            Self::Socket(error) => error.fmt(f),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Socket(error) = self { error.source() } else { None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsLink<S> {
    /// A node's link over a fresh connection to a coordinator's HTTP port: asks for a WebSocket at [`PATH`] and waits for it.
    ///
    /// `authority` is the coordinator's host and port as in an address, IPv6 hosts in brackets; `code` its join code; see
    /// [`server`](Self::server) for `max_payload`. The connection should send small packets at once (`TCP_NODELAY`), and
    /// have a limit of time from outside.
    ///
    /// # Errors
    /// What answers is no coordinator, or wants another address.
    pub async fn client(
        stream: S,
        authority: &str,
        code: Option<&str>,
        max_payload: u32,
    ) -> Result<Self, ConnectError> {
        let bad = |error: &dyn fmt::Display| ConnectError::Handshake(error.to_string());
        let uri: Uri = format!("ws://{authority}{PATH}").parse().map_err(|error| bad(&error))?;
        let mut request = ClientRequestBuilder::new(uri).with_sub_protocol(PROTOCOL);
        if let Some(code) = code {
            request = request.with_sub_protocol(code_protocol(code));
        }
        let request = request.into_client_request().map_err(failure)?;
        let waiters = Arc::new(Waiters::default());
        let longest = longest(max_payload);
        let begun = ClientHandshake::start(Socket::new(stream, &waiters), request, Some(config(longest)));
        let mut handshake = Some(begun.map_err(failure)?);
        let done = poll_fn(|context| {
            waiters.rx.register(context.waker());
            let Some(begun) = handshake.take() else { return Poll::Pending };
            match begun.handshake() {
                Ok((socket, _)) => Poll::Ready(Ok(socket)),
                Err(HandshakeError::Interrupted(waiting)) => {
                    handshake = Some(waiting);
                    Poll::Pending
                }
                Err(HandshakeError::Failure(error)) => Poll::Ready(Err(failure(error))),
            }
        });
        let socket = done.await?;
        Ok(Self::over(socket, waiters, longest))
    }
}

/// The `Sec-WebSocket-Accept` of a server's answer to a request with this `Sec-WebSocket-Key` (RFC 6455, section 4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    tungstenite::handshake::derive_accept_key(key)
}

fn failure(error: tungstenite::Error) -> ConnectError {
    match error {
        tungstenite::Error::Http(response) => ConnectError::Status(response.status().as_u16()),
        tungstenite::Error::Io(error) => ConnectError::Socket(error),
        error => ConnectError::Handshake(error.to_string()),
    }
}
