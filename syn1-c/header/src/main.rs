//! Writes `include/syn1.h`; with `--check` it fails where the file says something else than the sources.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use cbindgen::{Builder, Config};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this crate lies in no folder")?;
    let config = Config::from_file(folder.join("cbindgen.toml"))?;
    let mut text = Vec::new();
    Builder::new().with_crate(folder).with_config(config).generate()?.write(&mut text);
    let path = folder.join("include/syn1.h");
    if env::args().nth(1).as_deref() != Some("--check") {
        return Ok(fs::write(&path, text)?);
    }
    if fs::read(&path)? != text {
        let how = "`cargo run --manifest-path syn1-c/header/Cargo.toml` writes it anew";
        return Err(format!("{} is not what the sources say: {how}", path.display()).into());
    }
    Ok(())
}
