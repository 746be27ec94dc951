//! A link through memory, over a byte pipe of bounded size, so that it pushes back as a socket does.

use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    DecodeError, Decoder, EncodeError, Frame, Header, HeaderError, Limits, Link, LinkError, LinkErrorKind, Receive,
    Transmit, encode_frame,
};

/// Two connected links that receive payloads of up to `max_payload` bytes and hold `capacity` bytes in each direction.
///
/// ```
/// use syn1_core::testing::{block_on, memory_pair};
/// use syn1_core::{Control, Header, Link, Receive, Transmit};
///
/// let (a, b) = memory_pair(1 << 16, 1 << 12);
/// let ((_, mut tx), (mut rx, _)) = (a.split(), b.split());
/// let mut payload = [0; 16];
/// let len = Control::Ping(7).encode(&mut payload)?;
/// block_on(async {
///     tx.send(&Header::control(len as u32), &payload[..len]).await.expect("there is room");
///     let frame = rx.recv().await.expect("a frame arrives");
///     assert_eq!(Control::decode(frame.payload), Ok(Control::Ping(7)));
/// });
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
#[must_use]
pub fn memory_pair(max_payload: u32, capacity: usize) -> (MemoryLink, MemoryLink) {
    let (a_out, b_in) = pipe(capacity);
    let (b_out, a_in) = pipe(capacity);
    (MemoryLink::new(a_in, a_out, max_payload), MemoryLink::new(b_in, b_out, max_payload))
}

/// One direction of bytes: at most `capacity` of them wait between the two ends.
///
/// ```
/// use syn1_core::testing::{block_on, pipe};
///
/// let (mut writer, mut reader) = pipe(100);
/// block_on(writer.write_all(b"bytes"))?;
/// let mut out = [0; 10];
/// assert_eq!(block_on(reader.read(&mut out)), 5);
/// drop(writer);
/// assert_eq!(block_on(reader.read(&mut out)), 0);
/// # Ok::<(), syn1_core::testing::MemoryError>(())
/// ```
#[must_use]
pub fn pipe(capacity: usize) -> (PipeWriter, PipeReader) {
    let pipe =
        Arc::new(Mutex::new(Pipe { bytes: VecDeque::new(), capacity, closed: false, reader: None, writer: None }));
    (PipeWriter(Arc::clone(&pipe)), PipeReader(pipe))
}

/// One end of [`memory_pair`].
#[derive(Debug)]
pub struct MemoryLink {
    rx: MemoryRx,
    tx: MemoryTx,
}

impl MemoryLink {
    /// A link over two pipes.
    #[must_use]
    pub fn new(reader: PipeReader, writer: PipeWriter, max_payload: u32) -> Self {
        let buffer = vec![0; Header::LEN + max_payload as usize];
        let decoder = Decoder::new(buffer.clone(), Limits::handshake());
        Self { rx: MemoryRx { reader, decoder }, tx: MemoryTx { writer, buffer, broken: false } }
    }
}

impl Link for MemoryLink {
    type Error = MemoryError;
    type Rx = MemoryRx;
    type Tx = MemoryTx;

    fn split(self) -> (MemoryRx, MemoryTx) {
        (self.rx, self.tx)
    }
}

/// The receiving half of a [`MemoryLink`].
#[derive(Debug)]
pub struct MemoryRx {
    reader: PipeReader,
    decoder: Decoder<Vec<u8>>,
}

impl Receive for MemoryRx {
    type Error = MemoryError;

    async fn recv(&mut self) -> Result<Frame<'_>, MemoryError> {
        let complete = loop {
            if let Some(complete) = self.decoder.poll()? {
                break complete;
            }
            let count = self.reader.read(self.decoder.spare()).await;
            if count == 0 {
                self.decoder.finish()?;
                return Err(MemoryError::Closed);
            }
            self.decoder.commit(count)?;
        };
        Ok(self.decoder.take(complete))
    }

    fn set_limits(&mut self, limits: Limits) {
        self.decoder.set_limits(limits);
    }
}

