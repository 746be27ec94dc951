//! Fused WGSL and CPU kernels that run a SYN1 plan.

pub mod cpu;
pub mod engine;
pub mod gpu;
pub mod measure;
pub mod sampling;
pub mod wgsl;
