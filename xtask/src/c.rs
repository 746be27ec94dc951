//! SYN1 for C: its header, its library, and programs of C on this machine and on emulated microcontrollers.
//!
//! The same two programs run on both: the example, which must have the recorded conversation byte for byte, and the reader of
//! the published vectors, which opens them through semihosting where there is no system. A third one is only linked: its
//! size is that of the protocol behind C.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::{Std, Toolchain};
use crate::{cargo_command, root, run, setup};

/// Runs all of it. Says whether it had the compilers and the emulator.
pub(crate) fn check() -> Result<bool> {
    let folder = root()?.join("syn1-c");
    let header = folder.join("header/Cargo.toml");
    run(cargo_command(&["run", "--quiet", "--manifest-path"]).arg(header).args(["--", "--check"]))?;
    println!("include/syn1.h says what the sources say");
    let on_host = setup::c_compiler()?;
    if on_host {
        host(&folder)?;
    }
    let on_arm = setup::c_for_arm()?;
    if on_arm {
        arm(&folder)?;
    }
    Ok(on_host && on_arm)
}

/// Proves that no panic can be reached through C: the library's panic handler calls a function that exists nowhere, so a
/// library that has a path to a panic names it.
pub(crate) fn proof() -> Result<()> {
    let folder = root()?.join("syn1-c");
    for target in ARM.map(|arm| arm.target) {
        let toolchain = Toolchain::find(target, Std::Core)?;
        let names =
            |planted| -> Result<bool> { Ok(names_a_panic(&fs::read(library(&folder, Some(&toolchain), planted)?)?)) };
        ensure!(!names(false)?, "a panic can be reached in libsyn1.a for {target}");
        ensure!(names(true)?, "a planted panic is not seen in libsyn1.a: the proof proves nothing");
        println!("{target}: no panic can be reached through C; a planted one is found, as it must be");
    }
    Ok(())
}

fn names_a_panic(library: &[u8]) -> bool {
    library.windows(WITNESS.len()).any(|window| window == WITNESS.as_bytes())
}

/// Builds `libsyn1.a` for a target or this machine and says where it lies.
fn library(folder: &Path, toolchain: Option<&Toolchain>, planted: bool) -> Result<PathBuf> {
    let folder = folder.join("library");
    let target = folder.join(if planted { "target/planted" } else { "target" });
    let (mut command, release) = match toolchain {
        Some(toolchain) => (toolchain.cargo("build", &folder), target.join(toolchain.target).join("release")),
        None => (cargo_command(&["build"]), target.join("release")),
    };
    command.args(["--quiet", "--release"]).args(planted.then_some("--features=planted")).current_dir(&folder);
    command.env("CARGO_TARGET_DIR", &target).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTFLAGS");
    run(&mut command)?;
    Ok(release.join("libsyn1.a"))
}

/// The programs on this machine, with the compiler's sanitizers, and the header read by a compiler of C++.
fn host(folder: &Path) -> Result<()> {
    let library = library(folder, None, false)?;
    let built = built(folder)?;
    if setup::cpp_compiler()? {
        let mut command = Command::new("c++");
        command.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++"]);
        run(command.arg(folder.join("include/syn1.h")))?;
    }
    for program in PROGRAMS {
        let mut command = Command::new("cc");
        command.args(WARNINGS).args(["-O1", "-g", "-fsanitize=address,undefined"]).args(includes(folder));
        run(command.arg(folder.join(program)).arg(&library).arg("-o").arg(built.join(stem(program))))?;
    }
    println!("on this machine:");
    run(&mut Command::new(built.join("node")))?;
    run(Command::new(built.join("vectors")).arg(list(&built)?))?;
    let spoilt = spoilt(&built)?;
    let read = Command::new(built.join("vectors")).arg(spoilt).output().context("cannot read a spoilt vector")?;
    ensure!(!read.status.success(), "a spoilt vector is read as if it were sound: the program checks nothing");
    Ok(())
}

