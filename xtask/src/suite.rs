//! `cargo xtask test`: every check, in the order in which a mistake is cheapest to find.
//!
//! What a user's machine lacks and may not be given is left out by name; CI leaves out nothing.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::setup::or_note;
use crate::{
    big_endian, built, c, cargo, cargo_command, documented, firmware, footprint, fuzz, logged, package, pages,
    powerset, root, run, setup, spec, tabs, web,
};

/// Runs them all.
pub(crate) fn test() -> Result<()> {
    let begun = Instant::now();
    let vulkan = setup::software_vulkan()?;
    let python = setup::python()?;
    let openai = setup::openai_client()?;
    step("format", format)?;
    step("lints", lints)?;
    step("every MUST of the specification is cited", spec::check)?;
    step("defmt on every public type", logged::check)?;
    let bare = step("every combination of features", powerset::check)?;
    // Before whatever takes it up is built.
    let web = or_note("the browser's node", step("the browser's node", web::build))?.is_some();
    step("tests", || tests(vulkan, python, openai))?;
    step("examples", examples)?;
    let pages = step("pages in a browser", pages::check)?;
    let big_endian = step("tests on a big-endian machine", big_endian::check)?;
    step("fuzz seeds", || run(cargo_command(&["test", "--quiet", "--no-default-features"]).current_dir("fuzz")))?;
    let fuzzed = step("fuzz targets, for a short while", fuzz::short)?;
    let tabs = step("browser tabs as nodes", tabs::test)?;
    let footprint = or_note("footprint", step("no panic and small on a microcontroller", footprint::check))?.is_some();
    let c = step("C: header, example and vectors, also on emulated microcontrollers", c::check)?;
    step("embassy-net as a link", || {
        cargo(&["test", "--quiet", "--package", "syn1-transport-tcp", "--features", "embassy", "--test", "embassy"])
    })?;
    let qemu = or_note("firmware", step("firmware in QEMU", || firmware::check(firmware::POWER_CUTS)))?;
    step("peers", || run(cargo_command(&["test", "--quiet"]).current_dir("peers")))?;
    step("benchmarks say what their raw files say", || crate::benchmarks::command(&["--check".to_owned()]))?;
    step("package", package::publishable)?;
    step("docs", || {
        run(cargo_command(&["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("an example in the docs of every public item", documented::check)?;
    let all = vulkan && python && openai && bare && web && pages && big_endian && fuzzed && tabs && footprint && c;
    let all = all && qemu == Some(true);
    let what = if all { "every check passed" } else { "every check passed but those that the notes above name" };
    println!("{what}, in {} s", begun.elapsed().as_secs());
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    apart(&["fmt", "--check"])?;
    for folder in ["syn1-core/proof", "syn1-c/header", "syn1-c/library", "rivals", "firmware", "firmware/qemu"] {
        run(cargo_command(&["fmt", "--check"]).current_dir(root()?.join(folder)))?;
    }
    Ok(())
}

/// Among them clippy's `incompatible_msrv`: nothing that came after the promised compiler is used.
fn lints() -> Result<()> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    apart(&["clippy", "--quiet", "--no-default-features", "--all-targets", "--", "-D", "warnings"])
}

/// The workspaces of their own that this machine can build.
fn apart(args: &[&str]) -> Result<()> {
    for folder in ["fuzz", "peers"] {
        run(cargo_command(args).current_dir(root()?.join(folder)))?;
    }
    Ok(())
}

fn tests(vulkan: bool, python: bool, openai: bool) -> Result<()> {
    let mut skipped = Vec::new();
    if !vulkan {
        skipped.extend(["--skip", "software_vulkan"]);
    }
    if !python {
        skipped.extend(["--skip", "the_reference"]);
    }
    if !openai {
        skipped.extend(["--skip", "the_openai_client"]);
    }
    cargo(&["test", "--package", "xtask"])?;
    let all = [&["test"][..], &built::PACKAGES].concat();
    if vulkan {
        return cargo(&[&all[..], &["--"], &skipped].concat());
    }
    cargo(&[&all[..], &["--exclude", "syn1-kernels", "--"], &skipped].concat())?;
    cargo(&["test", "--package", "syn1-kernels", "--lib", "--test", "cpu", "--test", "cpu_allocation"])
}

fn examples() -> Result<()> {
    built::build()?;
    for example in built::EXAMPLES {
        run(&mut Command::new(built::example(example)?))?;
    }
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let begun = Instant::now();
    let done = work().with_context(|| format!("{name} failed"))?;
    println!("== {name}: {:.0} s", begun.elapsed().as_secs_f64());
    Ok(done)
}
