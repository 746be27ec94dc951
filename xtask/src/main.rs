//! `cargo xtask demo | test | ..`: what would otherwise be shell scripts.
#![forbid(unsafe_code)]

mod benchmarks;
mod big_endian;
mod browser;
mod built;
mod c;
mod documented;
mod elf;
mod firmware;
mod footprint;
mod fuzz;
mod logged;
mod package;
mod pages;
mod powerset;
mod setup;
mod spec;
mod suite;
mod swarm;
mod tabs;
mod toolchain;
mod web;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

  demo [ARGS]   build syn1 and run `syn1 demo ARGS`: text from the bundled model, split across two node processes
                (--once stops after the text; by default the coordinator goes on serving until Ctrl-C)
  test          everything CI runs: format, lints, every combination of features, tests on the CPU, on software Vulkan
                and on a big-endian machine, fuzzing, footprint, package, docs
  web           build the browser's node, which the coordinator serves once it is built anew
  tabs [ARGS]   the tests of browser tabs as nodes, in headless Chromium with WebGPU on the CPU; with --bench FILE what a hop
                over a tab costs beside one over a native node, as JSON
  fuzz [ARGS]   fuzz the protocol crate: [--minutes N] [TARGET..], by default every target for one minute each
  sim [ARGS]    a swarm in one thread, with nodes that die, hang and come back: [--seeds N] [--from SEED], by default 10,000;
                --liars puts a node among them that computes garbage; `test` plays 1,000, and 300 with one
  benchmarks    make the tables and plots of docs/benchmarks from docs/benchmarks/raw (--check: fail if they are stale)
  footprint     prove that no panic can be reached in the protocol crate on two microcontrollers and in WebAssembly, nor
                in its library for C, and measure its code and stack
  c             SYN1 for C: the header against its sources, the example and the published vectors on this machine and on
                an emulated Cortex-M3 and M4F, and what the library takes of flash and memory
  firmware [ARGS]
                build the firmware, hold it to its budgets, and run it in QEMU in chains with native nodes:
                [--power-cuts N], by default 3
  big-endian    the protocol crate's tests on an emulated big-endian machine
  peers         measure SYN1's codecs against what people would otherwise use; prints the table of the README
  rivals [ARGS] measure syn1 on the CPU against candle and llama.cpp over the same weights, and print JSON and a table:
                [--shape llama-135m|llama-1b] [--weights FORM,..] [--tokens N] [--runs N] (rivals/torch_decode.py is
                for a GPU)
  pages         try the coordinator's pages in headless Chromium
  screenshots   draw them into docs/screenshots, or all of them into a folder: [FOLDER]
  help          this text

The commands install what they need where they may (as root on Debian, and libraries of other targets by rustup).
Elsewhere they say what to install; `test` leaves out what needs it, except in CI.";

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let command = args.next();
    let args: Vec<String> = args.collect();
    let done = match command.as_deref() {
        Some("demo") => demo(&args),
        Some("test") => suite::test(),
        Some("web") => web::build(),
        Some("tabs") => tabs(&args),
        Some("fuzz") => fuzz::command(&args),
        Some("sim") => sim(&args),
        Some("benchmarks") => benchmarks::command(&args),
        Some("footprint") => footprint::check(),
        Some("c") => c(),
        Some("firmware") => firmware::command(&args),
        Some("big-endian") => big_endian(),
        Some("peers") => peers(),
        Some("pages") => pages::command(),
        Some("screenshots") => pages::screenshots(&args),
        Some("rivals") => rivals(&args),
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(())
        }
        None => Err(anyhow!("no command given\n\n{HELP}")),
        Some(other) => Err(anyhow!("unknown command {other:?}\n\n{HELP}")),
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
    // Without the browser's node the demo is a demo all the same.
    if let Err(error) = web::build() {
        eprintln!("note: without the browser's node: {error:#}");
    }
    cargo(&["build", "--release", "--package", "syn1"])?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cargo(&[&["run", "--quiet", "--release", "--package", "syn1", "--", "demo"][..], &args].concat())
}

fn tabs(args: &[String]) -> Result<()> {
    match args {
        [] => {}
        [bench, file] if bench == "--bench" => return tabs::bench::command(Path::new(file)),
        _ => bail!("tabs takes nothing, or --bench FILE"),
    }
    if !tabs::test()? {
        bail!("the tests did not run");
    }
    Ok(())
}

fn sim(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    cargo(&[&["run", "--quiet", "--release", "--package", "syn1-sim", "--"][..], &args].concat())
}

fn big_endian() -> Result<()> {
    if !big_endian::check()? {
        bail!("the tests did not run");
    }
    Ok(())
}

fn c() -> Result<()> {
    if !c::check()? {
        bail!("not all of it ran");
    }
    Ok(())
}

fn peers() -> Result<()> {
    let folder = root()?.join("peers");
    run(cargo_command(&["test", "--quiet"]).current_dir(&folder))?;
    run(cargo_command(&["bench"]).current_dir(&folder))
}

/// Builds what is measured against for this machine's own processor, which the folder's cargo configuration says.
fn rivals(args: &[String]) -> Result<()> {
    setup::llama_cpp()?;
    cargo(&["build", "--release", "--package", "syn1"])?;
    let program = built::target()?.join("release").join("syn1").with_extension(env::consts::EXE_EXTENSION);
    let folder = root()?.join("rivals");
    run(cargo_command(&["test", "--release"]).current_dir(&folder))?;
    let mut command = cargo_command(&["run", "--quiet", "--release", "--", "--syn1"]);
    run(command.arg(program).args(args).current_dir(&folder))
}

fn cargo(args: &[&str]) -> Result<()> {
    run(&mut cargo_command(args))
}

pub(crate) fn cargo_command(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// The repository.
pub(crate) fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
