//! `cargo xtask demo | test`: what would otherwise be shell scripts.
#![forbid(unsafe_code)]

mod footprint;
mod spec;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

  demo [ARGS]   build syn1 and run `syn1 demo ARGS`: text from the bundled model, split across two node processes
                (--once stops after the text; by default the coordinator goes on serving until Ctrl-C)
  test          everything CI runs: format, lints, tests on the CPU and on software Vulkan, no_std build, docs
  footprint     build the protocol crate for a Cortex-M4, prove that no panic can be reached, and measure it
  help          this text

The tests install software Vulkan where they may (as root on Debian); elsewhere they say what to install and leave out
what needs it, except in CI.";

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let done = match args.next().as_deref() {
        Some("demo") => demo(&args.collect::<Vec<_>>()),
        Some("test") => test(),
        Some("footprint") => footprint::check(),
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(())
        }
        None => Err(anyhow::anyhow!("no command given\n\n{HELP}")),
        Some(other) => Err(anyhow::anyhow!("unknown command {other:?}\n\n{HELP}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &[String]) -> Result<()> {
    cargo(&["build", "--release", "--package", "syn1"])?;
    let args = [&["run", "--quiet", "--release", "--package", "syn1", "--", "demo"][..], &strs(args)].concat();
    cargo(&args)
}

/// Every check, in the order in which a mistake is cheapest to find.
fn test() -> Result<()> {
    let begun = Instant::now();
    let vulkan = software_vulkan()?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("every MUST of the specification is cited", spec::check)?;
    step("no_std core", no_std)?;
    step("tests", || if vulkan { cargo(&["test", "--workspace"]) } else { tests_without_vulkan() })?;
    step("docs", || cargo_with(&["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")]))?;
    let all = if vulkan { "every check passed" } else { "every check but those of the GPU kernels passed" };
    println!("{all} in {} s", begun.elapsed().as_secs());
    Ok(())
}

/// What a machine without any Vulkan driver can test.
fn tests_without_vulkan() -> Result<()> {
    cargo(&["test", "--workspace", "--exclude", "syn1-kernels", "--", "--skip", "software_vulkan"])?;
    cargo(&["test", "--package", "syn1-kernels", "--lib", "--test", "cpu", "--test", "cpu_allocation"])
}

/// The core and the stream transport without `std`, each built alone so that no other crate switches it on.
fn no_std() -> Result<()> {
    cargo(&["check", "--package", "syn1-core"])?;
    cargo(&["check", "--package", "syn1-core", "--features", "defmt"])?;
    cargo(&["check", "--package", "syn1-transport-tcp", "--no-default-features"])
}

/// The GPU kernels are tested on Mesa's software Vulkan, which behaves the same on every machine. Says whether it is here.
fn software_vulkan() -> Result<bool> {
    let installed = || {
        Path::new("/usr/share/vulkan/icd.d").read_dir().is_ok_and(|mut dir| {
            dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("lvp_icd")))
        })
    };
    if !cfg!(target_os = "linux") || installed() {
        return Ok(true);
    }
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        let package = "mesa-vulkan-drivers (Debian, Ubuntu, Fedora), vulkan-swrast (Arch)";
        if env::var_os("CI").is_some() {
            bail!("the tests need software Vulkan: install {package}");
        }
        eprintln!("note: the GPU kernels are NOT tested: there is no software Vulkan here; install {package}");
        return Ok(false);
    }
    step("install software Vulkan", || {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends", "libvulkan1", "mesa-vulkan-drivers"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    })?;
    if !installed() {
        bail!("mesa-vulkan-drivers is installed but brought no software driver (lvp_icd)");
    }
    Ok(true)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let begun = Instant::now();
    work().with_context(|| format!("{name} failed"))?;
    println!("== {name}: {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    cargo_with(args, &[])
}

fn cargo_with(args: &[&str], vars: &[(&str, &str)]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args(args).envs(vars.iter().copied()))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}
