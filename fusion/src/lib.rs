//! What fusing a transformer's kernels gains, measured against named and verified rivals on the same GPU.
//!
//! Public experiments report that a transformer fused into one dispatch is 66 to 458 times as fast as an unfused one. The
//! unfused one of these experiments has no KV cache: for each token it computes the keys and values of the whole past anew,
//! in one thread per token. This crate runs the same shapes (64 tokens, f32, no embedding and no head, rows teacher-forced)
//! in several ways ([`Arm`]), compares the rows of each with an f64 forward pass before any of its times counts, and names
//! bandwidth beside every ratio.
//!
//! It needs a device and a clock and nothing else of its surroundings, so it runs in a browser as well.
#![deny(unsafe_code)]

mod arm;
mod experiment;
mod fused;
mod gpu;
mod grid;
mod model;
mod naive;
mod ops;
mod published;
mod reference;
mod shader;
mod shape;
mod signal;
mod tape;
mod workgroup;

pub use arm::Arm;
pub use experiment::{ArmReport, Experiment, Figures, Progress, ShapeReport, TOLERANCE, WARM_UPS};
pub use gpu::{FusionError, Gpu};
pub use naive::{Naive, NaiveReport};
pub use shape::{MOST_LAYERS, Shape, ShapeError, TOKENS, WIDTHS};
