//! A laptop's SYN1 node: its device, its shard cache on disk, TCP and WebSocket, and coming back when the coordinator went
//! away.
//!
//! [`serve`] is the whole of it. What a node does on any machine is `syn1-node`; this crate is the machine.
#![forbid(unsafe_code)]

pub mod cache;
mod connect;
pub mod device;
pub mod fetch;
mod join;
mod lane;
mod laptop;
pub mod measure;
mod pieces;
mod serve;
mod trust;
mod tuned;

pub use device::{AnyEngine, Device, DeviceChoice, DeviceError};
pub use join::{Join, JoinError, Way};
pub use serve::{HostConfig, HostError, HostEvent, serve};
pub use syn1_identity::{Key, Keys};
pub use syn1_model::Digest;
pub use syn1_node::{NodeEvent, ProfileFigures, Progress};
pub use trust::{Trust, TrustError};
