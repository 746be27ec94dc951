//! What a SYN1 node does on a microcontroller: it greets, says what it is, gets the blocks that it is given, computes them in
//! integers and answers frame by frame. No operating system, no heap: all memory is one slice that the caller gives.
//!
//! ```text
//!   coordinator ── Link ── run() ── Board: clock, files of the coordinator, log
//!                            |
//!                         Memory: weights, KV caches, rows
//! ```
//!
//! [`run`] serves over any [`Link`](syn1_core::Link) until one end leaves. What is particular to a machine is behind
//! [`Board`]: a microcontroller with Ethernet gets files by [`http::get`], one without reads them from its flash
//! ([`flash`]), and on a laptop the same node is the oracle of the tests, since it computes the same bits.
//!
//! # What it is not
//!
//! - It holds blocks, never the embedding or the head, and it says so by offering less memory than these would take.
//! - It proves no key. Who needs that uses a node of the crate `syn1-node`.
//! - Activations travel in plain forms (f32, f16, q8, q4), without delta or compression.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod board;
mod fetch;
pub mod flash;
pub mod http;
mod json;
mod manifest;
mod memory;
mod node;
mod shard;
mod text;

pub use board::{Board, Event, FetchError, NodeConfig};
pub use manifest::{Manifest, ManifestError};
pub use memory::Memory;
pub use node::{Ended, run};
