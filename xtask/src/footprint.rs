//! Proves on a Cortex-M4 that no panic can be reached in `syn1-core`, and holds its size and stack to budgets.
//!
//! `syn1-core/proof` is firmware with a panic handler that calls a function which exists nowhere. If the optimiser leaves
//! any path to a panic, the linker names that function. The same programs are measured: bytes of code and the largest stack
//! frame, as the compiler wrote it into the section `.stack_sizes`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Builds the proof, checks that it can fail, and measures it.
pub(crate) fn check() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
    let proof = root.join("syn1-core/proof");
    let toolchain = Toolchain::find()?;
    println!("built with {}", toolchain.name);
    if let Err(complaint) = toolchain.build(&proof, false)? {
        bail!("a panic can be reached in syn1-core, or the proof does not build:\n{complaint}");
    }
    let built = proof.join("target").join(TARGET).join("release");
    let mut complaints = Vec::new();
    for budget in BUDGETS {
        let path = built.join(budget.program);
        let elf = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let measured = measure(&elf).with_context(|| format!("{} is no ELF file as expected", path.display()))?;
        println!("{}", budget.line(&measured));
        complaints.extend(budget.complaints(&measured));
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    match toolchain.build(&proof, true)? {
        Ok(()) => bail!("a planted panic linked: the proof proves nothing"),
        Err(complaint) if !complaint.contains(WITNESS) => bail!("the planted panic failed otherwise:\n{complaint}"),
        Err(_) => println!("a planted panic does not link, as it must"),
    }
    Ok(())
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
    Budget { program: "whole", what: "the whole crate with messages and session", code: 18_944, stack: 512 },
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

/// A compiler for [`TARGET`].
struct Toolchain {
    name: &'static str,
    cargo: OsString,
    args: &'static [&'static str],
    vars: Vec<(&'static str, OsString)>,
}

impl Toolchain {
    /// The compiler in use if it has the target's library or can get it; else Debian's, which builds that library.
    fn find() -> Result<Self> {
        if has_library() {
            return Ok(Self::in_use());
        }
        if !Self::debian_is_there() {
            let added = Command::new("rustup").args(["target", "add", TARGET]).env("RUSTUP_MAX_RETRIES", "0").status();
            if added.is_ok_and(|status| status.success()) && has_library() {
                return Ok(Self::in_use());
            }
            install_debian()?;
        }
        Self::debian()
    }

    fn in_use() -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self { name: "the compiler in use", cargo, args: &[], vars: Vec::new() }
    }

    fn debian() -> Result<Self> {
        let vars = vec![("RUSTC", DEBIAN_RUSTC.into()), (LINKER, lld()?.into())];
        Ok(Self { name: "Debian's rustc-web", cargo: DEBIAN_CARGO.into(), args: &["-Zbuild-std=core"], vars })
    }

    fn debian_is_there() -> bool {
        [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_SOURCE].iter().all(|path| Path::new(path).exists())
    }

    /// Builds the proof; the inner error is what the compiler said.
    fn build(&self, proof: &Path, planted: bool) -> Result<Result<(), String>> {
        let mut command = Command::new(&self.cargo);
        command.args(["build", "--quiet", "--release", "--target", TARGET]).args(self.args).current_dir(proof);
        if planted {
            // Beside the sound programs, so that both stay built.
            command.args(["--features", "planted", "--target-dir", "target/planted"]);
        }
        // The section of stack sizes is an option of unreleased compilers, and this is how to have it in a released one.
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zemit-stack-sizes")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTC_WRAPPER").envs(self.vars.iter().cloned());
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Ok(()) } else { Err(said) })
    }
}

fn has_library() -> bool {
    let output = Command::new(rustc()).args(["--print", "target-libdir", "--target", TARGET]).output();
    let folder = output.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    folder.and_then(|folder| folder.read_dir().ok()).is_some_and(|mut dir| {
        dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libcore-")))
    })
}

/// The linker that comes with the compiler in use; Debian's has none for this target.
fn lld() -> Result<PathBuf> {
    let output = Command::new(rustc()).args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let tools = Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("lib/rustlib");
    let dirs = tools.read_dir().with_context(|| format!("cannot list {}", tools.display()))?;
    let linkers = dirs.filter_map(|dir| Some(dir.ok()?.path().join("bin/rust-lld")));
    let mut found = linkers.filter(|path| path.exists());
    found.next().with_context(|| format!("no rust-lld below {}: use a toolchain of rustup", tools.display()))
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

fn install_debian() -> Result<()> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "no compiler for {TARGET}: run `rustup target add {TARGET}`, or as root on Debian \
             `apt-get install {}`",
            DEBIAN_PACKAGES.join(" ")
        );
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
        if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"][..], &DEBIAN_PACKAGES].concat())?;
    if !Toolchain::debian_is_there() {
        bail!(
            "{} are installed but brought no {DEBIAN_RUSTC}, {DEBIAN_CARGO} or {DEBIAN_SOURCE}",
            DEBIAN_PACKAGES.join(", ")
        );
    }
    Ok(())
}

