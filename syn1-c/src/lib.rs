//! [`syn1_core`] for C: `include/syn1.h` is made from this crate, `library` is the static library of it.
//!
//! Nothing here decides anything about the protocol. A function looks at its pointers, turns numbers of C into the core's
//! types, calls the core and writes down what came of it. Objects that live longer than a call ([`syn1_decoder`],
//! [`syn1_session`], [`syn1_outbound`], [`syn1_inbound`]) lie in memory of the caller's, whose size is part of the header.
//!
//! # The rules of every call
//!
//! These are the promises of the caller that each `SAFETY` comment of this crate rests on:
//!
//! - A pointer is null, or points to memory of its type that lives as long as the call: `count` or `len` values where such
//!   a number stands beside it, else one. What is read has been written before.
//! - Memory that is written in a call is not read or written through another pointer of the same call.
//! - An object is used by one thread at a time. Buffers, texts and the identity that an object was given stay where they
//!   are and are touched by nobody else while the object is in use, but as the function says that lends them out.
//!
//! What can be checked is checked: null, alignment, lengths, numbers that a type does not have, texts that are no UTF-8, and
//! objects that were not initialised give an error.
#![no_std]
#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(clippy::missing_safety_doc, reason = "the crate's rules are those of every call")]

mod activation;
mod codec;
mod control;
mod decoder;
mod error;
mod header;
mod identity;
mod message;
mod object;
mod output;
mod session;
mod view;

pub use activation::*;
pub use codec::*;
pub use control::*;
pub use decoder::*;
pub use error::*;
pub use header::*;
pub use identity::*;
pub use message::*;
pub use object::{
    SYN1_DECODER_WORDS, SYN1_INBOUND_WORDS, SYN1_OUTBOUND_WORDS, SYN1_SESSION_WORDS, syn1_decoder, syn1_inbound,
    syn1_outbound, syn1_session,
};
pub use output::*;
pub use session::*;
pub use view::{syn1_room, syn1_text};

#[cfg(test)]
extern crate std;
