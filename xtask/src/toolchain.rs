//! A compiler for another target than this machine.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, install, is_root};

/// A compiler, and what it takes to build with it for [`target`](Self::target).
pub(crate) struct Toolchain {
    pub(crate) target: &'static str,
    pub(crate) name: &'static str,
    cargo: OsString,
    args: Vec<OsString>,
    vars: Vec<(OsString, OsString)>,
}

/// How much of the standard library a program needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Std {
    /// `core`: firmware.
    Core,
    /// All of it, for a program that ends where it panics.
    All,
    /// All of it and the test harness.
    Tests,
}

impl Toolchain {
    /// The compiler in use if it has the target's library or can get it by rustup; else Debian's, which builds it.
    pub(crate) fn find(target: &'static str, std: Std) -> Result<Self> {
        if has_library(target) || add_library(target) {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            return Ok(Self { target, name: "the compiler in use", cargo, args: Vec::new(), vars: Vec::new() });
        }
        if !debian_is_there() {
            install_debian(target)?;
        }
        let parts = match std {
            Std::Core => "core",
            Std::All => "std,panic_abort",
            Std::Tests => "std,panic_unwind,test",
        };
        let args = vec![format!("-Zbuild-std={parts}").into()];
        let mut vars = vec![("RUSTC".into(), DEBIAN_RUSTC.into()), ("RUSTC_BOOTSTRAP".into(), "1".into())];
        if std != Std::Tests {
            vars.push((variable(target, "LINKER"), lld()?.into()));
        }
        Ok(Self { target, name: "Debian's rustc-web", cargo: DEBIAN_CARGO.into(), args, vars })
    }

    /// `cargo SUBCOMMAND` for the target in a folder.
    pub(crate) fn cargo(&self, subcommand: &str, folder: &Path) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args([subcommand, "--target", self.target]).args(&self.args).current_dir(folder);
        command.env_remove("RUSTC_WRAPPER").envs(self.vars.iter().cloned());
        command
    }
}

/// The environment variable of cargo for a setting of a target.
pub(crate) fn variable(target: &str, setting: &str) -> OsString {
    format!("CARGO_TARGET_{}_{setting}", target.to_uppercase().replace('-', "_")).into()
}

fn has_library(target: &str) -> bool {
    let output = Command::new(setup::rustc()).args(["--print", "target-libdir", "--target", target]).output();
    let folder = output.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    folder.and_then(|folder| folder.read_dir().ok()).is_some_and(|mut dir| {
        dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libcore-")))
    })
}

fn add_library(target: &str) -> bool {
    let added = Command::new("rustup").args(["target", "add", target]).env("RUSTUP_MAX_RETRIES", "0").status();
    added.is_ok_and(|status| status.success()) && has_library(target)
}

/// The linker that comes with the compiler in use; Debian's has none for targets without a system.
fn lld() -> Result<PathBuf> {
    let output = Command::new(setup::rustc()).args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let tools = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib/rustlib");
    let dirs = tools.read_dir().with_context(|| format!("cannot list {}", tools.display()))?;
    let linkers = dirs.filter_map(|dir| Some(dir.ok()?.path().join("bin/rust-lld")));
    let mut found = linkers.filter(|path| path.exists());
    found.next().with_context(|| format!("no rust-lld below {}: use a toolchain of rustup", tools.display()))
}

fn debian_is_there() -> bool {
    [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_SOURCE].iter().all(|path| Path::new(path).exists())
}

fn install_debian(target: &str) -> Result<()> {
    let packages = DEBIAN_PACKAGES.join(" ");
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "no compiler for {target}: `rustup target add {target}`, or as root on Debian `apt-get install {packages}`"
        );
    }
    install(&DEBIAN_PACKAGES)?;
    if !debian_is_there() {
        bail!("{packages} are installed but brought no {DEBIAN_RUSTC}, {DEBIAN_CARGO} or {DEBIAN_SOURCE}");
    }
    Ok(())
}

const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_targets_are_named_as_cargo_reads_them() {
        assert_eq!(variable("thumbv7em-none-eabihf", "LINKER"), "CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER");
    }

    #[test]
    fn a_target_that_nobody_has_has_no_library() {
        assert!(has_library(&setup::host().unwrap()));
        assert!(!has_library("pdp11-dec-unix"));
    }
}
