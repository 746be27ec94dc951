//! A stream over a line: two halves, and the runner that moves its packets.

use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};

use embassy_futures::select::{Either, select};
use embedded_hal_async::delay::DelayNs;
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};

use crate::end::End;
use crate::framing::{Unstuffer, stuff, stuffed};
use crate::packet::{MOST, MOST_DATA, Packet};

/// One end of a line, with room for `RX` bytes that nobody has read yet and `TX` that the other end has not acknowledged. Both
/// should hold 1,600 bytes, a window of packets, at least.
pub struct Serial<const RX: usize, const TX: usize> {
    shared: RefCell<Shared<RX, TX>>,
    interval_ms: u32,
}

struct Shared<const RX: usize, const TX: usize> {
    end: End<RX, TX>,
    /// Counts what the other end has moved: without it the timer would not know.
    progress: u32,
    reader: Option<Waker>,
    writer: Option<Waker>,
    runner: Option<Waker>,
    /// Something has happened since the runner looked last.
    news: bool,
}

/// The receiving half of a stream.
pub struct Reader<'s, const RX: usize, const TX: usize>(&'s Serial<RX, TX>);

/// The sending half of a stream. Dropping it ends the stream for the other end, once that has got what was written.
pub struct Writer<'s, const RX: usize, const TX: usize>(&'s Serial<RX, TX>);

/// Moves packets between a stream and its line.
pub struct Runner<'s, const RX: usize, const TX: usize>(&'s Serial<RX, TX>);

/// The stream is broken: the other end has started anew, or reads no more.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The line itself has failed; it is not the noise on it that the packets are for.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost<R, W> {
    /// Reading from it failed.
    Read(R),
    /// Writing to it failed.
    Write(W),
    /// It has ended.
    Ended,
    /// The streams are over on both sides.
    Done,
}

impl<const RX: usize, const TX: usize> Serial<RX, TX> {
    /// An end of a line. `number` is a random one, a counter of starts, or always the same where there is neither.
    /// `interval_ms` is how long an acknowledgement may take.
    #[must_use]
    pub const fn new(number: u32, interval_ms: u32) -> Self {
        let end = End::new(number);
        let shared = Shared { end, progress: 0, reader: None, writer: None, runner: None, news: true };
        Self { shared: RefCell::new(shared), interval_ms }
    }

    /// The halves of the stream and what moves it.
    pub fn start(&mut self) -> (Reader<'_, RX, TX>, Writer<'_, RX, TX>, Runner<'_, RX, TX>) {
        let this = &*self;
        (Reader(this), Writer(this), Runner(this))
    }
}

impl<const RX: usize, const TX: usize> Shared<RX, TX> {
    fn wake_halves(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    fn wake_runner(&mut self) {
        self.news = true;
        self.runner.take().into_iter().for_each(Waker::wake);
    }
}

impl<const RX: usize, const TX: usize> Runner<'_, RX, TX> {
    /// Moves packets until the line fails or both streams are over. Dropping it stops the line; it may run again.
    pub async fn run<R: Read, W: Write>(
        &mut self,
        line_in: R,
        line_out: W,
        delay: impl DelayNs,
    ) -> Lost<R::Error, W::Error> {
        match select(self.receive(line_in), self.send(line_out, delay)).await {
            Either::First(lost) | Either::Second(lost) => lost,
        }
    }

    async fn receive<R: Read, E>(&self, mut line: R) -> Lost<R::Error, E> {
        let mut unstuffer = Unstuffer::<MOST>::new();
        let mut bytes = [0; 64];
        loop {
            let count = match line.read(&mut bytes).await {
                Ok(0) => return Lost::Ended,
                Ok(count) => count,
                Err(error) => return Lost::Read(error),
            };
            for byte in bytes.get(..count).unwrap_or_default() {
                let Some(packet) = unstuffer.take(*byte).and_then(Packet::parse) else { continue };
                let mut shared = self.0.shared.borrow_mut();
                if shared.end.take(&packet) {
                    shared.progress = shared.progress.wrapping_add(1);
                    shared.wake_halves();
                }
                shared.wake_runner();
            }
        }
    }

