//! SYN1: the wire protocol of a language model that runs across devices.
//!
//! A *coordinator* and its *nodes* exchange frames: a header of 24 bytes and then raw numbers or a small control message.
//! This crate is the protocol and nothing else. It has no socket, no clock, no allocator and no unsafe code; bytes and
//! time are arguments, so the same code runs in a server, in a browser and on a microcontroller.
//!
//! `SPEC.md` beside this crate is the format itself, clause by clause; `vectors/` holds the bytes of every kind, codec and
//! message, and `reference/` a second implementation in plain Python that reads the same vectors.
//!
//! | to do | use |
//! |---|---|
//! | frames out of a stream of bytes | [`Decoder`], over a buffer of yours |
//! | frames out of messages | [`Frame::from_message`] |
//! | frames into bytes | [`Header`]'s constructors, [`encode_frame`], [`encode_control`] |
//! | activations in and out of frames, in any form | [`activation`]: with delta and compression |
//! | activations in and out of payloads, plain | [`codec`]: F32, F16, Q8, Q4 |
//! | logits in and out of payloads | [`output`] |
//! | greeting, proof of keys, negotiation, credit, pings, goodbye | [`Session`], [`Identity`] |
//! | a transport of your own | implement [`Link`], test it with `testing` (feature `testing`) |
//!
//! # What a receiver may rely on
//!
//! - A peer never chooses a length: a data payload's length is a function of its shape (a compressed one's is below it),
//!   the shape is bounded by [`Limits`], and the header is checked before the receiver waits for the payload. Control
//!   messages, whose length is free, are bounded by [`limits::MAX_CONTROL`].
//! - Unknown frames whose kind has bit 7 set are passed over, any other unknown thing is an error: unknown kinds, codecs,
//!   flags and control messages. The fourth byte of the magic is the major version.
//! - Nothing from outside makes this crate panic. An error is a small `Copy` value whose text says what was wrong, and it
//!   is final: a [`Decoder`] or [`Session`] that has failed gives the same error for ever.
//!
//! # A row from one end to the other
//!
//! ```
//! use syn1_core::{Codec, Decoder, Flags, Header, Limits, codec, encode_frame};
//!
//! // The sender: position 7 of request 1 leaves a node of a model of width 16, in Q8.
//! let row: [f32; 16] = core::array::from_fn(|i| i as f32 * 0.25 - 2.0);
//! let codec = codec::choose(Codec::Q8, &row)?;
//! let mut payload = [0; 64];
//! let len = codec::encode(codec, &row, 16, &mut payload)?;
//! let header = Header::activation(1, 0, 7, codec, 1, 16).expect("one row is short");
//! let mut wire = [0; 128];
//! let sent = encode_frame(&header, &payload[..len], &mut wire)?;
//! assert_eq!(sent.len(), Header::LEN + 36 + 16);
//!
//! // The receiver, with what it has agreed to take; the bytes come in pieces of any size.
//! let limits = Limits { max_payload: 4096, max_rows: 8, width: 16, vocab: 4096, flags: Flags::NONE };
//! let mut decoder = Decoder::new([0; 4096 + Header::LEN], limits);
//! let mut received = [0.0; 16];
//! for piece in sent.chunks(10) {
//!     decoder.spare()[..piece.len()].copy_from_slice(piece);
//!     decoder.commit(piece.len())?;
//!     while let Some(frame) = decoder.next()? {
//!         let Header { codec, rows, cols, position, .. } = frame.header;
//!         codec::decode(codec, frame.payload, rows, cols, &mut received)?;
//!         assert_eq!(position, 7);
//!     }
//! }
//! for (a, b) in row.iter().zip(received) {
//!     assert!((a - b).abs() < 0.01);
//! }
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Features
//!
//! None is on by default. `defmt` derives `defmt::Format` for the public types, `testing` has an in-memory link and the
//! suite that every link must pass, `std` picks faster code for the processor at run time, with the same bytes, and is what
//! `testing` needs.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]

pub mod activation;
pub mod codec;
pub mod control;
pub mod decode;
pub mod encode;
mod exp;
mod fatal;
mod flags;
mod form;
pub mod header;
mod header_error;
pub mod identity;
pub mod limits;
pub mod link;
pub mod output;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;

pub use activation::{Inbound, Outbound, Place};
pub use codec::{Codec, CodecError, CodecSet, encoded_len};
pub use control::{Control, ControlError, Reason, Role, clip};
pub use decode::{DecodeError, Decoder, Frame};
pub use encode::{EncodeError, encode_control, encode_frame};
pub use fatal::Fatal;
pub use flags::Flags;
pub use form::Form;
pub use header::{Header, Kind, Parsed};
pub use header_error::HeaderError;
pub use identity::{Anonymous, Identity, Verdict};
pub use limits::Limits;
pub use link::{Link, LinkError, LinkErrorKind, Receive, Transmit};
pub use output::{OutputError, logits_grid};
pub use session::{Event, Negotiated, Peer, Session, SessionConfig};
pub use time::Millis;

/// The example of the README is one of the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Whether code may be longer to be faster: not on a microcontroller.
const HAS_ROOM: bool = cfg!(not(target_os = "none"));

/// Shapes of 65,535 x 65,535 are counted in `usize`.
const _: () = assert!(usize::BITS >= 32, "syn1-core needs 32-bit addresses");
