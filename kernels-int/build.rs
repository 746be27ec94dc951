//! Chooses the product's kernel. Compilers in use tell a crate the target's name, but not which instructions it has.

use std::env;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(kernel, values(\"dsp\", \"portable\", \"thumb2\"))");
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("TARGET").unwrap_or_default();
    let kernel = match &*target {
        // Instructions for two products at once, and a unit for floats that reads f16.
        "thumbv7em-none-eabihf" => "dsp",
        // On a Cortex-M33 both are there only if the chip's maker wanted them.
        "thumbv7m-none-eabi" | "thumbv7em-none-eabi" | "thumbv8m.main-none-eabi" | "thumbv8m.main-none-eabihf" => {
            "thumb2"
        }
        _ => "portable",
    };
    println!("cargo:rustc-cfg=kernel=\"{kernel}\"");
}
