//! An async stream as tungstenite wants it.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whoever waits for the socket. A half that receives may have to write (an answer to a ping) and the socket remembers only
/// one waker a direction, so whatever happens at the socket wakes both halves.
#[derive(Default)]
pub(super) struct Waiters {
    pub(super) rx: AtomicWaker,
    pub(super) tx: AtomicWaker,
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.rx.wake();
        self.tx.wake();
    }
}

/// A stream whose reads and writes say `WouldBlock` where they would wait, and wake the waiters when it is time.
#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: S,
    waker: Waker,
}

impl<S> Socket<S> {
    pub(super) fn new(stream: S, waiters: &Arc<Waiters>) -> Self {
        Self { stream, waker: Waker::from(waiters.clone()) }
    }
}

impl<S: AsyncRead + Unpin> Read for Socket<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut bytes = ReadBuf::new(bytes);
        let mut context = Context::from_waker(&self.waker);
        ready(Pin::new(&mut self.stream).poll_read(&mut context, &mut bytes))?;
        Ok(bytes.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Socket<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ready(Pin::new(&mut self.stream).poll_write(&mut Context::from_waker(&self.waker), bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        ready(Pin::new(&mut self.stream).poll_flush(&mut Context::from_waker(&self.waker)))
    }
}

fn ready<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
