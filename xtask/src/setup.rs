//! What the tests need beside Rust: installed where that is allowed, else named.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::run;

/// Mesa's software Vulkan, on which the GPU kernels behave the same on every machine. Says whether it is here.
pub(crate) fn software_vulkan() -> Result<bool> {
    let driver = || {
        Path::new("/usr/share/vulkan/icd.d").read_dir().is_ok_and(|mut dir| {
            dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("lvp_icd")))
        })
    };
    ensure("software Vulkan for the GPU kernels", driver, &["libvulkan1", "mesa-vulkan-drivers"])
}

/// Python, in which the protocol's second implementation is written. Says whether it is here.
pub(crate) fn python() -> Result<bool> {
    let python = || {
        let version = Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    ensure("Python 3 for the protocol's second implementation", python, &["python3"])
}

/// Installs Debian packages as root. In CI what cannot be had is an error; elsewhere it is named and left out.
fn ensure(what: &str, is_here: impl Fn() -> bool, packages: &[&str]) -> Result<bool> {
    if is_here() {
        return Ok(true);
    }
    let packages_text = packages.join(" ");
    if is_root() && Path::new("/usr/bin/apt-get").exists() {
        println!("== install {packages_text}");
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))?;
        if !is_here() {
            bail!("{packages_text} did not bring {what}");
        }
        return Ok(true);
    }
    if env::var_os("CI").is_some() {
        bail!("the tests need {what}: install {packages_text}");
    }
    eprintln!("note: NOT tested: {what} is not here; install it (Debian: apt-get install {packages_text})");
    Ok(false)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
