//! `cargo xtask web`: the browser's node as the files that a coordinator serves.
//!
//! cargo compiles `node-web` to WebAssembly, wasm-bindgen, linked in here at the version that the lock file names, makes the
//! module that JavaScript loads, and all of it is compressed once: a coordinator sends the bytes as they lie in
//! `node-web/pkg`, which its build script takes up.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use wasm_bindgen_cli_support::Bindgen;

use crate::toolchain::{Std, Toolchain, variable};
use crate::{root, run};

/// Builds the bundle and prints its size.
pub(crate) fn build() -> Result<()> {
    let folder = root()?.join("node-web");
    let made = tempfile::tempdir().context("cannot make a folder for the bundle")?;
    bind(&compile()?, made.path())?;
    for name in ["syn1.js", "worker.js"] {
        let from = folder.join("js").join(name);
        fs::copy(&from, made.path().join(name)).with_context(|| format!("cannot read {}", from.display()))?;
    }
    let package = folder.join("pkg");
    fs::create_dir_all(&package).with_context(|| format!("cannot make {}", package.display()))?;
    let (mut raw, mut packed) = (0, 0);
    for name in FILES {
        let path = made.path().join(name);
        let bytes = fs::read(&path).with_context(|| format!("{name} was not built"))?;
        let small = compressed(&bytes)?;
        println!("{name:12} {:>9} bytes, {:>8} compressed", bytes.len(), small.len());
        (raw, packed) = (raw + bytes.len(), packed + small.len());
        write(&package.join(name).with_extension(extension(name)), &small)?;
    }
    println!("{:12} {raw:>9} bytes, {packed:>8} compressed, in {}", "the bundle:", package.display());
    ensure!(packed <= BUDGET, "the bundle has {packed} bytes compressed, {BUDGET} are its budget");
    Ok(())
}

/// Compiles the crate; says where the module lies.
fn compile() -> Result<PathBuf> {
    let toolchain = Toolchain::find(TARGET, Std::All)?;
    let target = root()?.join("target/web");
    let mut command = toolchain.cargo("build", root()?);
    command.args(["--quiet", "--package", "syn1-node-web", "--profile", "web"]);
    command.env("CARGO_TARGET_DIR", &target).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTFLAGS");
    // Every browser with WebGPU has SIMD, and those without need it more.
    command.env(variable(TARGET, "RUSTFLAGS"), "-Ctarget-feature=+simd128");
    println!("node-web with {}", toolchain.name);
    run(&mut command)?;
    Ok(target.join(TARGET).join("web/syn1_node_web.wasm"))
}

/// Makes `node.js` and `node_bg.wasm` of the module.
fn bind(module: &Path, out: &Path) -> Result<()> {
    let mut bindgen = Bindgen::new();
    bindgen.input_path(module).web(true)?.typescript(false).omit_default_module_path(true).out_name("node");
    bindgen.remove_name_section(true).remove_producers_section(true);
    bindgen.generate(out).with_context(|| format!("wasm-bindgen makes nothing of {}", module.display()))
}

fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn extension(name: &str) -> String {
    let extension = Path::new(name).extension().unwrap_or_default().to_string_lossy();
    format!("{extension}.gz")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // What has not changed is not written: the coordinator would be built anew.
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

const TARGET: &str = "wasm32-unknown-unknown";

/// What a page loads.
const FILES: [&str; 4] = ["syn1.js", "worker.js", "node.js", "node_bg.wasm"];

/// Bytes of the compressed bundle at most: a phone on a slow network waits for them.
const BUDGET: usize = 1_500_000;
