//! The engine for GPUs: fused WGSL kernels on wgpu (Vulkan, Metal, DX12).
//!
//! A step is one compute pass in one submit, read back by one map. Everything that a step needs is made beforehand:
//! pipelines, the uniform slot of every dispatch, and bind groups (those that name a KV cache when it is opened). Most
//! often its commands are recorded beforehand, too, while the step before it is computed. A frame that comes then costs
//! the CPU a few microseconds: its rows are written to mapped memory, and the commands are submitted.
//!
//! Accumulation is in f32; the weights are as the plan says, the KV cache is f32 beside f32 weights and f16 beside all others. Every reduction has two forms,
//! by subgroup operations and by a tree in workgroup memory, made from the same WGSL file: see [`GpuOptions`].

mod activations;
mod answer;
mod attention;
mod bank;
mod carry;
mod device;
mod division;
mod engine;
mod gemv;
mod inbox;
mod launch;
mod logits;
mod loop_times;
mod matmul;
mod measure;
mod memory;
mod op_times;
mod patience;
mod persist;
mod prepared;
mod probe;
mod program;
mod readback;
mod rounds;
mod scopes;
mod shader;
mod sieve;
mod teardown;
mod together;
mod token_loop;
mod tune;
mod tuning;
mod upload;
mod weights;

pub use device::{AdapterLine, GpuDevice, OpenError};
pub use division::Division;
pub use engine::{GpuEngine, GpuOptions, Persistence};
pub use loop_times::{LoopTimes, PartTime};
pub use measure::{RoundTrip, memory_bytes, read_bandwidth, round_trip};
pub use prepared::StepTimes;
pub use tuning::{Tuning, TuningError};
pub use upload::Upload;
