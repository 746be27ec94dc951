//! The programs that tests run, built exactly as the tests are.
//!
//! Which features dependencies get follows from the packages that cargo is told of, and from whether anything is built that has
//! dev-dependencies, as examples do. Asked for in any other way, half of the workspace would be compiled a second time.

use std::env::{self, consts::EXE_EXTENSION};
use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, root};

/// Without this crate, whose own dependencies have features of their own.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// Examples with a `main`; the others are built with what proves that no panic can be reached.
pub(crate) const EXAMPLES: [&str; 2] = ["custom_link", "tcp_echo"];

/// Builds `syn1` and the examples.
pub(crate) fn build() -> Result<()> {
    let programs = ["--bin", "syn1", "--example", EXAMPLES[0], "--example", EXAMPLES[1]];
    cargo(&[&["build", "--quiet"], &PACKAGES[..], &programs].concat())
}

/// Where `syn1` lies then.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(folder()?.join("syn1").with_extension(EXE_EXTENSION))
}

/// Where an example lies then.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    Ok(folder()?.join("examples").join(name).with_extension(EXE_EXTENSION))
}

fn folder() -> Result<PathBuf> {
    Ok(target()?.join("debug"))
}

/// The folder of all that cargo builds of this workspace.
pub(crate) fn target() -> Result<PathBuf> {
    let named = env::var_os("CARGO_TARGET_DIR");
    let target = named.map_or_else(|| root().map(|root| root.join("target")), |named| Ok(PathBuf::from(named)))?;
    Ok(std::path::absolute(target)?)
}