/// The programs on QEMU's boards, and the sizes.
fn arm(folder: &Path) -> Result<()> {
    let built = built(folder)?;
    let mut complaints = Vec::new();
    for arm in ARM {
        let library = library(folder, Some(&Toolchain::find(arm.target, Std::Core)?), false)?;
        for program in PROGRAMS {
            let mut command = compiler(folder, &arm);
            command.args(["--specs=rdimon.specs", "-T"]).arg(folder.join("mps2/mps2.ld"));
            command.arg(folder.join("mps2/startup.c")).arg(folder.join(program)).arg(&library);
            if program == NODE {
                command.arg(folder.join("mps2/stack.c")).arg("-Wl,--wrap=printf");
            }
            run(command.arg("-o").arg(built.join(stem(program)).with_extension("elf")))?;
        }
        println!("on QEMU's {}, {}:", arm.machine, arm.target);
        let said = emulate(&arm, &built.join("node.elf"), None)?;
        let stack = stack(&said).with_context(|| format!("the node does not say how deep its stack was:\n{said}"))?;
        println!("{}: at most {stack} of {MOST_STACK} bytes of stack in a whole conversation", arm.target);
        if stack > MOST_STACK {
            complaints.push(format!(
                "{}: the node in C took {stack} bytes of stack, {MOST_STACK} are its budget",
                arm.target
            ));
        }
        emulate(&arm, &built.join("vectors.elf"), Some(&list(&built)?))?;
        let bare = without_rusts_library(&library, &built)?;
        for measured in MEASURED {
            let with_rusts = size(folder, &arm, &measured, &library, &built)?;
            let size = size(folder, &arm, &measured, &bare, &built)?;
            println!("{}", measured.line(arm.target, &size, &with_rusts));
            complaints.extend(measured.complaints(arm.target, &size));
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// A compiler of C for a microcontroller.
fn compiler(folder: &Path, arm: &Arm) -> Command {
    let mut command = Command::new("arm-none-eabi-gcc");
    command.args(WARNINGS).args(["-Os", "-mthumb", "-ffunction-sections", "-fdata-sections"]).args(arm.options);
    command.args(["-Wl,--gc-sections,--no-warn-execstack"]).args(includes(folder));
    command
}

/// Runs a program that ends the emulator itself, and gives what it printed; `argument` is what it is started with beside its
/// name.
fn emulate(arm: &Arm, elf: &Path, argument: Option<&Path>) -> Result<String> {
    let mut semihosting = "enable=on,target=native,arg=program".to_owned();
    if let Some(argument) = argument {
        let _ = write!(semihosting, ",arg={}", argument.display());
    }
    let mut command = Command::new("timeout");
    command.args([PATIENCE_S, "qemu-system-arm", "-M", arm.machine, "-nographic", "-semihosting-config", &semihosting]);
    let output = command.arg("-kernel").arg(elf).output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{said}");
    ensure!(output.status.success(), "{} ended with {}", elf.display(), output.status);
    Ok(said)
}

/// The depth of the stack in what a node printed.
fn stack(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("stack: ")?.split(' ').next()?.parse().ok())
}

/// A copy of the library that leaves memcpy and arithmetic of floats to those of C's compiler, which are smaller.
fn without_rusts_library(library: &Path, built: &Path) -> Result<PathBuf> {
    let copy = built.join("libsyn1.a");
    fs::copy(library, &copy).with_context(|| format!("cannot copy {}", library.display()))?;
    let listed =
        Command::new("arm-none-eabi-ar").arg("t").arg(&copy).output().context("cannot run arm-none-eabi-ar")?;
    let members = String::from_utf8_lossy(&listed.stdout).into_owned();
    let theirs = members.lines().filter(|member| member.starts_with("compiler_builtins"));
    run(Command::new("arm-none-eabi-ar").arg("d").arg(&copy).args(theirs))?;
    Ok(copy)
}

/// Links a program that is only measured.
fn size(folder: &Path, arm: &Arm, measured: &Measured, library: &Path, built: &Path) -> Result<Size> {
    let elf = built.join("alone.elf");
    let mut command = compiler(folder, arm);
    command.args(["-ffreestanding", "--specs=nano.specs", "-nostartfiles"]).args(measured.define);
    command.args(["-Wl,-e,_start,-Ttext=0,-Tdata=0x20000000"]).arg(folder.join("mps2/alone.c")).arg(library);
    run(command.arg("-o").arg(&elf))?;
    let output = Command::new("arm-none-eabi-size").arg(&elf).output().context("cannot run arm-none-eabi-size")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Size::read(&said).with_context(|| format!("arm-none-eabi-size says no sizes:\n{said}"))
}

/// Where programs of C are put.
fn built(folder: &Path) -> Result<PathBuf> {
    let built = folder.join("library/target/c");
    fs::create_dir_all(&built).with_context(|| format!("cannot make {}", built.display()))?;
    Ok(built)
}

fn includes(folder: &Path) -> [String; 2] {
    ["include", "examples"].map(|below| format!("-I{}", folder.join(below).display()))
}

fn stem(program: &str) -> &str {
    program.rsplit('/').next().and_then(|name| name.strip_suffix(".c")).unwrap_or(program)
}

/// A file with the paths of all published vectors.
fn list(built: &Path) -> Result<PathBuf> {
    let mut paths = Vec::new();
    let vectors = root()?.join("syn1-core/vectors");
    for entry in fs::read_dir(&vectors).with_context(|| format!("cannot list {}", vectors.display()))? {
        paths.push(entry?.path().display().to_string());
    }
    paths.sort_unstable();
    write_list(&built.join("vectors.list"), &paths)
}

/// The same of a single vector whose last number of the payload is another one.
fn spoilt(built: &Path) -> Result<PathBuf> {
    let sound = root()?.join("syn1-core/vectors/control-grant.txt");
    let text = fs::read_to_string(&sound).with_context(|| format!("cannot read {}", sound.display()))?;
    let Some((before, line)) = text.split_once("bytes ") else { bail!("{} has no bytes", sound.display()) };
    let (bytes, behind) = line.rsplit_once("\nexpect").context("a vector expects something")?;
    let last = bytes.chars().last().and_then(|digit| digit.to_digit(16)).context("bytes are hexadecimal")?;
    let spoilt = format!("{before}bytes {}{:x}\nexpect{behind}", &bytes[..bytes.len() - 1], last ^ 1);
    let path = built.join("spoilt.txt");
    fs::write(&path, spoilt).with_context(|| format!("cannot write {}", path.display()))?;
    write_list(&built.join("spoilt.list"), &[path.display().to_string()])
}

fn write_list(path: &Path, lines: &[String]) -> Result<PathBuf> {
    fs::write(path, lines.join("\n") + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

/// Bytes of a linked program.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    /// Code, constants, and what static memory begins with.
    flash: u64,
    /// Static memory.
    ram: u64,
}

impl Size {
    /// Out of what GNU's `size` prints: a line of names and a line of numbers.
    fn read(said: &str) -> Option<Self> {
        let mut numbers = said.lines().nth(1)?.split_whitespace();
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let (text, data, bss) = (next()?, next()?, next()?);
        Some(Self { flash: text + data, ram: data + bss })
    }
}

/// What is linked to be measured.
struct Measured {
    what: &'static str,
    define: Option<&'static str>,
    /// The most flash, if that is asserted.
    flash: u64,
    /// The most static memory beside the frame buffer.
    ram: u64,
}

impl Measured {
    fn line(&self, target: &str, size: &Size, with_rusts: &Size) -> String {
        format!(
            "{target}, {} through C: {} of {} bytes of flash, {} of {} of static RAM beside the frame buffer ({} of flash with \
             memcpy and floats of Rust's library)",
            self.what,
            size.flash,
            self.flash,
            size.ram - FRAME_BUFFER,
            self.ram,
            with_rusts.flash
        )
    }

    fn complaints(&self, target: &str, size: &Size) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, bytes, most) in [("flash", size.flash, self.flash), ("RAM", size.ram - FRAME_BUFFER, self.ram)] {
            if bytes > most {
                complaints.push(format!("{target}, {} through C: {bytes} bytes of {name}, at most {most}", self.what));
            }
        }
        complaints
    }
}

/// A microcontroller.
#[derive(Clone, Copy)]
struct Arm {
    target: &'static str,
    options: &'static [&'static str],
    /// QEMU's board with one.
    machine: &'static str,
}

