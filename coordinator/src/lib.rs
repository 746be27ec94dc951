//! Registry, placement, routing and sampling for a SYN1 swarm.
//!
//! [`core`] is the coordinator without sockets or clocks; [`server`] puts TCP and HTTP around it. It never touches
//! weights beyond serving their files.
#![forbid(unsafe_code)]

mod chain;
pub mod code;
pub mod core;
mod deadlines;
pub mod door;
mod draft;
pub mod front;
mod http;
mod limits;
mod link;
pub mod placement;
pub mod qr;
pub mod request;
mod routing;
pub mod sample;
pub mod server;
mod stop;
pub mod text;
pub mod tls;
pub mod update;
mod view;
mod weights;
pub mod wire;
