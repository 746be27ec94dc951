//! Who may ask over HTTP: API keys, pages of other sites, and rates.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use syn1_coordinator::access::{Access, ApiKey};
use syn1_coordinator::front::Origin;

/// Who may ask over HTTP.
#[derive(Args, Clone, Default)]
pub(crate) struct AccessOptions {
    /// Give text and the swarm's state only to who sends this key (`Authorization: Bearer KEY`), or one of a file's, which
    /// has a key a line; can be given several times. A file keeps keys out of process lists [default: both for everybody]
    #[arg(long, value_name = "KEY|FILE", env = "SYN1_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// A key, or a file of keys, that opens everything; with one, /metrics opens to no other
    #[arg(long, value_name = "KEY|FILE", env = "SYN1_ADMIN_KEY", hide_env_values = true)]
    admin_key: Vec<String>,
    /// Let pages of this web site ask, by its scheme, host and port; can be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<Origin>,
    /// Requests for text in a minute by one key, or from one address without keys; 0 for any number
    #[arg(long, value_name = "N", default_value_t = 600)]
    rate: u32,
}

impl AccessOptions {
    /// Who may ask, the keys read.
    ///
    /// # Errors
    /// A file that cannot be read or has no key, and a text that is no key.
    pub(crate) fn access(&self) -> Result<Access> {
        Ok(Access {
            users: keys("--api-key", &self.api_key)?,
            admins: keys("--admin-key", &self.admin_key)?,
            origins: self.cors.clone(),
            per_minute: NonZeroU32::new(self.rate),
        })
    }
}

/// What is said where others can reach what has no keys.
pub(crate) fn warning(access: &Access, http: SocketAddr) -> Option<String> {
    (access.is_open() && !http.ip().is_loopback()).then(|| {
        format!("note: whoever reaches port {} can ask for text: --api-key KEY|FILE asks for a key", http.port())
    })
}

fn keys(option: &str, given: &[String]) -> Result<Vec<ApiKey>> {
    let mut keys = Vec::new();
    for given in given {
        let path = Path::new(given);
        if path.is_file() {
            keys.extend(of_file(path)?);
        } else if given.contains(['/', '\\', '.']) {
            // A key that was mistyped as a file is noticed; a file's name as a key would not be.
            bail!("{option} {given}: there is no such file; a key with / \\ or . in it has to stand in a file");
        } else {
            // The text is not repeated: it may be a key with a slip.
            keys.push(given.parse().with_context(|| option.to_owned())?);
        }
    }
    Ok(keys)
}

/// A key a line; empty lines and those that begin with # are none.
fn of_file(path: &Path) -> Result<Vec<ApiKey>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the keys of {}", path.display()))?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let key = |(index, line): (usize, &str)| {
        line.parse::<ApiKey>().with_context(|| format!("line {} of {}", index + 1, path.display()))
    };
    let keys: Vec<ApiKey> = lines.map(key).collect::<Result<_>>()?;
    ensure!(!keys.is_empty(), "{} has no key: write one a line", path.display());
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_themselves_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        fs::write(&file, "# ours\n  first-key-of-the-file\n\nsecond/key.of+the=file\r\n").unwrap();
        let file = file.to_str().unwrap().to_owned();
        let found = keys("--api-key", &[file, "one-key-by-itself".into()]).unwrap();
        let wanted = ["first-key-of-the-file", "second/key.of+the=file", "one-key-by-itself"];
        assert_eq!(found, wanted.map(|key| key.parse::<ApiKey>().unwrap()));
    }

    #[test]
    fn a_missing_file_and_a_short_key_are_refused_and_keys_are_not_repeated() {
        let error = |given: &str| format!("{:#}", keys("--api-key", &[given.to_owned()]).unwrap_err());
        assert!(error("keys/ours.txt").contains("no such file"));
        assert!(error("hunter2").contains("16") && !error("hunter2").contains("hunter2"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        fs::write(&file, "# none\n").unwrap();
        assert!(error(file.to_str().unwrap()).contains("has no key"));
        fs::write(&file, "# ours\nhunter2\n").unwrap();
        let said = error(file.to_str().unwrap());
        assert!(said.contains("line 2") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn only_what_is_open_to_others_is_warned_of() {
        let at = |address: &str| warning(&Access::default(), address.parse().unwrap());
        assert_eq!(at("127.0.0.1:7780"), None);
        assert!(at("0.0.0.0:7780").unwrap().contains("--api-key"));
        let locked = Access { users: vec!["a-key-long-enough".parse().unwrap()], ..Access::default() };
        assert_eq!(warning(&locked, "0.0.0.0:7780".parse().unwrap()), None);
    }
}
