//! Which hub, with whose rights, and where its files lie here: the variables that Python's tools read.
//!
//! | variable | meaning | where it is not set |
//! |---|---|---|
//! | `HF_ENDPOINT` | the hub | `https://huggingface.co` |
//! | `HF_TOKEN` | the reader's rights | the file `HF_TOKEN_PATH`, else `token` in `HF_HOME` |
//! | `HF_HOME` | the hub's folder here | `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` |
//! | `HF_HUB_CACHE` | the models | `hub` in `HF_HOME` |
//! | `HF_HUB_OFFLINE` | `1`, `true`, `yes` or `on`: no network | network |

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::cache::HubCache;
use crate::error::HubError;
use crate::limits::MAX_TOKEN_BYTES;

/// A hub and this machine's place for it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    base: String,
    token: Option<Token>,
    cache: HubCache,
    offline: bool,
}

/// A reader's rights. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Endpoint {
    /// What the environment says.
    ///
    /// # Errors
    /// A value that cannot be used, by its variable's name; no variable that says where files may lie.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_vars(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// A hub at `base`, asked with `token`, whose files go to `cache`.
    ///
    /// # Errors
    /// A base that is no address and a token that is no word, by the variable that would hold it.
    pub fn new(base: &str, token: Option<&str>, cache: HubCache) -> Result<Self, HubError> {
        let base = base.trim_end_matches('/');
        if !is_http(base) {
            let reason = "an address that begins with https:// or http:// is expected";
            return Err(HubError::Environment { variable: "HF_ENDPOINT", reason });
        }
        let token = token.map(|token| Token::new(token, "HF_TOKEN")).transpose()?;
        Ok(Self { base: base.into(), token, cache, offline: false })
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let home = home(&var);
        let cache = var("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file =
            var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join("token")));
        let token = text(&var, "HF_TOKEN")?;
        let base = text(&var, "HF_ENDPOINT")?.unwrap_or_else(|| HUGGING_FACE.into());
        let mut endpoint = Self::new(&base, token.as_deref(), HubCache::new(cache.ok_or(HubError::NoHome)?))?;
        if let (None, Some(path)) = (&endpoint.token, token_file) {
            endpoint.token = read_token(&path)?;
        }
        let offline = text(&var, "HF_HUB_OFFLINE")?.unwrap_or_default().to_uppercase();
        endpoint.offline = ["1", "ON", "YES", "TRUE"].contains(&offline.as_str());
        Ok(endpoint)
    }

    /// The hub's address, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where whole models go.
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// Whether the user forbids the network.
    pub fn offline(&self) -> bool {
        self.offline
    }

    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

impl Token {
    /// `from` is where it stood, for the message.
    fn new(text: &str, from: &'static str) -> Result<Self, HubError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "a token is one word of visible ASCII characters";
            return Err(HubError::Environment { variable: from, reason });
        }
        Ok(Self(text.into()))
    }

    /// As the `Authorization` header has it.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whether an address is one that this crate can ask.
pub(crate) fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && url.bytes().all(|byte| byte.is_ascii_graphic())
        && !url.contains(['?', '#', '@'])
}

fn home(var: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let user = || var("HOME").or_else(|| var("USERPROFILE")).map(|home| PathBuf::from(home).join(".cache"));
    var("HF_HOME")
        .map(PathBuf::from)
        .or_else(|| var("XDG_CACHE_HOME").map(PathBuf::from).or_else(user).map(|dir| dir.join("huggingface")))
}

fn text(var: &impl Fn(&str) -> Option<OsString>, variable: &'static str) -> Result<Option<String>, HubError> {
    let reason = "it is not a text in UTF-8";
    var(variable).map(|value| value.into_string().map_err(|_| HubError::Environment { variable, reason })).transpose()
}

/// The token that `hf auth login` left, if it did.
fn read_token(path: &Path) -> Result<Option<Token>, HubError> {
    let read = |error| HubError::File { verb: "read the token in", path: path.into(), error };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    let mut text = String::new();
    file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(read)?;
    if text.trim().is_empty() {
        Ok(None)
    } else {
        Token::new(&text, "HF_TOKEN_PATH (or the file token in HF_HOME)").map(Some)
    }
}

const HUGGING_FACE: &str = "https://huggingface.co";

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(vars: &[(&str, &str)]) -> Result<Endpoint, HubError> {
        let vars: Vec<_> = vars.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Endpoint::from_vars(move |name| vars.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_cache_lies_where_python_s_tools_have_it() {
        let all = [("HF_HUB_CACHE", "c"), ("HF_HOME", "h"), ("XDG_CACHE_HOME", "x"), ("HOME", "u")];
        let dirs = ["c", "h/hub", "x/huggingface/hub", "u/.cache/huggingface/hub"];
        for (skipped, dir) in dirs.into_iter().enumerate() {
            assert_eq!(endpoint(&all[skipped..]).unwrap().cache().dir(), Path::new(dir));
        }
        assert!(matches!(endpoint(&[]), Err(HubError::NoHome)));
    }

    #[test]
    fn the_token_comes_from_the_variable_else_from_the_file_and_is_never_printed() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let dir = home.path().to_str().unwrap();
        let header = |vars: &[_]| endpoint(vars).unwrap().token().map(Token::header);
        assert_eq!(header(&[("HF_HOME", dir), ("HF_TOKEN", "hf_var")]).unwrap(), "Bearer hf_var");
        assert_eq!(header(&[("HF_HOME", dir)]).unwrap(), "Bearer hf_file");
        assert_eq!(header(&[("HF_HOME", "/nowhere")]), None);
        let named = home.path().join("token");
        assert!(header(&[("HF_HOME", "/nowhere"), ("HF_TOKEN_PATH", named.to_str().unwrap())]).is_some());
        assert!(!format!("{:?}", endpoint(&[("HF_HOME", dir)]).unwrap()).contains("hf_file"));
        let error = endpoint(&[("HF_HOME", dir), ("HF_TOKEN", "two words")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("two words"), "{error}");
    }

    #[test]
    fn a_hub_is_an_address_and_offline_is_yes_or_no() {
        let with = |name, value| endpoint(&[("HOME", "u"), (name, value)]);
        assert_eq!(endpoint(&[("HOME", "u")]).unwrap().base(), "https://huggingface.co");
        assert_eq!(with("HF_ENDPOINT", "http://mirror:80/hub/").unwrap().base(), "http://mirror:80/hub");
        for wrong in ["mirror", "ftp://mirror", "https://", "https:///x", "https://a b", "https://me:pw@mirror"] {
            assert!(with("HF_ENDPOINT", wrong).unwrap_err().to_string().contains("HF_ENDPOINT"), "{wrong}");
        }
        assert!(with("HF_HUB_OFFLINE", "1").unwrap().offline() && with("HF_HUB_OFFLINE", "True").unwrap().offline());
        assert!(!with("HF_HUB_OFFLINE", "0").unwrap().offline());
    }
}
