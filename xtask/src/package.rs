//! `syn1-core` as its users will get it: packed, unpacked, and built from the package alone.

use anyhow::{Context, Result, bail, ensure};

use crate::cargo_command;

/// `cargo publish` up to the upload must have nothing to complain of.
pub(crate) fn publishable() -> Result<()> {
    let (published, said) = output(&["publish", "--dry-run", "--allow-dirty", "--package", "syn1-core"])?;
    let complaints = complaints(&said);
    if !published {
        // Without a network the registry can't be asked whether the version is free; all else can be checked.
        let (packed, also_said) = output(&["package", "--offline", "--allow-dirty", "--package", "syn1-core"])?;
        ensure!(packed, "{said}\n{also_said}");
        eprintln!("note: the registry was not asked: {said}");
    } else if !complaints.is_empty() {
        bail!("cargo publish complains:\n{}", complaints.join("\n"));
    }
    let (_, files) = output(&["package", "--list", "--allow-dirty", "--package", "syn1-core"])?;
    let missing: Vec<_> =
        WANTED.into_iter().filter(|wanted| files.lines().all(|file| !file.starts_with(wanted))).collect();
    ensure!(missing.is_empty(), "the package lacks {}", missing.join(", "));
    println!("the package builds from its {} files", files.lines().count());
    Ok(())
}

/// What a cargo command says, and whether it succeeded.
fn output(args: &[&str]) -> Result<(bool, String)> {
    let mut command = cargo_command(args);
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// Warnings, but for the one that nothing was uploaded.
fn complaints(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("warning:") && !line.ends_with("due to dry run")).collect()
}

/// What a stranger needs beside the code.
const WANTED: [&str; 7] =
    ["README.md", "CHANGELOG.md", "SPEC.md", "LICENSE-MIT", "LICENSE-APACHE", "vectors/", "reference/"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nothing_was_uploaded_is_no_complaint() {
        let said = "   Packaging x\nwarning: manifest has no documentation\nwarning: aborting upload due to dry run\n";
        assert_eq!(complaints(said), ["warning: manifest has no documentation"]);
    }
}
