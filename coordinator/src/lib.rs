//! Registry, placement, routing and sampling for a SYN1 swarm.
//!
//! [`core`] is the coordinator without sockets or clocks; [`server`] puts TCP and HTTP around it. It never touches
//! weights beyond serving their files.
#![forbid(unsafe_code)]

mod chain;
pub mod core;
mod deadlines;
pub mod doors;
mod draft;
mod http;
mod limits;
mod link;
mod logprobs;
mod metrics;
pub mod placement;
mod rate;
pub mod request;
mod routing;
pub mod sample;
pub mod server;
mod stop;
pub mod text;
pub mod update;
mod view;
mod watch;
mod weights;
pub mod wire;
