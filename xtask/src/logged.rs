//! Every public type of `syn1-core` can be logged on a microcontroller: it has `defmt::Format` behind the feature `defmt`.
//!
//! So has every error of the crates that firmware links beside it: their other types are buffers and tasks, which nobody logs.
//!
//! What the feature `testing` brings is exempt: it runs on hosts only.

use anyhow::{Result, ensure};

use crate::root;
use crate::spec::collect;

/// Looks at each declaration of a public struct or enum.
pub(crate) fn check() -> Result<()> {
    let mut sources = Vec::new();
    collect(root()?, &root()?.join("syn1-core/src"), &mut sources)?;
    let texts = sources.iter().filter(|(path, _)| !path.contains("testing")).map(|(_, text)| text);
    let types: Vec<_> = texts.flat_map(|text| types(text)).collect();
    let missing: Vec<_> = types.iter().filter(|(_, logged)| !logged).map(|(name, _)| *name).collect();
    ensure!(!types.is_empty(), "no public type was found");
    ensure!(missing.is_empty(), "these public types have no defmt::Format: {}", missing.join(", "));
    let mut errors = 0;
    for folder in ["transport-tcp", "transport-serial", "kernels-int", "node-micro"] {
        let mut sources = Vec::new();
        collect(root()?, &root()?.join(folder).join("src"), &mut sources)?;
        for (path, text) in &sources {
            let all = self::types(text);
            for error in self::errors(text) {
                let logged = all.iter().find(|(name, _)| *name == error).is_some_and(|(_, logged)| *logged);
                ensure!(logged, "{path}: the error {error} has no defmt::Format");
                errors += 1;
            }
        }
    }
    ensure!(errors > 0, "no error was found");
    println!("{} public types and {errors} errors, each with defmt::Format", types.len());
    Ok(())
}

/// The names of the types that a source makes errors.
fn errors(source: &str) -> Vec<&str> {
    let made = source.lines().filter(|line| line.starts_with("impl")).filter_map(|line| line.split_once("Error for "));
    let made = made.filter(|(before, _)| before.ends_with("core::error::") || before.ends_with([' ', '>']));
    made.map(|(_, name)| name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()).collect()
}

/// The names of the public types that a source declares, and whether their attributes derive `defmt::Format`.
fn types(source: &str) -> Vec<(&str, bool)> {
    let (mut found, mut logged) = (Vec::new(), false);
    for line in source.lines() {
        let declared = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
        if let Some(rest) = declared {
            found.push((rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default(), logged));
        }
        logged = line.starts_with("#[") && (logged || line.contains("derive(defmt::Format)"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_other_traits() {
        let source = "\
impl core::error::Error for A {}
impl<E: Error + 'static> Error for B<E> {
impl embedded_io_async::Error for C {
impl fmt::Display for D {}
";
        assert_eq!(errors(source), ["A", "B"]);
    }

    #[test]
    fn a_type_without_the_derive_is_seen() {
        let source = "\
/// A.
#[cfg_attr(feature = \"defmt\", derive(defmt::Format))]
#[derive(Debug)]
pub struct A<'a> {
    a: &'a u8,
}

#[derive(Debug)]
pub enum B {}

struct Private;
pub struct C(u8);
";
        assert_eq!(types(source), [("A", true), ("B", false), ("C", false)]);
    }
}
