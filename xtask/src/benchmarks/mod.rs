//! `cargo xtask benchmarks`: tables and plots of `docs/benchmarks` from the raw files beside them.

mod checks;
mod decode;
mod fairness;
mod fusion;
mod kernels;
mod loop_parts;
mod ops;
mod pipeline;
mod plot;
mod raw;
mod streams;
mod swarm;
mod tabs;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::root;

/// Writes `docs/benchmarks`; with `--check` fails if something there would change.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let check = match args {
        [] => false,
        [only] if only == "--check" => true,
        _ => bail!("benchmarks takes nothing but --check"),
    };
    let folder = root()?.join("docs/benchmarks");
    let files = rendered(&folder)?;
    if check {
        return compare(&folder, &files);
    }
    for (name, text) in &files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{} files in {}", files.len(), folder.display());
    Ok(())
}

/// Everything that follows from the raw files: names in the folder and texts.
fn rendered(folder: &Path) -> Result<Vec<(String, String)>> {
    let raw = raw::read(&folder.join("raw"))?;
    let mut files = Vec::new();
    let mut text = String::new();
    decode::render(&raw, &mut text, &mut files)?;
    ops::render(&raw, &mut text);
    kernels::render(&raw, &mut text);
    loop_parts::render(&raw, &mut text);
    fairness::render(&raw, &mut text);
    swarm::render(&raw, &mut text);
    tabs::render(&raw, &mut text);
    pipeline::render(&raw, &mut text);
    fusion::render(&raw, &mut text, &mut files)?;
    streams::render(&raw, &mut text);
    checks::render(&raw, &mut text);
    let path = folder.join(README);
    let readme = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    files.push((README.into(), between(&readme, &text)?));
    Ok(files)
}

/// Fails if a file is not what it would be now, or is a plot that nothing makes any more.
fn compare(folder: &Path, files: &[(String, String)]) -> Result<()> {
    let mut stale = Vec::new();
    for (name, text) in files {
        if fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text) {
            stale.push(name.clone());
        }
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".svg") && !files.iter().any(|(made, _)| *made == name) {
            stale.push(name);
        }
    }
    if !stale.is_empty() {
        bail!(
            "docs/benchmarks does not say what its raw files say: {}; run `cargo xtask benchmarks`",
            stale.join(", ")
        );
    }
    Ok(())
}

/// `readme` with `text` between its markers.
fn between(readme: &str, text: &str) -> Result<String> {
    let split = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = split.with_context(|| format!("{README} lacks {BEGIN} or, behind it, {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", text.trim()))
}

const README: &str = "README.md";

const BEGIN: &str = "<!-- measured: written by `cargo xtask benchmarks` -->";

const END: &str = "<!-- end of what was measured -->";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_replaces_only_what_stands_between_the_markers() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = between(&readme, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(between(&once, "new\n").unwrap(), once);
        assert!(between("no markers", "new").is_err());
    }

    #[test]
    fn a_changed_table_and_a_plot_without_a_source_are_stale() {
        let folder = tempfile::tempdir().unwrap();
        let files = [("a.svg".to_owned(), "plot".to_owned())];
        assert!(compare(folder.path(), &files).is_err());
        fs::write(folder.path().join("a.svg"), "plot").unwrap();
        assert!(compare(folder.path(), &files).is_ok());
        fs::write(folder.path().join("b.svg"), "old").unwrap();
        assert!(compare(folder.path(), &files).unwrap_err().to_string().contains("b.svg"));
    }
}
