//! What SYN1 reads of `tokenizer_config.json`: the tokens by their roles and the chat template.
//!
//! `add_bos_token` and `add_eos_token` are not read: what is put around a text is `tokenizer.json`'s post-processor's to say,
//! and transformers goes by it whatever these keys hold.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::bounded::read_bounded;
use crate::limits::MAX_CONFIG_BYTES;

/// The settings beside a `tokenizer.json`.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    /// The spelling of each token with a role, `bos_token` say.
    pub(crate) tokens: BTreeMap<&'static str, String>,
    /// The chat template.
    pub(crate) chat_template: Option<String>,
}

/// Why a `tokenizer_config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerConfigError {
    /// A file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file that is not JSON, or not an object.
    #[error("{} is not a JSON object{}", path.display(), error.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Option<serde_json::Error>,
    },
    /// A key that holds something else than it should.
    #[error("{}: '{key}' must be {expected}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
    /// Several chat templates, none of which is the usual one.
    #[error(
        "{}: none of its chat templates ({names}) is named default; write the one to use to chat_template.jinja beside it",
        path.display()
    )]
    NoDefault {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: String,
    },
}

impl TokenizerConfig {
    /// The file's name.
    pub(crate) const FILE: &str = "tokenizer_config.json";

    /// The settings in a folder; those of an empty file if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged. Keys that are not read here are passed over: they describe the Python
    /// object.
    pub(crate) fn load(folder: &Path) -> Result<Self, TokenizerConfigError> {
        let path = folder.join(Self::FILE);
        let bytes = match read_bounded(&path, MAX_CONFIG_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(TokenizerConfigError::Read { path, error }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(config)) => Self::read(&config, &path),
            Ok(_) => Err(TokenizerConfigError::Json { path, error: None }),
            Err(error) => Err(TokenizerConfigError::Json { path, error: Some(error) }),
        }
    }

    fn read(config: &Map<String, Value>, path: &Path) -> Result<Self, TokenizerConfigError> {
        let wrong = |key, expected| TokenizerConfigError::Type { path: path.into(), key, expected };
        let mut tokens = BTreeMap::new();
        for key in ROLES {
            match config.get(key) {
                None | Some(Value::Null) => continue,
                Some(token) => {
                    let text = token.as_str().or_else(|| token.get("content")?.as_str());
                    let text = text.ok_or_else(|| wrong(key, "a token's text, or an object with its content"))?;
                    tokens.insert(key, text.to_owned());
                }
            }
        }
        Ok(Self { tokens, chat_template: chat_template(config, path)? })
    }
}

/// The template: the only one, or of several the one named default. Others, for tools say, are not used.
fn chat_template(config: &Map<String, Value>, path: &Path) -> Result<Option<String>, TokenizerConfigError> {
    let key = "chat_template";
    let wrong = || {
        let expected = "a template's text, or a list of objects with name and template";
        TokenizerConfigError::Type { path: path.into(), key, expected }
    };
    let several = match config.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(several) => several.as_array().ok_or_else(wrong)?,
    };
    let mut names = Vec::new();
    for one in several {
        let [name, text] = ["name", "template"].map(|key| one.get(key).and_then(Value::as_str));
        let (name, text) = (name.ok_or_else(wrong)?, text.ok_or_else(wrong)?);
        if name == "default" {
            return Ok(Some(text.to_owned()));
        }
        names.push(name);
    }
    Err(TokenizerConfigError::NoDefault { path: path.into(), names: names.join(", ") })
}

/// The tokens that templates know by their roles.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: Value) -> Result<TokenizerConfig, TokenizerConfigError> {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(TokenizerConfig::FILE), config.to_string()).expect("write");
        TokenizerConfig::load(folder.path())
    }

    #[test]
    fn tokens_are_read_from_texts_and_objects_and_null_is_none() {
        let eos = json!({"__type": "AddedToken", "content": "</s>", "lstrip": false});
        let config = read(json!({"bos_token": "<s>", "eos_token": eos, "pad_token": null, "model_max_length": 1e30}));
        let config = config.expect("config");
        assert_eq!(config.tokens, BTreeMap::from([("bos_token", "<s>".into()), ("eos_token", "</s>".into())]));
        assert_eq!(config.chat_template, None);
        let nothing = tempfile::tempdir().expect("folder");
        assert!(TokenizerConfig::load(nothing.path()).expect("no file").tokens.is_empty());
    }

    #[test]
    fn of_several_templates_the_default_one_is_taken() {
        let named = |name| json!({"name": name, "template": format!("{name} text")});
        let config = read(json!({"chat_template": [named("tool_use"), named("default")]})).expect("config");
        assert_eq!(config.chat_template.as_deref(), Some("default text"));
        let error = read(json!({"chat_template": [named("tool_use"), named("rag")]})).expect_err("none").to_string();
        assert!(error.contains("tool_use, rag") && error.contains("chat_template.jinja"), "{error}");
    }

    #[test]
    fn what_is_damaged_is_named() {
        for (config, key) in [
            (json!({"bos_token": 1}), "bos_token"),
            (json!({"eos_token": {"id": 2}}), "eos_token"),
            (json!({"chat_template": 1}), "chat_template"),
            (json!({"chat_template": [{"name": "default"}]}), "chat_template"),
            (json!([1]), "not a JSON object"),
        ] {
            let error = read(config).expect_err(key).to_string();
            assert!(error.contains(key) && error.contains(TokenizerConfig::FILE), "{error}");
        }
    }
}
