//! The tests of `syn1-core` on a machine that stores numbers the other way round: everything on the wire is little endian,
//! and code that forgets it passes every test on x86 and ARM.
//!
//! The machine is an emulated IBM Z, the one big-endian target whose library rustup and Debian both have.

use std::path::Path;

use anyhow::Result;

use crate::setup::{answers, ensure, or_note};
use crate::toolchain::{Std, Toolchain, variable};
use crate::{root, run};

/// Runs them. Says whether it could: the emulator may be missing, but not in CI.
pub(crate) fn check() -> Result<bool> {
    let emulator = || EMULATORS.into_iter().find(|name| answers(name));
    let here = || emulator().is_some() && answers(LINKER) && Path::new(LIBRARIES).join("lib/libc.so.6").exists();
    if !ensure("an emulated big-endian machine", here, &PACKAGES)? {
        return Ok(false);
    }
    let Some(toolchain) = or_note("big-endian", Toolchain::find(TARGET, Std::Tests))? else { return Ok(false) };
    println!("{TARGET} with {}", toolchain.name);
    let runner = format!("{} -L {LIBRARIES}", emulator().unwrap_or_default());
    let mut command = toolchain.cargo("test", root()?);
    command.args(["--quiet", "--package", "syn1-core", "--lib", "--tests"]);
    command.env(variable(TARGET, "LINKER"), LINKER).env(variable(TARGET, "RUNNER"), runner);
    run(&mut command)?;
    Ok(true)
}

const TARGET: &str = "s390x-unknown-linux-gnu";
const LINKER: &str = "s390x-linux-gnu-gcc";
/// The target's libc, below which the emulator finds the loader.
const LIBRARIES: &str = "/usr/s390x-linux-gnu";
const EMULATORS: [&str; 2] = ["qemu-s390x-static", "qemu-s390x"];
const PACKAGES: [&str; 3] = ["qemu-user-static", "gcc-s390x-linux-gnu", "libc6-dev-s390x-cross"];