const ARM: [Arm; 2] = [
    Arm { target: "thumbv7m-none-eabi", options: &["-mcpu=cortex-m3"], machine: "mps2-an385" },
    Arm {
        target: "thumbv7em-none-eabihf",
        options: &["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
        machine: "mps2-an386",
    },
];

/// The whole programs, linked with newlib's memcpy and libgcc's floats: nothing of them is left out.
const MEASURED: [Measured; 2] = [
    Measured { what: "header, push decoder, q8 both ways", define: None, flash: 8 * 1024, ram: 1024 },
    Measured { what: "everything with session and messages", define: Some("-DWHOLE"), flash: 36 * 1024, ram: 3 * 1024 },
];

/// The frame buffer of mps2/alone.c.
const FRAME_BUFFER: u64 = 24 + 1024;

/// The programs that run.
const PROGRAMS: [&str; 2] = [NODE, "tests/vectors.c"];
const NODE: &str = "examples/node.c";

/// Bytes of stack that a conversation in C may take.
const MOST_STACK: u64 = 2560;

const WARNINGS: [&str; 5] = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror"];

/// Seconds after which an emulated program is given up; each takes less than one.
const PATIENCE_S: &str = "120";

/// What the library's panic handler calls.
const WITNESS: &str = "syn1_a_panic_is_reachable";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_from_what_gnu_size_prints() {
        let said =
            "   text\t   data\t    bss\t    dec\t    hex\tfilename\n   6300\t      4\t   1384\t   7688\t   1e08\tx\n";
        assert_eq!(Size::read(said), Some(Size { flash: 6304, ram: 1388 }));
        assert_eq!(Size::read("no such file"), None);
    }

    #[test]
    fn the_depth_of_the_stack_is_read_from_what_a_node_prints() {
        assert_eq!(stack("1 bytes heard\nstack: 712 bytes at most\n"), Some(712));
        assert_eq!(stack("1 bytes heard\n"), None);
    }

    #[test]
    fn only_what_passes_its_budget_is_a_complaint() {
        let measured = Measured { what: "it", define: None, flash: 100, ram: 10 };
        let size = |flash, ram| Size { flash, ram: FRAME_BUFFER + ram };
        assert_eq!(measured.complaints("t", &size(100, 10)), [""; 0]);
        assert_eq!(measured.complaints("t", &size(101, 10)), ["t, it through C: 101 bytes of flash, at most 100"]);
        assert_eq!(measured.complaints("t", &size(100, 11)), ["t, it through C: 11 bytes of RAM, at most 10"]);
    }
}
