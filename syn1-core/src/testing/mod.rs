//! For tests of transports and of what stands on them: an in-memory link, and the suite that every link must pass.

mod conformance;
mod memory;
mod poll;

pub use conformance::{Harness, LIMITS, StreamHarness, links, streams};
pub use memory::{MemoryError, MemoryLink, MemoryRx, MemoryTx, PipeReader, PipeWriter, memory_pair, pipe};
pub use poll::{block_on, join, poll_once, yield_now};
