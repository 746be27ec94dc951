//! Registry, placement, routing and sampling for a SYN1 swarm.
//!
//! [`core`] is the coordinator without sockets or clocks; [`server`] puts TCP and HTTP around it. It never touches
//! weights beyond serving their files.
#![forbid(unsafe_code)]

pub mod access;
pub mod audit;
mod chain;
pub mod code;
mod compare;
pub mod core;
mod deadlines;
pub mod door;
mod draft;
mod feed;
pub mod front;
mod heal;
mod http;
mod inbox;
mod limits;
mod link;
mod logprobs;
mod mend;
mod metrics;
pub mod outline;
mod pace;
pub mod placement;
pub mod predict;
pub mod prefix;
pub mod qr;
mod queue;
mod rate;
mod reason;
mod rebalance;
pub mod recovery;
mod replay;
pub mod request;
mod return_to;
mod route;
mod routing;
pub mod sample;
mod served;
pub mod server;
mod speeds;
mod stop;
pub mod store;
pub mod text;
pub mod timing;
pub mod tls;
pub mod update;
mod verdict;
mod view;
mod watch;
mod weights;
pub mod wire;
