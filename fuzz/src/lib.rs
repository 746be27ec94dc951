//! What is fuzzed in syn1-core: one function per target, each taking the fuzzer's bytes and panicking where a property
//! does not hold.
//!
//! `cargo +nightly fuzz run TARGET corpus/TARGET seeds/TARGET` looks for new inputs; `cargo test --no-default-features`
//! replays the committed seeds on any compiler. `seeds.py` makes the seeds of the vectors of `syn1-core/vectors`.
//!
//! Inputs begin with the fixed fields that each target names, little endian, so that a seed is easy to write.
#![forbid(unsafe_code)]

mod codec;
mod compressed;
mod control;
mod decoder;
mod delta;
mod header;
mod session;

use arbitrary::{Result, Unstructured};
use syn1_core::{Flags, Limits};

pub use codec::{codec_hostile, codec_roundtrip};
pub use compressed::compressed;
pub use control::control;
pub use decoder::decoder_chunks;
pub use delta::delta;
pub use header::header;
pub use session::session_pair;

/// `max_payload u32 | max_rows u16 | width u16 | vocab u32 | flags u8`
fn limits(input: &mut Unstructured<'_>) -> Result<Limits> {
    let (max_payload, max_rows, width, vocab) = input.arbitrary()?;
    let flags = Flags::from_offer(input.arbitrary()?);
    Ok(Limits { max_payload, max_rows, width, vocab, flags })
}
