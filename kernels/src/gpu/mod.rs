//! The engine for GPUs: fused WGSL kernels on wgpu (Vulkan, Metal, DX12).
//!
//! A step is one compute pass in one submit, read back by one map. Everything that a step needs is made beforehand:
//! pipelines, the uniform slot of every dispatch, and bind groups (those that name a KV cache when it is opened), so a
//! token costs one small write of the step's state, and the dispatches.
//!
//! Accumulation is in f32; the weights are as the plan says, the KV cache is f32 beside f32 weights and f16 beside all others. Every reduction has two forms,
//! by subgroup operations and by a tree in workgroup memory, made from the same WGSL file: see [`GpuOptions`].

mod activations;
mod attention;
mod device;
mod engine;
mod gemv;
mod launch;
mod logits;
mod matmul;
mod measure;
mod memory;
mod probe;
mod program;
mod readback;
mod shader;
mod teardown;
mod weights;

pub use device::{AdapterLine, GpuDevice, OpenError};
pub use engine::{GpuEngine, GpuOptions};
pub use measure::{memory_bytes, read_bandwidth};
