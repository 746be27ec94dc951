//! Where this machine's keys are kept: what coordinators know their nodes by, and nodes their coordinator.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn1_identity::Keys;

use crate::show;

/// The keys in `file`, or in `name` among the user's data; made at the first use.
pub(crate) fn load(file: Option<&Path>, name: &str) -> Result<Keys> {
    let Some(path) = file.map(Path::to_owned).or_else(|| Some(data_dir()?.join(name))) else {
        show::say("no place to keep a key, so it is a new one each time: set SYN1_DATA, or name a file with --key");
        return Ok(Keys::generate()?);
    };
    Keys::load_or_create(&path).context("a key proves who this end is: --key names another file for it")
}

/// Where the user's data lies: `$SYN1_DATA`, else `$XDG_DATA_HOME/syn1`, else `~/.local/share/syn1` (`%APPDATA%\syn1` on
/// Windows).
pub(crate) fn data_dir() -> Option<PathBuf> {
    data_dir_by(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn data_dir_by(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    var("SYN1_DATA")
        .or_else(|| var("XDG_DATA_HOME").map(|dir| dir.join("syn1")))
        .or_else(|| var("APPDATA").map(|dir| dir.join("syn1")))
        .or_else(|| var("HOME").map(|dir| dir.join(".local/share/syn1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_variable_says_where_keys_lie() {
        let all = [("SYN1_DATA", "d"), ("XDG_DATA_HOME", "x"), ("HOME", "h")];
        let from = |set: &[(&str, &str)]| {
            data_dir_by(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
        };
        assert_eq!(from(&all), Some("d".into()));
        assert_eq!(from(&all[1..]), Some("x/syn1".into()));
        assert_eq!(from(&all[2..]), Some("h/.local/share/syn1".into()));
        assert_eq!(from(&[]), None);
    }

    #[test]
    fn a_named_file_is_where_the_key_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my.key");
        let keys = load(Some(&file), "node.key").unwrap();
        assert_eq!(load(Some(&file), "other.key").unwrap().public(), keys.public());
        assert!(file.is_file());
    }
}
