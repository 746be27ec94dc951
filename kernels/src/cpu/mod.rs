//! The CPU engine: the plan's ops in plain Rust and SIMD, from the packed pieces' bytes as they are.
//!
//! `lanes` is one register, `dot` and `attend` are the kernels written in it, `kernels` compiles them per instruction
//! set and chooses; `digits` has int8 and int4 products for CPUs that multiply bytes. `pool` and `share` divide a step
//! among threads, `step` walks the plan, `heads` has what it does head by head (`rotate` the rotation), `engine` keeps
//! the state, `op_times` says where a token's time goes.

mod attend;
mod bandwidth;
mod digits;
mod dot;
mod engine;
mod heads;
mod kernels;
mod lanes;
mod math;
mod memory;
mod observe;
mod op_times;
mod pool;
mod rotate;
mod share;
mod step;
mod weights;

pub use bandwidth::read_bandwidth;
pub use engine::{CpuEngine, describe};
pub(crate) use math::{arg_max, exp};
pub use memory::memory_bytes;
pub use observe::Product;
