//! A swarm in one thread: the real coordinator's core, real sessions and real nodes with an engine of hashes, on a network
//! that loses, delays and comes back, under a clock that jumps.
//!
//! Everything follows from a seed: [`run`] plays one, and says what went wrong with the trace of it. What must hold:
//!
//! - a request that finishes has the tokens of an undisturbed run, and one that fails has the first of them and a reason;
//! - every request ends, and none fails while a machine that can hold the whole model is left alone;
//! - no KV cache, no frame and no kept activation is left when nothing runs any more;
//! - what is kept for replays stays within its budget;
//! - no node is quarantined that computes what it should; with one that does not, texts that end behind its quarantine are right,
//!   be it that they came of its garbage before;
//! - whatever happened, a fresh machine that joins makes the swarm serve again.
#![forbid(unsafe_code)]

mod desk;
mod machine;
mod net;
mod plot;
mod run;
mod toy;
mod world;

pub use run::{Failure, Outcome, run, run_with_liar};