/// The sizes of a program.
#[derive(Debug, PartialEq, Eq)]
struct Measured {
    /// Bytes of functions that are neither the compiler's library nor the entry.
    code: u64,
    /// Bytes of functions of the compiler's library.
    library: u64,
    /// Bytes of the largest stack frame but the entry's.
    frame: u64,
    /// Whose it is.
    of_frame: String,
}

fn measure(elf: &[u8]) -> Option<Measured> {
    let sections = sections(elf)?;
    let functions = functions(elf, &sections)?;
    let frames = sections.iter().find(|section| section.name == ".stack_sizes")?;
    let mut measured = Measured { code: 0, library: 0, frame: 0, of_frame: String::new() };
    for function in &functions {
        if function.is_library() {
            measured.library += function.bytes;
        } else if function.name != ENTRY {
            measured.code += function.bytes;
        }
    }
    let mut rest = elf.get(frames.offset..frames.offset + frames.bytes)?;
    while let Some((address, tail)) = rest.split_first_chunk() {
        let address = u32::from_le_bytes(*address);
        let (frame, tail) = leb128(tail)?;
        rest = tail;
        let name = functions.iter().find(|function| function.address == address & !1).map(|function| &*function.name);
        if frame > measured.frame && name != Some(ENTRY) {
            (measured.frame, measured.of_frame) = (frame, name.unwrap_or("a function without name").to_owned());
        }
    }
    (!functions.is_empty() && measured.frame > 0).then_some(measured)
}

/// A section of a 32-bit little-endian ELF file.
struct Section {
    name: String,
    offset: usize,
    bytes: usize,
    /// The section that holds this one's names.
    link: usize,
}

fn sections(elf: &[u8]) -> Option<Vec<Section>> {
    if elf.get(..6)? != b"\x7fELF\x01\x01" {
        return None;
    }
    let (table, count, names) = (word(elf, 32)?, half(elf, 48)?, half(elf, 50)?);
    let field = |section: usize, at: usize| word(elf, table + 40 * section + at);
    let names = field(names, 16)?;
    (0..count)
        .map(|section| {
            let name = text(elf, names + field(section, 0)?)?;
            Some(Section { name, offset: field(section, 16)?, bytes: field(section, 20)?, link: field(section, 24)? })
        })
        .collect()
}

struct Function {
    name: String,
    address: u32,
    bytes: u64,
}

impl Function {
    fn is_library(&self) -> bool {
        let library = ["__aeabi_", "__div", "__mul", "__add", "__sub", "mem"];
        self.name.contains("compiler_builtins") || library.iter().any(|start| self.name.starts_with(start))
    }
}

/// The functions of the symbol table, each address once.
fn functions(elf: &[u8], sections: &[Section]) -> Option<Vec<Function>> {
    let symbols = sections.iter().find(|section| section.name == ".symtab")?;
    let names = sections.get(symbols.link)?.offset;
    let mut functions: Vec<Function> = Vec::new();
    for at in (symbols.offset..symbols.offset + symbols.bytes).step_by(16) {
        let (address, bytes) = (u32::try_from(word(elf, at + 4)?).ok()? & !1, word(elf, at + 8)? as u64);
        let is_function = elf.get(at + 12)? & 15 == 2;
        if is_function && functions.iter().all(|function| function.address != address) {
            functions.push(Function { name: text(elf, names + word(elf, at)?)?, address, bytes });
        }
    }
    Some(functions)
}

fn half(elf: &[u8], at: usize) -> Option<usize> {
    elf.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_le_bytes(*bytes)))
}

fn word(elf: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*elf.get(at..)?.first_chunk()?)).ok()
}

fn text(elf: &[u8], at: usize) -> Option<String> {
    let bytes = elf.get(at..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = 1 + bytes.iter().take(9).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at_checked(len)?;
    Some((number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)), rest))
}

/// A Cortex-M4 with a unit for f32, which many boards have.
const TARGET: &str = "thumbv7em-none-eabihf";
const LINKER: &str = "CARGO_TARGET_THUMBV7EM_NONE_EABIHF_LINKER";

/// What the proof's panic handler calls.
const WITNESS: &str = "syn1_a_panic_is_reachable";
/// Where the proof's programs begin.
const ENTRY: &str = "_start";

const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";

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
    fn numbers_of_stack_sizes_are_read_as_they_are_written() {
        assert_eq!(leb128(&[0x08, 1]), Some((8, &[1][..])));
        assert_eq!(leb128(&[0xd0, 0x0a]), Some((1360, &[][..])));
        assert_eq!(leb128(&[0x80]), None);
    }

    #[test]
    fn what_is_no_elf_file_has_no_sizes() {
        assert_eq!(measure(b"\x7fELF\x02\x01"), None);
        assert_eq!(measure(b""), None);
    }

    #[test]
    fn the_compilers_library_is_told_from_the_crate() {
        let library = |name: &str| Function { name: name.to_owned(), address: 0, bytes: 0 }.is_library();
        assert!(library("__aeabi_memcpy") && library("_RNvNtCsx_17compiler_builtins3mem7memmove") && library("memcmp"));
        assert!(!library("_RNvNtCsx_9syn1_core6header5parse") && !library("_start"));
    }
}
