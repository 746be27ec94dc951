//! Links over tokio's TCP sockets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use embedded_io_adapters::tokio_1::FromTokio;
use syn1_core::Header;
use syn1_core::limits::MAX_CONTROL;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::{StreamError, StreamLink, StreamRx, StreamTx};

/// A link over a TCP connection. Its futures are `Send`.
pub type TcpLink = StreamLink<FromTokio<OwnedReadHalf>, FromTokio<OwnedWriteHalf>, Vec<u8>>;

/// A link over any of tokio's byte streams: over TCP with TLS, say.
pub type TokioLink<S> = StreamLink<FromTokio<TokioReader<S>>, FromTokio<WriteHalf<S>>, Vec<u8>>;

/// What a [`TokioLink`] reads from. TLS calls an end that was not announced an error; here it is an end, for whether that cuts
/// a frame is seen anyway, and SYN1 has goodbyes of its own.
#[derive(Debug)]
pub struct TokioReader<S>(ReadHalf<S>);

/// The receiving half of a [`TcpLink`].
pub type TcpRx = StreamRx<FromTokio<OwnedReadHalf>, Vec<u8>>;

/// The sending half of a [`TcpLink`]. Dropping it ends the stream for the peer.
pub type TcpTx = StreamTx<FromTokio<OwnedWriteHalf>, Vec<u8>>;

/// Why a [`TcpLink`] fails.
pub type TcpError = StreamError<io::Error>;

/// Connects to a peer; see [`TcpLink::from_stream`] for `max_payload`.
///
/// # Errors
/// The address can't be resolved or nobody answers there.
pub async fn connect(addr: impl ToSocketAddrs, max_payload: u32) -> io::Result<TcpLink> {
    TcpLink::from_stream(TcpStream::connect(addr).await?, max_payload)
}

impl TcpLink {
    /// A link over a fresh connection that sends and receives data payloads of up to `max_payload` bytes. The two buffers
    /// of that size are address space only until frames fill them.
    ///
    /// # Errors
    /// The socket can't be set to send small frames at once (`TCP_NODELAY`).
    pub fn from_stream(stream: TcpStream, max_payload: u32) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let longest = longest(max_payload);
        let (reader, writer) = stream.into_split();
        Ok(Self::new(FromTokio::new(reader), FromTokio::new(writer), vec![0; longest], vec![0; longest]))
    }
}

impl<S: AsyncRead + AsyncWrite> TokioLink<S> {
    /// A link over a fresh stream; see [`TcpLink::from_stream`] for `max_payload`.
    pub fn over(stream: S, max_payload: u32) -> Self {
        let longest = longest(max_payload);
        let (reader, writer) = tokio::io::split(stream);
        Self::new(FromTokio::new(TokioReader(reader)), FromTokio::new(writer), vec![0; longest], vec![0; longest])
    }
}

impl<S: AsyncRead> AsyncRead for TokioReader<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, bytes) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

/// Bytes of the longest frame.
fn longest(max_payload: u32) -> usize {
    Header::control(max_payload.max(MAX_CONTROL)).frame_len()
}

#[cfg(test)]
mod tests {
    use syn1_core::testing::{Harness, LIMITS, StreamHarness, links, streams};
    use syn1_core::{Control, Link, Receive, Transmit, encode_control};
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::net::TcpListener;

    use super::*;

    struct Loopback;

    impl Loopback {
        async fn streams() -> (TcpStream, TcpStream) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
            (here.unwrap(), there.unwrap().0)
        }
    }

    impl Harness for Loopback {
        type Link = TcpLink;

        async fn pair(&mut self) -> (TcpLink, TcpLink) {
            let (a, b) = Self::streams().await;
            let link = |stream| TcpLink::from_stream(stream, LIMITS.max_payload).unwrap();
            (link(a), link(b))
        }
    }

    impl StreamHarness for Loopback {
        type Raw = TcpStream;

        async fn raw(&mut self) -> (TcpStream, TcpLink) {
            let (raw, link) = Self::streams().await;
            (raw, TcpLink::from_stream(link, LIMITS.max_payload).unwrap())
        }

        async fn write(raw: &mut TcpStream, bytes: &[u8]) {
            raw.write_all(bytes).await.unwrap();
        }
    }

    #[tokio::test]
    async fn tcp_links_conform() {
        links(&mut Loopback).await;
        streams(&mut Loopback).await;
    }

    struct InMemory;

    impl Harness for InMemory {
        type Link = TokioLink<DuplexStream>;

        async fn pair(&mut self) -> (Self::Link, Self::Link) {
            let (a, b) = tokio::io::duplex(1 << 12);
            (TokioLink::over(a, LIMITS.max_payload), TokioLink::over(b, LIMITS.max_payload))
        }
    }

    #[tokio::test]
    async fn links_over_any_stream_conform() {
        links(&mut InMemory).await;
    }

    /// A TLS stream whose other end was killed.
    struct Cut;

    impl AsyncRead for Cut {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    impl AsyncWrite for Cut {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_end_that_was_not_announced_is_an_end() {
        let (mut rx, _tx) = TokioLink::over(Cut, 0).split();
        assert!(matches!(rx.recv().await, Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn small_frames_leave_at_once() {
        let (stream, _peer) = Loopback::streams().await;
        let stream = stream.into_std().unwrap();
        stream.set_nodelay(false).unwrap();
        let twin = stream.try_clone().unwrap();
        let _link = TcpLink::from_stream(TcpStream::from_std(stream).unwrap(), 0).unwrap();
        assert!(twin.nodelay().unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn halves_move_to_other_threads() {
        let (a, b) = Loopback.pair().await;
        let ((mut rx, _b_tx), (_a_rx, mut tx)) = (a.split(), b.split());
        let receiver = tokio::spawn(async move { rx.recv().await.map(|frame| frame.header) });
        let sender = tokio::spawn(async move {
            let mut buffer = [0; 64];
            let frame = encode_control(&Control::Ping(1), &mut buffer).unwrap();
            let payload = &frame[Header::LEN..];
            tx.send(&Header::control(payload.len() as u32), payload).await
        });
        sender.await.unwrap().unwrap();
        assert_eq!(receiver.await.unwrap().unwrap(), Header::control(2));
    }

    #[tokio::test]
    async fn a_refused_connection_keeps_the_systems_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = connect(address, 0).await.err();
        assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused));
    }
}