    async fn send<W: Write, E>(&self, mut line: W, mut delay: impl DelayNs) -> Lost<E, W::Error> {
        let (mut data, mut packet, mut bytes) = ([0; MOST_DATA], [0; MOST], [0; stuffed(MOST)]);
        let mut waited = None;
        loop {
            let mut tick = pin!(delay.delay_ms(self.0.interval_ms));
            loop {
                while let Some(len) = self.packet(&mut data, &mut packet, &mut bytes) {
                    let mut rest = bytes.get(..len).unwrap_or_default();
                    while !rest.is_empty() {
                        match line.write(rest).await {
                            Ok(0) => return Lost::Ended,
                            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                            Err(error) => return Lost::Write(error),
                        }
                    }
                    if let Err(error) = line.flush().await {
                        return Lost::Write(error);
                    }
                }
                if self.is_over() {
                    return Lost::Done;
                }
                if let Either::Second(()) = select(self.news(), tick.as_mut()).await {
                    break;
                }
            }
            let mut shared = self.0.shared.borrow_mut();
            let waits = shared.end.is_waiting().then_some(shared.progress);
            // A whole interval has passed without progress, not only the rest of one.
            if waits.is_some() && waits == waited {
                shared.end.timeout();
            }
            waited = waits;
        }
    }

    /// Writes the next packet as it goes over the line, and says how long it is.
    fn packet(
        &self,
        data: &mut [u8; MOST_DATA],
        packet: &mut [u8; MOST],
        bytes: &mut [u8; stuffed(MOST)],
    ) -> Option<usize> {
        let mut shared = self.0.shared.borrow_mut();
        let len = shared.end.next(data)?.emit(packet)?;
        stuff(packet.get(..len)?, bytes)
    }

    /// Both halves are gone, and the other end has what was written.
    fn is_over(&self) -> bool {
        let end = &self.0.shared.borrow().end;
        end.unread && end.finished && (end.done || end.broken) && (end.ended || end.broken)
    }

    /// Waits until something has happened.
    async fn news(&self) {
        poll_fn(|cx| {
            let mut shared = self.0.shared.borrow_mut();
            if core::mem::take(&mut shared.news) {
                return Poll::Ready(());
            }
            shared.runner = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<const RX: usize, const TX: usize> Drop for Reader<'_, RX, TX> {
    fn drop(&mut self) {
        let mut shared = self.0.shared.borrow_mut();
        shared.end.unread = true;
        shared.wake_runner();
    }
}

impl<const RX: usize, const TX: usize> Drop for Writer<'_, RX, TX> {
    fn drop(&mut self) {
        let mut shared = self.0.shared.borrow_mut();
        shared.end.finished = true;
        shared.wake_runner();
    }
}

impl<const RX: usize, const TX: usize> ErrorType for Reader<'_, RX, TX> {
    type Error = Broken;
}

impl<const RX: usize, const TX: usize> ErrorType for Writer<'_, RX, TX> {
    type Error = Broken;
}

impl<const RX: usize, const TX: usize> Read for Reader<'_, RX, TX> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Broken> {
        poll_fn(|cx| {
            let mut shared = self.0.shared.borrow_mut();
            let room = shared.end.received.room();
            let count = shared.end.received.peek(0, out);
            if count > 0 || out.is_empty() {
                shared.end.received.drop(count);
                shared.end.read(room);
                shared.wake_runner();
                return Poll::Ready(Ok(count));
            }
            if shared.end.ended {
                return Poll::Ready(Ok(0));
            }
            if shared.end.broken {
                return Poll::Ready(Err(Broken));
            }
            shared.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<const RX: usize, const TX: usize> Write for Writer<'_, RX, TX> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        poll_fn(|cx| {
            let mut shared = self.0.shared.borrow_mut();
            if shared.end.broken {
                return Poll::Ready(Err(Broken));
            }
            let count = shared.end.sent.push(bytes);
            if count > 0 || bytes.is_empty() {
                shared.wake_runner();
                return Poll::Ready(Ok(count));
            }
            shared.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Does nothing: the runner sends without being asked.
    async fn flush(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the serial stream is broken: the other end has started anew, or reads no more")
    }
}

impl core::error::Error for Broken {}

impl embedded_io_async::Error for Broken {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ConnectionReset
    }
}
