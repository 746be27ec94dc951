//! Nodes that compute nothing, in a process of their own: where they cost little, what the coordinator costs shows.
//!
//! Everything else of them is real: links, sessions, Hello, Profile, assignments, frames in and out.

mod drones;
mod engine;
mod process;
mod stage;

pub(super) use drones::{Args, run};
pub(super) use process::{cpu_time, resident_bytes};
pub(super) use stage::Stage;
