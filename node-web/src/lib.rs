//! A browser tab's SYN1 node.
//!
//! It runs in a dedicated Worker, which `js/worker.js` sets up and `js/syn1.js` owns; `README.md` is the contract with pages.
//! `Tab` is a running node, the functions `bench` and `fusion` measure this machine.
//!
//! What does not touch a browser is built everywhere, with its tests: the self-test ([`selftest`]) and the shapes of
//! benchmarks ([`shape`]).
#![deny(unsafe_code)]

pub mod selftest;
pub mod shape;

#[cfg(target_family = "wasm")]
mod bench;
#[cfg(target_family = "wasm")]
mod cache;
#[cfg(target_family = "wasm")]
mod device;
#[cfg(target_family = "wasm")]
mod fusion;
#[cfg(target_family = "wasm")]
mod http;
#[cfg(target_family = "wasm")]
mod js;
#[cfg(target_family = "wasm")]
mod machine;
#[cfg(target_family = "wasm")]
mod meter;
#[cfg(target_family = "wasm")]
mod options;
#[cfg(target_family = "wasm")]
mod pieces;
#[cfg(target_family = "wasm")]
mod serve;
#[cfg(target_family = "wasm")]
mod signal;
#[cfg(target_family = "wasm")]
mod tab;
#[cfg(target_family = "wasm")]
mod taker;
#[cfg(target_family = "wasm")]
mod timer;

#[cfg(target_family = "wasm")]
pub use tab::{Tab, begin, bench, fusion};
