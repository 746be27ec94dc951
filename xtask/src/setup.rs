//! What the tests need beside Rust: installed where that is allowed, else named.

use std::env;
use std::ffi::OsString;
use std::fs::DirEntry;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{built, root, run};

/// Mesa's software Vulkan, on which the GPU kernels behave the same on every machine. Says whether it is here.
pub(crate) fn software_vulkan() -> Result<bool> {
    let driver = || {
        Path::new("/usr/share/vulkan/icd.d").read_dir().is_ok_and(|mut dir| {
            dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("lvp_icd")))
        })
    };
    ensure("software Vulkan for the GPU kernels", driver, &["libvulkan1", "mesa-vulkan-drivers"])
}

/// Chromium, in which the browser's node and the pages are tested. Says whether it is here.
pub(crate) fn chromium() -> Result<bool> {
    ensure("Chromium for the browser's node and the pages", crate::browser::is_here, &["chromium"])
}

/// What gives Chromium an authority to trust. Says whether it is here.
pub(crate) fn certutil() -> Result<bool> {
    // It has no option that only prints something.
    let is_here = || Command::new("certutil").arg("-H").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    ensure("certutil, which gives Chromium an authority to trust", is_here, &["libnss3-tools"])
}

/// Python, in which the protocol's second implementation is written. Says whether it is here.
pub(crate) fn python() -> Result<bool> {
    ensure("Python 3 for the protocol's second implementation", || answers("python3"), &["python3"])
}

/// OpenAI's client for Python, which the API is asked with. Says whether it is here.
pub(crate) fn openai_client() -> Result<bool> {
    let had = ensure("Python's venv for OpenAI's client", has_venv, &["python3", "python3-venv"]);
    let made = had.and_then(|has_venv| if has_venv { make_openai_client().map(|()| true) } else { Ok(false) });
    Ok(or_note("the API with OpenAI's client", made)?.unwrap_or(false))
}

fn has_venv() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import ensurepip, venv"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// In the folder that the test looks in. What is there already is not fetched again, so this needs no network twice.
fn make_openai_client() -> Result<()> {
    let root = root()?;
    let folder = built::target()?.join("openai-client");
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let requirements = root.join("cli/tests/it/openai/requirements.txt");
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(python).args(quiet).arg(requirements))
}

/// QEMU's Arm boards, which run the firmware. Says whether they are here.
pub(crate) fn qemu_arm() -> Result<bool> {
    ensure("QEMU for the firmware", || answers("qemu-system-arm"), &["qemu-system-arm"])
}

/// A C++ compiler, which builds libFuzzer. Says whether it is here.
pub(crate) fn cpp_compiler() -> Result<bool> {
    let compiler = || env::var_os("CXX").is_some() || answers("c++");
    ensure("a C++ compiler for libFuzzer", compiler, &["g++"])
}

/// A C compiler. Says whether it is here.
pub(crate) fn c_compiler() -> Result<bool> {
    ensure("a C compiler for SYN1 in C", || answers("cc"), &["gcc", "libc6-dev"])
}

/// A C compiler and newlib for Cortex-M, and an emulator of one. Says whether they are here.
pub(crate) fn c_for_arm() -> Result<bool> {
    let newlib = || {
        let asked = Command::new("arm-none-eabi-gcc").arg("-print-file-name=rdimon.specs").output();
        // A file that the compiler does not find is printed as it was asked for.
        asked.is_ok_and(|output| output.stdout.contains(&b'/'))
    };
    let is_here = || answers("arm-none-eabi-gcc") && newlib() && answers("qemu-system-arm");
    let packages = ["gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"];
    ensure("a C compiler and an emulator for Cortex-M", is_here, &packages)
}

/// What llama.cpp and its bindings are built with.
pub(crate) fn llama_cpp() -> Result<()> {
    let is_here = || answers("cmake") && answers("c++") && has_libclang();
    if !ensure("what builds llama.cpp", is_here, &["cmake", "g++", "libclang-dev"])? {
        bail!("nothing was measured without llama.cpp");
    }
    Ok(())
}

/// Where bindgen looks for it.
fn has_libclang() -> bool {
    let any = |folder: &Path, of: &dyn Fn(DirEntry) -> bool| {
        folder.read_dir().is_ok_and(|mut dir| dir.any(|entry| entry.is_ok_and(of)))
    };
    let is_libclang = |entry: DirEntry| entry.file_name().to_string_lossy().starts_with("libclang.so");
    let in_llvm = |entry: DirEntry| any(&entry.path().join("lib"), &is_libclang);
    env::var_os("LIBCLANG_PATH").is_some() || answers("clang") || any(Path::new("/usr/lib"), &in_llvm)
}

/// The triple of this machine, as the compiler in use calls it.
pub(crate) fn host() -> Result<String> {
    let output = Command::new(rustc()).arg("-vV").output().context("cannot run rustc")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// The compiler in use.
pub(crate) fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// Whether a program runs at all.
pub(crate) fn answers(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What could not be had is an error in CI; elsewhere it is named and left out.
pub(crate) fn or_note<T>(what: &str, had: Result<T>) -> Result<Option<T>> {
    match had {
        Err(error) if env::var_os("CI").is_none() => {
            eprintln!("note: NOT tested: {what}: {error:#}");
            Ok(None)
        }
        had => had.map(Some),
    }
}

/// Installs Debian packages as root. In CI what cannot be had is an error; elsewhere it is named and left out.
pub(crate) fn ensure(what: &str, is_here: impl Fn() -> bool, packages: &[&str]) -> Result<bool> {
    if is_here() {
        return Ok(true);
    }
    let packages_text = packages.join(" ");
    if is_root() && Path::new("/usr/bin/apt-get").exists() {
        install(packages)?;
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

/// Installs Debian packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    println!("== install {}", packages.join(" "));
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null()))
}

pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
