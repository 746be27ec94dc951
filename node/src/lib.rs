//! What a SYN1 node does, whatever it runs on: the conversation with a coordinator, its shard, its requests.
//!
//! [`run`] drives one link to its end. The machine under it is a [`Host`]: clock, weights, engine. There is no socket, no
//! file and no thread here, so the same code runs on a laptop, in a browser and in a test with a clock of its own.
//!
//! Nothing that a coordinator sends panics: a frame that cannot be computed fails its request
//! ([`Failed`](syn1_core::control::Failed)), one that breaks the protocol ends the link with a Bye that names it.
#![forbid(unsafe_code)]

mod assignment;
mod error;
mod host;
mod json;
mod linger;
mod requests;
pub mod room;
mod run;
mod shard;

pub use error::{Ended, NodeError};
pub use host::{Assignment, Host, Loaded, ModelInfo, NodeConfig, NodeEvent, ProfileFigures, Progress};
pub use run::run;
