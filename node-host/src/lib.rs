//! A laptop's SYN1 node: its device, its shard cache on disk, TCP, and coming back when the coordinator went away.
//!
//! [`serve`] is the whole of it. What a node does on any machine is `syn1-node`; this crate is the machine.
#![forbid(unsafe_code)]

pub mod cache;
pub mod device;
pub mod fetch;
mod join;
mod lane;
mod laptop;
pub mod measure;
mod pieces;
mod room;
mod serve;
mod tuned;

pub use device::{AnyEngine, Device, DeviceChoice, DeviceError};
pub use join::{Join, JoinError};
pub use serve::{HostConfig, HostError, HostEvent, serve};
pub use syn1_identity::{Key, Keys};
pub use syn1_node::{NodeEvent, ProfileFigures, Progress};
