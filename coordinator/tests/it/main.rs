//! The coordinator with nodes in memory and over sockets. One test program: each takes long to build.

mod access;
mod core;
mod fair;
mod figures;
mod links;
mod pages;
mod predicted;
mod rebalance;
mod support;
mod web;
mod weights;
