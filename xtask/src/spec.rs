//! Holds `syn1-core/SPEC.md` and the code together: every clause with a MUST is cited where it is implemented, and every
//! citation names a clause.
//!
//! A clause begins with its number, `**3.2** A receiver MUST ...`, and ends where the next clause or heading begins. A
//! citation is a comment, `// SPEC 3.2` or `// SPEC 3.2, 3.4`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::root;

/// Compares the specification with the sources of the core and of the stream transport.
pub(crate) fn check() -> Result<()> {
    let root = root()?;
    let spec = read(&root.join("syn1-core/SPEC.md"))?;
    let mut sources = Vec::new();
    for folder in ["syn1-core/src", "transport-tcp/src"] {
        collect(root, &root.join(folder), &mut sources)?;
    }
    let clauses = clauses(&spec)?;
    let complaints = compare(&clauses, &sources);
    if !complaints.is_empty() {
        bail!("SPEC.md and the code disagree:\n  {}", complaints.join("\n  "));
    }
    let musts = clauses.values().filter(|must| **must).count();
    println!("{} clauses, {musts} of them with MUST, each cited where it is implemented", clauses.len());
    Ok(())
}

/// A file's path from the root of the repository and its text.
pub(crate) type Source = (String, String);

/// The number of each clause and whether it says MUST.
fn clauses(spec: &str) -> Result<BTreeMap<String, bool>> {
    let mut clauses = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in spec.lines() {
        if let Some(number) = line.strip_prefix("**").and_then(|rest| rest.split_once("** ")).map(|(number, _)| number)
            && is_number(number)
        {
            if clauses.insert(number.to_owned(), false).is_some() {
                bail!("SPEC.md has two clauses {number}");
            }
            current = Some(number.to_owned());
        } else if line.starts_with('#') {
            current = None;
        }
        let says_must = line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "MUST");
        if let Some(must) = current.as_ref().and_then(|number| clauses.get_mut(number)) {
            *must |= says_must;
        }
    }
    Ok(clauses)
}

/// What is cited and does not exist, and what must be cited and is not.
fn compare(clauses: &BTreeMap<String, bool>, sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut cited = BTreeSet::new();
    for (path, text) in sources {
        for (line, number) in text.lines().zip(1..).flat_map(|(text, line)| citations(text).map(move |n| (line, n))) {
            if !clauses.contains_key(number) {
                complaints.push(format!("{path}:{line} cites {number}, which is no clause of SPEC.md"));
            }
            cited.insert(number);
        }
    }
    let missing = clauses.iter().filter(|(number, must)| **must && !cited.contains(number.as_str()));
    complaints
        .extend(missing.map(|(number, _)| format!("clause {number} has a MUST that no `// SPEC {number}` cites")));
    complaints
}

/// The clauses that a line of source cites.
fn citations(line: &str) -> impl Iterator<Item = &str> {
    let list = line.split_once("// SPEC ").map_or("", |(_, list)| list);
    let numbers = list.split(", ").map(|item| item.split([' ', ':', ';']).next().unwrap_or_default());
    numbers.map(|number| number.trim_end_matches('.')).take_while(|number| is_number(number))
}

fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(section, clause)| digits(section) && digits(clause))
}

/// Reads the Rust sources below a folder.
pub(crate) fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            sources.push((name, read(&path)?));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "\
# 1. Title, which MUST not count

**1.1** An end MUST greet. **Bold** words
and lines of the clause belong to it.

**1.2** Only said; MUSTARD is no duty.

**1.3** A receiver
MUST refuse.

## 2. Next
A word that MUST not count for 1.3.

**1.4** Nothing.
";

    fn complaints(source: &str) -> Vec<String> {
        compare(&clauses(SPEC).unwrap(), &[("a.rs".to_owned(), source.to_owned())])
    }

    #[test]
    fn clauses_end_where_the_next_one_or_a_heading_begins() {
        let found: Vec<_> = clauses(SPEC).unwrap().into_iter().collect();
        let expected = [("1.1", true), ("1.2", false), ("1.3", true), ("1.4", false)];
        assert_eq!(found, expected.map(|(number, must)| (number.to_owned(), must)));
        assert!(clauses("**1.1** a\n**1.1** b").is_err());
    }

    #[test]
    fn every_must_cited_and_every_citation_known_is_no_complaint() {
        assert_eq!(complaints("// SPEC 1.1, 1.3: why\n"), [""; 0]);
        assert_eq!(complaints("let x = 1; // SPEC 1.1.\n    // SPEC 1.3\n// SPEC 1.4"), [""; 0]);
    }

    #[test]
    fn a_must_without_citation_fails() {
        let missing = "clause 1.3 has a MUST that no `// SPEC 1.3` cites";
        assert_eq!(complaints("// SPEC 1.1\n// SPEC 1.2, and not 1.3"), [missing]);
    }

    #[test]
    fn a_citation_of_no_clause_fails_with_its_line() {
        let unknown = "a.rs:2 cites 9.9, which is no clause of SPEC.md";
        assert_eq!(complaints("// SPEC 1.1, 1.3\n// SPEC 9.9"), [unknown]);
    }
}
