//! Fused WGSL and CPU kernels that run a SYN1 plan.

pub mod cpu;
pub mod engine;
pub mod gpu;
mod group;
pub mod measure;
pub mod sampling;
mod token_times;
pub mod wgsl;

pub use token_times::{OpTime, TokenTimes};
