//! `cargo xtask firmware`: builds the images, holds them to budgets, and runs them in QEMU beside native nodes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::elf::section_bytes;
use crate::toolchain::{Std, Toolchain};
use crate::{built, cargo_command, root, run, setup};

/// The command, with its arguments.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let power_cuts = match args {
        [] => POWER_CUTS,
        [flag, count] if flag == "--power-cuts" => count.parse().context("--power-cuts needs a number")?,
        _ => bail!("cargo xtask firmware [--power-cuts N]"),
    };
    if !check(power_cuts)? {
        bail!("not all of it ran");
    }
    Ok(())
}

/// Builds and runs the images. Says whether QEMU and a GPU in software were there to run them.
pub(crate) fn check(power_cuts: u32) -> Result<bool> {
    let mut complaints = Vec::new();
    for target in TARGETS {
        let images = build(target)?;
        println!("{:34} {:>22} {:>22}   (bytes, of their budgets)", format!("{target}, no heap"), "flash", "variables");
        for budget in BUDGETS {
            complaints.extend(budget.check(target, &images)?);
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    if !setup::qemu_arm()? {
        return Ok(false);
    }
    let vulkan = setup::software_vulkan()?;
    built::build()?;
    let root = root()?;
    let mut command = cargo_command(&["run", "--quiet", "--"]);
    command.current_dir(root.join("firmware/qemu")).arg("--images").arg(root.join("firmware/target"));
    command.arg("--syn1").arg(built::program()?).arg("--repository").arg(root);
    command.args(["--power-cuts", &power_cuts.to_string()]);
    if vulkan {
        command.args(["--gpu", SOFTWARE_GPU]);
    }
    run(&mut command)?;
    Ok(vulkan)
}

/// Builds the images for a target and says where they lie.
fn build(target: &'static str) -> Result<PathBuf> {
    let folder = root()?.join("firmware");
    let toolchain = Toolchain::find(target, Std::Core)?;
    // Settings of a build around this one would take the place of the firmware's own.
    let clean = |command: &mut std::process::Command| {
        command.env("CARGO_TARGET_DIR", folder.join("target"));
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    };
    if toolchain.is_in_use() {
        let mut clippy = toolchain.cargo("clippy", &folder);
        clean(&mut clippy);
        run(clippy.args(["--quiet", "--release", "--workspace", "--", "-D", "warnings"]))?;
    }
    let mut command = toolchain.cargo("build", &folder);
    clean(&mut command);
    run(command.args(["--quiet", "--release", "--workspace"]))?;
    Ok(folder.join("target").join(target).join("release"))
}

/// What an image may take.
struct Budget {
    image: &'static str,
    what: &'static str,
    /// Bytes of code, texts and initial values.
    flash: u64,
    /// Bytes of variables, without the memory for weights and KV caches, without the stack, and for the protocol alone
    /// without the frame buffer, which every receiver has.
    memory: u64,
}

const BUDGETS: [Budget; 5] = [
    Budget { image: "frames", what: "protocol: header and decoder", flash: 4 << 10, memory: 256 },
    Budget { image: "q8", what: "protocol, and q8 both ways", flash: 8 << 10, memory: 1 << 10 },
    Budget { image: "relay", what: "relay, UART to Ethernet", flash: 64 << 10, memory: 40 << 10 },
    Budget { image: "serial", what: "computing node over a UART", flash: 64 << 10, memory: 48 << 10 },
    Budget { image: "ethernet", what: "computing node, network stack", flash: 112 << 10, memory: 72 << 10 },
];

impl Budget {
    fn check(&self, target: &str, images: &Path) -> Result<Vec<String>> {
        let path = images.join(self.image);
        let elf = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let sum = |names: &[&str]| -> Option<u64> { names.iter().map(|name| section_bytes(&elf, name)).sum() };
        let flash = sum(&[".vector_table", ".text", ".rodata", ".data"]).context("no sections of an image")?;
        let memory = sum(&[".data", ".bss"]).context("no sections of an image")?;
        let memory = if self.what.starts_with("protocol") { memory.saturating_sub(FRAME_BUFFER) } else { memory };
        let of = |bytes: u64, budget: u64| format!("{bytes} of {budget}");
        println!("  {:32} {:>22} {:>22}", self.what, of(flash, self.flash), of(memory, self.memory));
        let allocator = b"__rust_alloc";
        ensure!(
            !elf.windows(allocator.len()).any(|bytes| bytes == allocator),
            "{} has an allocator: nothing of it may need a heap",
            self.image
        );
        let mut complaints = Vec::new();
        for (what, got, most) in [("flash", flash, self.flash), ("variables", memory, self.memory)] {
            if got > most {
                complaints.push(format!("{target}, {}: {got} bytes of {what} where {most} are the budget", self.what));
            }
        }
        Ok(complaints)
    }
}

/// A Cortex-M3, and a Cortex-M4 with DSP instructions and a unit for floats.
const TARGETS: [&str; 2] = ["thumbv7m-none-eabi", "thumbv7em-none-eabihf"];

/// The frame buffer of `firmware/alone`.
const FRAME_BUFFER: u64 = 24 + 1024;

/// Mesa's Vulkan on the CPU, as `syn1 doctor` names it.
const SOFTWARE_GPU: &str = "llvmpipe";

/// Power cuts of a test; a long run has a thousand.
pub(crate) const POWER_CUTS: u32 = 3;
