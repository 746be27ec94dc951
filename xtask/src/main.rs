//! `cargo xtask demo | test`: what would otherwise be shell scripts.
#![forbid(unsafe_code)]

mod footprint;
mod setup;
mod spec;

use std::env;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

  demo [ARGS]   build syn1 and run `syn1 demo ARGS`: text from the bundled model, split across two node processes
                (--once stops after the text; by default the coordinator goes on serving until Ctrl-C)
  test          everything CI runs: format, lints, tests on the CPU and on software Vulkan, fuzz seeds, footprint, docs
  footprint     build the protocol crate for a Cortex-M4, prove that no panic can be reached, and measure it
  help          this text

The tests install what they need where they may (software Vulkan, Python, a compiler for Cortex-M; as root on Debian).
Elsewhere they say what to install and leave out what needs it, except in CI.";

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

/// Every check, in the order in which a mistake is cheapest to find. What a user's machine lacks and may not be given is
/// left out by name; CI leaves out nothing.
fn test() -> Result<()> {
    let begun = Instant::now();
    let vulkan = setup::software_vulkan()?;
    let python = setup::python()?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("every MUST of the specification is cited", spec::check)?;
    step("no_std core", no_std)?;
    step("tests", || tests(vulkan, python))?;
    step("fuzz seeds", || run(cargo_command(&["test", "--quiet", "--no-default-features"]).current_dir("fuzz")))?;
    let footprint = step("no panic and small on a Cortex-M4", footprint::check);
    let footprint = match footprint {
        Err(error) if env::var_os("CI").is_none() => {
            eprintln!("note: NOT checked: {error:#}");
            false
        }
        checked => checked.map(|()| true)?,
    };
    step("docs", || {
        run(cargo_command(&["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    let all = vulkan && python && footprint;
    let what = if all { "every check passed" } else { "every check passed but those that the notes above name" };
    println!("{what}, in {} s", begun.elapsed().as_secs());
    Ok(())
}

fn tests(vulkan: bool, python: bool) -> Result<()> {
    let mut skipped = Vec::new();
    if !vulkan {
        skipped.extend(["--skip", "software_vulkan"]);
    }
    if !python {
        skipped.extend(["--skip", "the_reference"]);
    }
    if vulkan {
        return cargo(&[&["test", "--workspace", "--"][..], &skipped].concat());
    }
    cargo(&[&["test", "--workspace", "--exclude", "syn1-kernels", "--"][..], &skipped].concat())?;
    cargo(&["test", "--package", "syn1-kernels", "--lib", "--test", "cpu", "--test", "cpu_allocation"])
}

/// The core and the stream transport without `std`, each built alone so that no other crate switches it on.
fn no_std() -> Result<()> {
    cargo(&["check", "--package", "syn1-core"])?;
    cargo(&["check", "--package", "syn1-core", "--features", "defmt"])?;
    cargo(&["check", "--package", "syn1-transport-tcp", "--no-default-features"])
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let begun = Instant::now();
    work().with_context(|| format!("{name} failed"))?;
    println!("== {name}: {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    run(&mut cargo_command(args))
}

fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}
