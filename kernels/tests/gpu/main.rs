//! The GPU engine against a plain forward pass, against the models' published outputs, and against itself.
//!
//! Needs an adapter: without one, every test fails and says what to install.

mod decode;
mod errors;
mod golden;
mod greedy;
mod hop;
mod persist;
#[path = "../plain/mod.rs"]
mod plain;
mod results;
mod setup;
mod step;
mod together;
