//! Proves that no panic can be reached in `syn1-core`, on two microcontrollers and in WebAssembly, and holds its size and
//! stack on the common one to budgets.
//!
//! `syn1-core/proof` is firmware with a panic handler that calls a function which exists nowhere. If the optimiser leaves
//! any path to a panic, a linker names that function, or, for WebAssembly, makes it an import. The same programs are
//! measured: bytes of code and the largest stack frame, as the compiler wrote it into the section `.stack_sizes`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::elf::{Measured, measure};
use crate::toolchain::{Std, Toolchain};
use crate::{c, root};

/// Builds the proof for each target, checks that it can fail, and measures it.
pub(crate) fn check() -> Result<()> {
    let proof = root()?.join("syn1-core/proof");
    let mut complaints = Vec::new();
    for target in TARGETS {
        let toolchain = Toolchain::find(target, Std::Core)?;
        let built = build(&toolchain, &proof, false)?;
        for budget in BUDGETS {
            let program = program(&built, budget.program)?;
            if let Some(panic) = witness(&program) {
                bail!("a panic can be reached in syn1-core for {target}: {panic}");
            }
            if target == MEASURED {
                let measured = measure(&program, ENTRY).context("the program is no ELF file as expected")?;
                println!("{}", budget.line(&measured));
                complaints.extend(budget.complaints(&measured));
            }
        }
        planted(&toolchain, &proof)?;
        println!("{target}: no panic can be reached; a planted one is found, as it must be (with {})", toolchain.name);
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    c::proof()
}

/// Builds the proof's programs and says where they lie.
fn build(toolchain: &Toolchain, proof: &Path, planted: bool) -> Result<PathBuf> {
    // Beside the sound programs, so that both stay built.
    let folder = proof.join(if planted { "target/planted" } else { "target" });
    let mut command = toolchain.cargo("build", proof);
    command.args(["--quiet", "--release", "--bins", "--examples"]).args(planted.then_some("--features=planted"));
    command.env("CARGO_TARGET_DIR", &folder).env_remove("CARGO_ENCODED_RUSTFLAGS");
    // The section of stack sizes is an option of unreleased compilers, and this is how to have it in a released one.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zemit-stack-sizes");
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the proof does not build for {}:\n{said}", toolchain.target);
    Ok(folder.join(toolchain.target).join("release"))
}

/// Proves nothing itself: shows that the proof would have failed.
fn planted(toolchain: &Toolchain, proof: &Path) -> Result<()> {
    match build(toolchain, proof, true) {
        Ok(built) => {
            for Budget { program: name, .. } in BUDGETS {
                ensure!(
                    witness(&program(&built, name)?).is_some(),
                    "a planted panic is not seen: the proof proves nothing"
                );
            }
        }
        Err(error) => ensure!(error.to_string().contains(WITNESS), "the planted panic failed otherwise: {error}"),
    }
    Ok(())
}

/// A built program; in WebAssembly it has an extension.
fn program(built: &Path, name: &str) -> Result<Vec<u8>> {
    let paths = [built.join(name), built.join(name).with_extension("wasm")];
    let path = paths.iter().find(|path| path.exists());
    let path = path.with_context(|| format!("{} was not built", paths[0].display()))?;
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Says that a program which did link names the function that exists nowhere.
fn witness(program: &[u8]) -> Option<String> {
    let named = program.windows(WITNESS.len()).any(|window| window == WITNESS.as_bytes());
    named.then(|| format!("the program imports {WITNESS}"))
}

/// What one of the proof's programs may take.
struct Budget {
    program: &'static str,
    what: &'static str,
    /// Bytes of code, without the compiler's run-time library (memcpy, f64 arithmetic) and the program's own loop.
    code: u64,
    /// Bytes of the largest stack frame, without that of the program's own loop.
    stack: u64,
}

const BUDGETS: [Budget; 2] = [
    Budget { program: "receiver", what: "header, decoder and Q8 decoding", code: 2048, stack: 512 },
    Budget { program: "whole", what: "the whole crate with messages and session", code: 16_384, stack: 512 },
];

impl Budget {
    fn line(&self, measured: &Measured) -> String {
        let Self { what, code, stack, .. } = self;
        let Measured { code: bytes, library, frame, .. } = measured;
        format!(
            "{what}: {bytes} of {code} bytes of code, stack frames up to {frame} of {stack} bytes (and {library} bytes of \
             the compiler's library)"
        )
    }

    fn complaints(&self, measured: &Measured) -> Vec<String> {
        let Self { what, code, stack, .. } = self;
        let Measured { code: bytes, frame, of_frame, .. } = measured;
        let mut complaints = Vec::new();
        if bytes > code {
            complaints.push(format!("{what} takes {bytes} bytes of code where {code} are the budget"));
        }
        if frame > stack {
            complaints
                .push(format!("{what}: a stack frame takes {frame} bytes where {stack} are the budget: {of_frame}"));
        }
        complaints
    }
}

/// A Cortex-M3 without a unit for floats, a Cortex-M4 with one for f32, and a browser.
const TARGETS: [&str; 3] = ["thumbv7m-none-eabi", MEASURED, "wasm32-unknown-unknown"];
const MEASURED: &str = "thumbv7em-none-eabihf";

/// What the proof's panic handler calls.
const WITNESS: &str = "syn1_a_panic_is_reachable";
/// Where the proof's programs begin.
const ENTRY: &str = "_start";

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { program: "p", what: "it", code: 100, stack: 10 };

    fn measured(code: u64, frame: u64) -> Measured {
        Measured { code, library: 0, frame, of_frame: "f".to_owned() }
    }

    #[test]
    fn only_what_passes_its_budget_is_a_complaint() {
        assert_eq!(BUDGET.complaints(&measured(100, 10)), [""; 0]);
        assert_eq!(BUDGET.complaints(&measured(101, 10)), ["it takes 101 bytes of code where 100 are the budget"]);
        let frame = "it: a stack frame takes 11 bytes where 10 are the budget: f";
        assert_eq!(BUDGET.complaints(&measured(100, 11)), [frame]);
    }

    #[test]
    fn a_program_that_names_the_missing_function_is_seen() {
        assert!(witness(b"\0asm\x01\0env\x19syn1_a_panic_is_reachable\0").is_some());
        assert!(witness(b"\0asm\x01\0env\x19syn1_a_panic_is_reachablf\0").is_none());
        assert!(witness(b"").is_none());
    }
}
