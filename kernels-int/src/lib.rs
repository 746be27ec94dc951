//! Transformer blocks in integers, for processors without a unit for floats.
//!
//! The weights are the ordinary int8 pieces of a split model, byte for byte (`syn1-model`, "Scales stand at a row's end"):
//! signed bytes in groups of 32 inputs that share an f16 scale. Nothing is laid out anew for a microcontroller.
//!
//! # What is rounded, and how much
//!
//! - **Inputs of a product** become 16-bit integers with one power of two for the whole row ([`quantise`]): each element is
//!   off by half a step at most, which is 2^-15 of the row's largest magnitude (a whole step for magnitudes within half a
//!   step of the top). A Cortex-M3 multiplies 16 bits as fast as 8, and 8 would cost text: one large element takes 8 bits
//!   from all others.
//! - **Products are exact.** `i8 x i16` over a group of 32 fits an `i32`; times the group's scale, an integer in units of
//!   2^-24, it is added up in an `i64`. The only rounding is that of the sum to `f32`.
//! - **Keys and values** are kept as 16-bit integers with a power of two for each head: finer than the f16 of other engines
//!   but for elements that are far below the largest of their head.
//! - **Softmax** weighs with integers of 30 bits; exponentials are `libm`'s.
//! - Norms, activations and the residual stream are `f32`, which such processors compute in software.
//!
//! Every step is defined to the bit: integers, the five operations of IEEE 754, and `libm`'s functions, which are Rust code.
//! So a microcontroller and a laptop that run this crate give the same bits, and the laptop is the microcontroller's test.
//!
//! # What it runs
//!
//! [`Shape`] says it: blocks of GPT-2's and of Llama's kind. Embedding and head stay with bigger nodes.
//!
//! # Kernels
//!
//! The sums of products are written in assembly for two kinds of Cortex-M, chosen by the target: with the DSP instructions and
//! the unit for floats of `thumbv7em-none-eabihf` (`dsp.rs`), and for all others that have Thumb-2 (`thumb2.rs`). Everything
//! else, and every other machine, takes Rust. All three give the same bits.
//!
//! Nothing here allocates, and no input makes it panic: buffers that are too short are errors.
#![no_std]
#![cfg_attr(kernel = "portable", forbid(unsafe_code))]

#[cfg(test)]
extern crate std;

mod activation;
mod attend;
mod block;
mod dot;
#[cfg(kernel = "dsp")]
mod dsp;
mod layout;
mod norm;
mod row;
mod shape;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(kernel = "thumb2")]
mod thumb2;

pub use block::{Block, BlockError, Scratch, StepError};
pub use dot::{arrange, dot_rows};
pub use layout::BlockLayout;
pub use row::{NotFinite, quantise};
pub use shape::{Activation, Norm, Rope, Shape, ShapeError};

/// Inputs that share a scale.
pub const GROUP: usize = 32;