/// The sending half of a [`MemoryLink`].
#[derive(Debug)]
pub struct MemoryTx {
    writer: PipeWriter,
    buffer: Vec<u8>,
    broken: bool,
}

impl Transmit for MemoryTx {
    type Error = MemoryError;

    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), MemoryError> {
        // SPEC 7.6
        if self.broken {
            return Err(MemoryError::Broken);
        }
        let frame = encode_frame(header, payload, &mut self.buffer)?;
        self.broken = true;
        self.writer.write_all(frame).await?;
        self.broken = false;
        Ok(())
    }
}

/// The writing end of a [`pipe`]; dropping it ends the stream.
#[derive(Debug)]
pub struct PipeWriter(Arc<Mutex<Pipe>>);

impl PipeWriter {
    /// Writes all of `bytes`, waiting for room.
    ///
    /// # Errors
    /// The reader is gone.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), MemoryError> {
        while !bytes.is_empty() {
            let count = poll_fn(|cx| lock(&self.0).write(bytes, cx)).await.ok_or(MemoryError::Closed)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        lock(&self.0).close();
    }
}

/// The reading end of a [`pipe`].
#[derive(Debug)]
pub struct PipeReader(Arc<Mutex<Pipe>>);

impl PipeReader {
    /// Reads what is there, waiting for at least one byte; 0 at the end of the stream.
    pub async fn read(&mut self, out: &mut [u8]) -> usize {
        poll_fn(|cx| lock(&self.0).read(out, cx)).await
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        lock(&self.0).close();
    }
}

#[derive(Debug)]
struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn write(&mut self, bytes: &[u8], cx: &Context<'_>) -> Poll<Option<usize>> {
        if self.closed {
            return Poll::Ready(None);
        }
        let count = bytes.len().min(self.capacity - self.bytes.len());
        if count == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.bytes.extend(&bytes[..count]);
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Some(count))
    }

    fn read(&mut self, out: &mut [u8], cx: &Context<'_>) -> Poll<usize> {
        let count = out.len().min(self.bytes.len());
        if count == 0 && !self.closed {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for (byte, read) in out.iter_mut().zip(self.bytes.drain(..count)) {
            *byte = read;
        }
        self.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(count)
    }

    fn close(&mut self) {
        self.closed = true;
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// Why a memory link fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum MemoryError {
    /// The peer is gone.
    Closed,
    /// An earlier send was dropped in the middle of a frame.
    Broken,
    /// The peer sent no frame.
    Decode(DecodeError),
    /// The frame to send is none.
    Encode(EncodeError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer is gone"),
            Self::Broken => f.write_str("an earlier send was dropped in the middle of a frame"),
            Self::Decode(error) => error.fmt(f),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for MemoryError {}

impl LinkError for MemoryError {
    fn kind(&self) -> LinkErrorKind {
        match self {
            Self::Closed => LinkErrorKind::Closed,
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

impl From<DecodeError> for MemoryError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<EncodeError> for MemoryError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Harness, LIMITS, StreamHarness, block_on, links, streams};

    struct Memory;

    impl Harness for Memory {
        type Link = MemoryLink;

        async fn pair(&mut self) -> (MemoryLink, MemoryLink) {
            memory_pair(LIMITS.max_payload, 1 << 16)
        }
    }

    impl StreamHarness for Memory {
        type Raw = PipeWriter;

        async fn raw(&mut self) -> (PipeWriter, MemoryLink) {
            let (writer, reader) = pipe(1 << 16);
            (writer, MemoryLink::new(reader, pipe(1).0, LIMITS.max_payload))
        }

        async fn write(raw: &mut PipeWriter, bytes: &[u8]) {
            raw.write_all(bytes).await.unwrap();
        }
    }

    #[test]
    fn memory_links_conform() {
        block_on(links(&mut Memory));
        block_on(streams(&mut Memory));
    }
}
