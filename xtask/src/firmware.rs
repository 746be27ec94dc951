//! `cargo xtask firmware`: builds the images, holds them to budgets, and runs them in QEMU beside native nodes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::elf::section_bytes;
use crate::toolchain::{Std, Toolchain};
use crate::{cargo, cargo_command, root, run, setup};

/// The command, with its arguments.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let power_cuts = match args {
        [] => POWER_CUTS,
        [flag, count] if flag == "--power-cuts" => count.parse().context("--power-cuts needs a number")?,
        _ => bail!("cargo xtask firmware [--power-cuts N]"),
    };
    if !check(power_cuts)? {
        bail!("the images did not run");
    }
    Ok(())
}

/// Builds and runs the images. Says whether QEMU was there to run them.
pub(crate) fn check(power_cuts: u32) -> Result<bool> {
    let images = build()?;
    let mut complaints = Vec::new();
    for budget in BUDGETS {
        complaints.extend(budget.check(&images)?);
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    if !setup::qemu_arm()? {
        return Ok(false);
    }
    cargo(&["build", "--quiet", "--workspace", "--bin", "syn1"])?;
    let root = root()?;
    let named = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = std::path::absolute(named.unwrap_or(root.join("target")))?;
    let program = target.join("debug").join("syn1").with_extension(env::consts::EXE_EXTENSION);
    let mut command = cargo_command(&["run", "--quiet", "--"]);
    command.current_dir(root.join("firmware/qemu")).arg("--images").arg(&images).arg("--syn1").arg(program);
    command.arg("--repository").arg(root).args(["--power-cuts", &power_cuts.to_string()]);
    run(&mut command)?;
    Ok(true)
}

/// Builds the images and says where they lie.
fn build() -> Result<PathBuf> {
    let folder = root()?.join("firmware");
    let toolchain = Toolchain::find(TARGET, Std::Core)?;
    // Settings of a build around this one would take the place of the firmware's own.
    let clean = |command: &mut std::process::Command| {
        command.env("CARGO_TARGET_DIR", folder.join("target"));
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    };
    if toolchain.is_in_use() {
        let mut clippy = toolchain.cargo("clippy", &folder);
        clean(&mut clippy);
        run(clippy.args(["--quiet", "--release", "--", "-D", "warnings"]))?;
    }
    let mut command = toolchain.cargo("build", &folder);
    clean(&mut command);
    run(command.args(["--quiet", "--release"]))?;
    println!("built for {TARGET} with {}", toolchain.name);
    Ok(folder.join("target").join(TARGET).join("release"))
}

/// What an image may take.
struct Budget {
    image: &'static str,
    what: &'static str,
    /// Bytes of code, texts and initial values.
    flash: u64,
    /// Bytes of variables, without the memory for weights and KV caches, and without the stack.
    memory: u64,
}

const BUDGETS: [Budget; 2] = [
    Budget {
        image: "serial",
        what: "a computing node over a UART, without weights",
        flash: 64 << 10,
        memory: 48 << 10,
    },
    Budget { image: "ethernet", what: "a computing node with a network stack", flash: 112 << 10, memory: 72 << 10 },
];

impl Budget {
    fn check(&self, images: &Path) -> Result<Vec<String>> {
        let path = images.join(self.image);
        let elf = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let sum = |names: &[&str]| -> Option<u64> { names.iter().map(|name| section_bytes(&elf, name)).sum() };
        let flash = sum(&[".vector_table", ".text", ".rodata", ".data"]).context("no sections of an image")?;
        let memory = sum(&[".data", ".bss"]).context("no sections of an image")?;
        let weights = sum(&[".uninit"]).context("no memory for weights")?;
        println!(
            "{}: {flash} of {} bytes of flash, {memory} of {} bytes of variables, {weights} for weights and KV caches, no heap",
            self.what, self.flash, self.memory
        );
        let allocator = b"__rust_alloc";
        ensure!(
            !elf.windows(allocator.len()).any(|bytes| bytes == allocator),
            "{} has an allocator: nothing of it may need a heap",
            self.image
        );
        let mut complaints = Vec::new();
        for (what, got, most) in [("flash", flash, self.flash), ("variables", memory, self.memory)] {
            if got > most {
                complaints.push(format!("{}: {got} bytes of {what} where {most} are the budget", self.what));
            }
        }
        Ok(complaints)
    }
}

const TARGET: &str = "thumbv7m-none-eabi";

/// Power cuts of a test; a long run has a thousand.
pub(crate) const POWER_CUTS: u32 = 3;
