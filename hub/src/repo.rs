//! `ORG/NAME@REV`: which model of a hub, as a text that is safe in a path and in a URL.

use std::fmt;
use std::str::FromStr;

use crate::limits::{MAX_NAME_BYTES, MAX_REVISION_BYTES};

/// A model repository, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    org: String,
    name: String,
    revision: String,
}

/// A text that names no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' names no model of a hub: {reason}; ORG/NAME or ORG/NAME@REV is expected, as in HuggingFaceTB/SmolLM2-135M"
)]
pub struct RepoError {
    text: String,
    reason: &'static str,
}

impl Repo {
    /// The revision where none is named.
    pub const MAIN: &str = "main";

    /// Who published it.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// `ORG/NAME`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// Its folder in a hub cache.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }
}

impl FromStr for Repo {
    type Err = RepoError;

    fn from_str(text: &str) -> Result<Self, RepoError> {
        let wrong = |reason| RepoError { text: text.chars().take(2 * MAX_NAME_BYTES).collect(), reason };
        let (id, revision) = text.split_once('@').unwrap_or((text, Self::MAIN));
        let (org, name) = id.split_once('/').ok_or_else(|| wrong("there is no '/' in it"))?;
        for part in [org, name] {
            check_name(part).map_err(wrong)?;
        }
        check_revision(revision).map_err(wrong)?;
        Ok(Self { org: org.into(), name: name.into(), revision: revision.into() })
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        if self.revision == Self::MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether this is a git commit's id: 40 lowercase hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a file's name is one that can stand in a folder and in a URL as it is.
pub(crate) fn is_plain_file(name: &str) -> bool {
    (1..=MAX_REVISION_BYTES).contains(&name.len()) && name.bytes().all(is_word) && !name.starts_with(['.', '-'])
}

/// The hub's own rules: letters, digits and `-_.`, neither `--` nor `..`, and neither `-` nor `.` at an end.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err("both parts have 1 to 96 characters");
    }
    if !name.bytes().all(is_word) {
        return Err("only letters, digits, '-', '_' and '.' can stand in its parts");
    }
    if name.contains("--") || name.contains("..") || name.starts_with(['-', '.']) || name.ends_with(['-', '.']) {
        return Err("no part has '--' or '..' in it, or '-' or '.' at an end");
    }
    Ok(())
}

fn check_revision(revision: &str) -> Result<(), &'static str> {
    if revision.is_empty() || revision.len() > MAX_REVISION_BYTES {
        return Err("the revision has 1 to 255 characters");
    }
    if !revision.bytes().all(|byte| is_word(byte) || byte == b'/') {
        return Err("only letters, digits, '-', '_', '.' and '/' can stand in a revision");
    }
    if revision.split('/').any(|part| part.is_empty() || part.starts_with(['.', '-']) || part.ends_with('.')) {
        return Err("no part of a revision is empty or begins or ends with '.'");
    }
    Ok(())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_read_and_said_as_people_write_it() {
        for (text, org, name, revision) in [
            ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB", "SmolLM2-135M", "main"),
            ("a/b_c.d@v1.0", "a", "b_c.d", "v1.0"),
            ("a/b@refs/pr/7", "a", "b", "refs/pr/7"),
        ] {
            let repo: Repo = text.parse().unwrap();
            assert_eq!((repo.org(), repo.name(), repo.revision()), (org, name, revision));
            assert_eq!(repo.to_string(), text);
        }
        assert_eq!("a/b@main".parse::<Repo>().unwrap().to_string(), "a/b");
        assert_eq!("a/b".parse::<Repo>().unwrap().folder(), "models--a--b");
    }

    #[test]
    fn what_could_leave_its_folder_or_its_url_is_refused() {
        for text in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a/b/c",
            "a/b--c",
            "a/.b",
            "a\\b/c",
            "a/b?c",
            "a/b#c",
            "a/b%2f",
            "a/b@",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@/x",
            "a/b@x/",
            "a/b@x y",
            "a/b@x\n",
            "é/b",
            "a/b@.x",
            "C:/b",
        ] {
            let error = text.parse::<Repo>().expect_err(text).to_string();
            assert!(error.contains("ORG/NAME@REV"), "{error}");
        }
        assert!(format!("a/{}", "b".repeat(97)).parse::<Repo>().is_err());
    }

    #[test]
    fn plain_files_and_commits_are_told_from_paths() {
        assert!(is_plain_file("model-00001-of-00002.safetensors"));
        for name in ["", "..", ".hidden", "a/b", "a\\b", "a b", "-rf", "a?b"] {
            assert!(!is_plain_file(name), "{name}");
        }
        assert!(is_commit(&"0a".repeat(20)) && !is_commit(&"0A".repeat(20)) && !is_commit("main"));
    }
}
