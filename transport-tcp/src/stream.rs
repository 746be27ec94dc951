//! A link over a reader and a writer of bytes.

use embedded_io_async::{Read, Write};
use syn1_core::{Decoder, Frame, Header, Limits, Link, Receive, Transmit, encode_frame};

use crate::StreamError;

/// A link over reader `R` and writer `W` with buffers `B`, which the caller owns: arrays or slices on a microcontroller,
/// `Vec`s elsewhere.
#[derive(Debug)]
pub struct StreamLink<R, W, B> {
    rx: StreamRx<R, B>,
    tx: StreamTx<W, B>,
}

impl<R, W, B: AsRef<[u8]> + AsMut<[u8]>> StreamLink<R, W, B> {
    /// A link at the start of both streams. Each buffer must hold the longest frame of its direction, a header and its
    /// payload.
    pub const fn new(reader: R, writer: W, receive: B, send: B) -> Self {
        let decoder = Decoder::new(receive, Limits::handshake());
        Self { rx: StreamRx { reader, decoder }, tx: StreamTx { writer, buffer: send, broken: false } }
    }
}

impl<R, W, B> Link for StreamLink<R, W, B>
where
    R: Read,
    R::Error: 'static,
    W: Write<Error = R::Error>,
    B: AsRef<[u8]> + AsMut<[u8]>,
{
    type Error = StreamError<R::Error>;
    type Rx = StreamRx<R, B>;
    type Tx = StreamTx<W, B>;

    fn split(self) -> (Self::Rx, Self::Tx) {
        (self.rx, self.tx)
    }
}

/// The receiving half of a [`StreamLink`].
#[derive(Debug)]
pub struct StreamRx<R, B> {
    reader: R,
    decoder: Decoder<B>,
}

impl<R, B> Receive for StreamRx<R, B>
where
    R: Read,
    R::Error: 'static,
    B: AsRef<[u8]> + AsMut<[u8]>,
{
    type Error = StreamError<R::Error>;

    async fn recv(&mut self) -> Result<Frame<'_>, Self::Error> {
        let complete = loop {
            if let Some(complete) = self.decoder.poll()? {
                break complete;
            }
            let count = self.reader.read(self.decoder.spare()).await.map_err(StreamError::Io)?;
            if count == 0 {
                self.decoder.finish()?;
                return Err(StreamError::Closed);
            }
            self.decoder.commit(count)?;
        };
        Ok(self.decoder.take(complete))
    }

    fn set_limits(&mut self, limits: Limits) {
        self.decoder.set_limits(limits);
    }
}

/// The sending half of a [`StreamLink`].
#[derive(Debug)]
pub struct StreamTx<W, B> {
    writer: W,
    buffer: B,
    /// Whether a frame has begun and not ended.
    broken: bool,
}

impl<W, B> Transmit for StreamTx<W, B>
where
    W: Write,
    W::Error: 'static,
    B: AsRef<[u8]> + AsMut<[u8]>,
{
    type Error = StreamError<W::Error>;

    /// Header and payload go out in one write: with `TCP_NODELAY` two writes would be two packets.
    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), Self::Error> {
        // SPEC 7.6
        if self.broken {
            return Err(StreamError::Broken);
        }
        let len = encode_frame(header, payload, self.buffer.as_mut())?.len();
        self.write(len).await
    }

    /// Up to `WRITE_BYTES` go out in one write, or as much as the buffer holds.
    async fn send_all<P: AsRef<[u8]>>(&mut self, frames: &[(Header, P)]) -> Result<(), Self::Error> {
        if self.broken {
            return Err(StreamError::Broken);
        }
        let most = self.buffer.as_ref().len().min(WRITE_BYTES);
        let mut filled = 0;
        for (header, payload) in frames {
            if filled > 0 && filled + header.frame_len() > most {
                self.write(filled).await?;
                filled = 0;
            }
            let rest = self.buffer.as_mut().get_mut(filled..).unwrap_or_default();
            match encode_frame(header, payload.as_ref(), rest) {
                Ok(frame) => filled += frame.len(),
                Err(error) => {
                    self.write(filled).await?;
                    return Err(error.into());
                }
            }
        }
        self.write(filled).await
    }
}

impl<W, B> StreamTx<W, B>
where
    W: Write,
    W::Error: 'static,
    B: AsRef<[u8]> + AsMut<[u8]>,
{
    /// Writes the first `len` bytes of the buffer, whole frames.
    async fn write(&mut self, len: usize) -> Result<(), StreamError<W::Error>> {
        let mut rest = self.buffer.as_ref().get(..len).unwrap_or_default();
        self.broken = true;
        // embedded-io-async's write_all panics when a writer takes nothing; a closed peer is no reason to panic.
        while !rest.is_empty() {
            let count = self.writer.write(rest).await.map_err(StreamError::Io)?;
            rest = rest.get(count..).filter(|_| count > 0).ok_or(StreamError::Closed)?;
        }
        self.writer.flush().await.map_err(StreamError::Io)?;
        self.broken = false;
        Ok(())
    }
}

/// Bytes of several frames that one write takes: a system call costs little beside them, and they stay in the cache.
const WRITE_BYTES: usize = 64 * 1024;
