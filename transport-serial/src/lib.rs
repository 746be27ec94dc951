#![doc = include_str!("../README.md")]
//!
//! # Use
//!
//! [`Serial`] is the state of one end, in memory of yours; [`Serial::start`] gives the halves of its stream and the
//! [`Runner`] that moves packets, which runs beside them for as long as the stream is used.
//! [`link`] makes a SYN1 [`Link`](syn1_core::Link) of the two halves.
//!
//! ```no_run
//! use embedded_hal_async::delay::DelayNs;
//! use embedded_io_async::{Read, Write};
//! use syn1_transport_serial::{Serial, link};
//!
//! async fn over(uart_rx: impl Read, uart_tx: impl Write, delay: impl DelayNs, starts: u32) {
//!     let mut serial = Serial::<4096, 2048>::new(starts, 100);
//!     let (reader, writer, mut runner) = serial.start();
//!     let (mut receive, mut send) = ([0; 1048], [0; 1048]);
//!     let link = link(reader, writer, &mut receive[..], &mut send[..]);
//!     // Serve a coordinator over `link` here, beside the runner.
//!     embassy_futures::select::select(runner.run(uart_rx, uart_tx, delay), async { drop(link) }).await;
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod crc;
mod end;
mod framing;
mod packet;
mod ring;
mod serial;

pub use crc::crc32c;
pub use serial::{Broken, Lost, Reader, Runner, Serial, Writer};

use syn1_transport_tcp::StreamLink;

/// A SYN1 link over the halves of a stream. Each buffer must hold the longest frame of its direction, a header and its
/// payload.
pub const fn link<'s, const RX: usize, const TX: usize, B: AsRef<[u8]> + AsMut<[u8]>>(
    reader: Reader<'s, RX, TX>,
    writer: Writer<'s, RX, TX>,
    receive: B,
    send: B,
) -> StreamLink<Reader<'s, RX, TX>, Writer<'s, RX, TX>, B> {
    StreamLink::new(reader, writer, receive, send)
}
