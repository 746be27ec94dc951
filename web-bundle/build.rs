//! Takes up what `cargo xtask web` has built, if it has.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node-web/pkg");
    // A folder that is not there counts as changed, until it is.
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut list = String::from("&[\n");
    let files = FILES.map(|(name, kind)| (name, kind, folder.join(format!("{name}.gz"))));
    if files.iter().all(|(_, _, path)| path.exists()) {
        for (name, kind, path) in files {
            println!("cargo::rerun-if-changed={}", path.display());
            let path = path.display().to_string();
            // Writing to a string does not fail.
            let _ = writeln!(list, "File {{ name: {name:?}, kind: {kind:?}, gzip: include_bytes!({path:?}) }},");
        }
    }
    list.push(']');
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    if let Err(error) = fs::write(Path::new(&out).join("files.rs"), list) {
        println!("cargo::error=the list of the bundle's files cannot be written: {error}");
    }
}

/// What a page loads, and what browsers call that.
const FILES: [(&str, &str); 4] = [
    ("syn1.js", "text/javascript; charset=utf-8"),
    ("worker.js", "text/javascript; charset=utf-8"),
    ("node.js", "text/javascript; charset=utf-8"),
    ("node_bg.wasm", "application/wasm"),
];
