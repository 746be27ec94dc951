//! A Hugging Face folder as SYN1 sees it: architecture, plan of fused ops, packed shards, tokenizer.
//!
//! | question | answer |
//! |---|---|
//! | what is this folder, and is it usable? | [`ModelFolder::open`] |
//! | what does the model compute? | [`Spec`], read from `config.json` by [`Spec::from_config`] |
//! | which bytes and which ops does a layer range need? | [`Plan`], a pure function of `Spec`, [`WeightFormat`] and range |
//! | where do those bytes come from? | [`pack_piece`] out of safetensors, [`load_piece`] out of a split folder |
//! | how does int4 keep near to it? | [`Feedback`] from the [`Moments`] of a product's inputs, with [`pack_block`] or [`split_with`] |
//! | how does another machine get them? | [`split()`] writes content-addressed pieces and a [`Manifest`] |
//! | text to ids and back? | [`Tokenizer`], and [`Detokenizer`] for a stream |
//! | a conversation to ids? | [`Tokenizer::encode_chat`], by the model's [`ChatTemplate`] |
//!
//! Files are never trusted: numbers are checked against [`limits`], tensors against the shapes that the `Spec` asks for,
//! pieces against their SHA-256. What this crate cannot express it refuses by name.
//!
//! In WebAssembly there are no folders and no text: a browser's node gets pieces, and the coordinator keeps the tokenizer.
#![deny(unsafe_code)]

mod bands;
mod bounded;
#[cfg(not(target_family = "wasm"))]
pub mod chat;
pub mod config;
#[cfg(not(target_family = "wasm"))]
mod control;
pub mod date;
#[cfg(not(target_family = "wasm"))]
pub mod detokenizer;
pub mod digest;
mod families;
pub mod feedback;
#[cfg(test)]
mod fixture;
mod fold;
#[cfg(not(target_family = "wasm"))]
pub mod folder;
mod groups;
mod keys;
mod layout;
pub mod limits;
pub mod lines;
pub mod manifest;
mod map;
pub mod moments;
pub mod pack;
pub mod piece;
pub mod plan;
pub mod random;
mod rope;
pub mod source;
pub mod spec;
#[cfg(not(target_family = "wasm"))]
pub mod split;
mod store;
mod threads;
#[cfg(not(target_family = "wasm"))]
mod token_bytes;
#[cfg(not(target_family = "wasm"))]
pub mod tokenizer;
#[cfg(not(target_family = "wasm"))]
pub mod tokenizer_config;
pub mod weights;

#[cfg(not(target_family = "wasm"))]
pub use chat::{ChatError, ChatTemplate, Message};
pub use config::ConfigError;
pub use date::Date;
#[cfg(not(target_family = "wasm"))]
pub use detokenizer::Detokenizer;
pub use digest::{Digest, Hashing};
pub use feedback::{BlockFeedback, Feedback};
#[cfg(not(target_family = "wasm"))]
pub use folder::{FolderError, ModelFolder};
pub use limits::SpecError;
pub use lines::Lines;
pub use manifest::{Calibration, Manifest, ManifestError, ManifestPiece, PieceError, load_piece};
pub use moments::Moments;
pub use pack::{PackError, pack_block, pack_piece};
pub use piece::PieceBytes;
pub use plan::{Piece, Plan, WeightFormat, all_pieces, piece_bytes, piece_weights};
pub use random::random_piece;
pub use source::{Source, SourceError, layer_tensors};
pub use spec::Spec;
#[cfg(not(target_family = "wasm"))]
pub use split::{Calibrated, Progress, SplitError, split, split_layers, split_with};
#[cfg(not(target_family = "wasm"))]
pub use tokenizer::{Tokenizer, TokenizerError};
pub use weights::{Weights, WeightsError};
