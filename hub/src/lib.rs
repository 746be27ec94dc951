//! Models from a Hugging Face hub: whole into the hub's own cache, or only the bytes of some layers into a folder.
//!
//! | question | answer |
//! |---|---|
//! | which model? | [`Repo`]: `ORG/NAME`, or `ORG/NAME@REV` |
//! | which hub, with whose rights, and where do its files lie here? | [`Endpoint`], from the variables that Python's tools read |
//! | is it here already? | [`HubCache::find`] |
//! | fetch it so that Python's tools find it, too | [`to_cache`] |
//! | fetch it into a folder, from a hub, a web server or another folder | [`to_folder`], from an [`Origin`] |
//! | fetch only what a node needs for some layers | [`layers_to_folder`] |
//!
//! Blocking on purpose: a transfer runs on a thread of its own. One connection at a time; a cut is resumed by byte range,
//! in this run or the next. Whole files are checked while they stream: large ones by their SHA-256, small ones by their
//! git id. The client is our own, because hf-hub 1.0 no longer resumes (hf-hub#196) and its ranges met compressed answers
//! (hf-hub#141).
#![forbid(unsafe_code)]

mod cache;
mod check;
mod client;
mod endpoint;
mod error;
mod files;
mod layers;
pub mod limits;
mod meter;
mod origin;
mod part;
mod place;
mod pull;
mod repo;
mod subset;
mod transfer;

pub use cache::HubCache;
pub use endpoint::Endpoint;
pub use error::HubError;
pub use layers::layers_to_folder;
pub use meter::{Progress, Watch};
pub use origin::Origin;
pub use pull::{Pulled, to_cache, to_folder};
pub use repo::{Repo, RepoError};
