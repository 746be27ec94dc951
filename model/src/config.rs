//! `config.json` and `generation_config.json` to a [`Spec`].
//!
//! Every key must be either understood or on the written list of keys that cannot change what the model computes. A key
//! on neither list may well change it, so it is refused by name rather than ignored.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bounded::read_bounded;
use crate::families;
use crate::keys::Object;
use crate::limits::{MAX_CONFIG_BYTES, SpecError};
use crate::spec::Spec;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no `config.json`.
    #[error("{} has no config.json: is it a Hugging Face model folder?", folder.display())]
    NoConfig {
        /// The folder.
        folder: PathBuf,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file that is not JSON.
    #[error("{} is not valid JSON: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: serde_json::Error,
    },
    /// An error in what a file says.
    #[error("{}: {error}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        error: Box<ConfigError>,
    },
    /// The top level is not an object.
    #[error("the configuration is not a JSON object")]
    NotAnObject,
    /// A model of another kind.
    #[error("architecture {found} is not supported; this version runs {}", families::supported())]
    Architecture {
        /// What the file names.
        found: String,
    },
    /// A key that must be there.
    #[error("the key '{key}' is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// A value of the wrong type.
    #[error("'{key}' is {found}; {expected} is expected")]
    Type {
        /// The key.
        key: String,
        /// What the file holds.
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A number that no model has.
    #[error("'{key}' is {found}; between {min} and {max} are allowed")]
    Range {
        /// The key.
        key: String,
        /// What the file holds.
        found: u64,
        /// The least that is allowed.
        min: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A setting that this version cannot run.
    #[error("'{key}' is {found}, which is not supported; only {supported} is")]
    Unsupported {
        /// The key.
        key: String,
        /// What the file holds.
        found: String,
        /// What could stand there.
        supported: &'static str,
    },
    /// A key that this version does not know.
    #[error("the key '{key}' is unknown to this version and may change what the model computes; refusing to guess")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// Heads that do not divide the width.
    #[error("'{}' {width} cannot be divided into '{}' {heads} heads", keys[0], keys[1])]
    Heads {
        /// The two keys.
        keys: [&'static str; 2],
        /// Width of the residual stream.
        width: usize,
        /// Number of heads.
        heads: usize,
    },
    /// Fields that contradict each other.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl Spec {
    /// Reads the object of a `config.json`.
    ///
    /// # Errors
    /// An unsupported architecture, an unknown key, a missing or implausible value: each by name.
    pub fn from_config(config: &Value) -> Result<Self, ConfigError> {
        let object = Object::new(config)?;
        let spec = families::read(&object)?;
        object.finish()?;
        spec.check()?;
        Ok(spec)
    }

    /// Reads `config.json` of a folder and adds the end tokens of its `generation_config.json`, if there is one.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not JSON, and those of [`Spec::from_config`], with the file's name.
    pub fn from_folder(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join("config.json");
        let config = read_json(&path)?.ok_or_else(|| ConfigError::NoConfig { folder: folder.into() })?;
        let mut spec = Self::from_config(&config).map_err(|error| ConfigError::In { path, error: Box::new(error) })?;

        let path = folder.join("generation_config.json");
        if let Some(generation) = read_json(&path)? {
            let merged = spec.merge_generation(&generation);
            merged.map_err(|error| ConfigError::In { path, error: Box::new(error) })?;
        }
        Ok(spec)
    }

    /// Adds the end tokens of a `generation_config.json`; the rest of that file is sampling defaults.
    ///
    /// # Errors
    /// An `eos_token_id` that is not an id or a list of ids, or that lies outside the vocabulary.
    pub fn merge_generation(&mut self, generation: &Value) -> Result<(), ConfigError> {
        let object = Object::new(generation)?;
        for id in object.token_ids("eos_token_id")? {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
        Ok(self.check()?)
    }
}

/// The JSON of a file, or nothing where there is no file.
fn read_json(path: &Path) -> Result<Option<Value>, ConfigError> {
    let bytes = match read_bounded(path, MAX_CONFIG_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ConfigError::Read { path: path.into(), error }),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| ConfigError::Json { path: path.into(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_EOS;
    use crate::spec::{Norm, NormKind};
    use serde_json::json;

    fn bundled() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs")
    }

    fn fixture() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gpt2/config.json");
        serde_json::from_slice(&std::fs::read(path).expect("fixture")).expect("JSON")
    }

    /// The message for the fixture's configuration with one key changed.
    fn refusal(key: &str, value: Value) -> String {
        let mut config = fixture();
        config[key] = value;
        Spec::from_config(&config).expect_err(key).to_string()
    }

    #[test]
    fn the_bundled_model_and_the_fixture_are_read() {
        let spec = Spec::from_folder(&bundled()).expect("bundled model");
        assert_eq!((spec.layers, spec.width, spec.heads, spec.head_dim, spec.ffn), (8, 256, 4, 64, 1024));
        assert_eq!((spec.vocab, spec.max_positions, spec.tied_head, spec.eos), (4096, 512, true, vec![0]));
        let spec = Spec::from_config(&fixture()).expect("fixture");
        assert_eq!((spec.layers, spec.width, spec.heads, spec.head_dim, spec.ffn), (4, 96, 6, 16, 200));
        assert_eq!(spec.norm, Norm { kind: NormKind::Layer, eps: 1e-5 });
    }

    #[test]
    fn another_architecture_is_named_with_what_is_supported() {
        let mut config = fixture();
        config["architectures"] = json!(["BloomForCausalLM"]);
        config["model_type"] = json!("bloom");
        let text = Spec::from_config(&config).expect_err("bloom").to_string();
        for part in
            ["BloomForCausalLM (model_type bloom)", "GPT2LMHeadModel", "Gemma3ForCausalLM (model_type gemma3_text)"]
        {
            assert!(text.contains(part), "{text}");
        }
        // A class and a type that do not belong together.
        assert!(refusal("architectures", json!(["LlamaForCausalLM"])).contains("LlamaForCausalLM (model_type gpt2)"));
        let text = refusal("architectures", json!(["GPT2ForSequenceClassification"]));
        assert!(text.contains("GPT2ForSequenceClassification"), "{text}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let text = refusal("attn_temperature_scale", json!(0.5));
        assert!(text.contains("'attn_temperature_scale'"), "{text}");
    }

    #[test]
    fn settings_that_cannot_be_run_are_refused_by_name() {
        for (key, value) in [
            ("activation_function", json!("relu")),
            ("scale_attn_weights", json!(false)),
            ("scale_attn_by_inverse_layer_idx", json!(true)),
            ("reorder_and_upcast_attn", json!(true)),
            ("add_cross_attention", json!(true)),
            ("pruned_heads", json!({"0": [1]})),
            ("n_ctx", json!(128)),
        ] {
            let text = refusal(key, value.clone());
            assert!(text.contains(key) && text.contains(&value.to_string()), "{text}");
        }
    }

    #[test]
    fn implausible_numbers_are_refused_by_name() {
        for (key, value) in [
            ("n_layer", json!(0)),
            ("n_layer", json!(1_000_000)),
            ("n_embd", json!(70_000)),
            ("n_embd", json!(97)),
            ("n_head", json!(-6)),
            ("vocab_size", json!("1000")),
            ("n_positions", json!(1e30)),
            ("n_inner", json!(0)),
            ("layer_norm_epsilon", json!(0)),
            ("tie_word_embeddings", json!("yes")),
            ("eos_token_id", json!("1")),
            ("eos_token_id", json!([1, -1])),
        ] {
            let text = refusal(key, value);
            assert!(text.contains(key), "{key}: {text}");
        }
        assert!(refusal("eos_token_id", json!(1000)).contains("1000"));
    }

    #[test]
    fn absent_and_null_keys_take_their_defaults() {
        let mut config = fixture();
        config["n_inner"] = Value::Null;
        for key in ["tie_word_embeddings", "scale_attn_weights", "layer_norm_epsilon", "eos_token_id"] {
            config.as_object_mut().expect("object").remove(key);
        }
        let spec = Spec::from_config(&config).expect("defaults");
        assert_eq!((spec.ffn, spec.tied_head, spec.norm.eps, spec.eos), (384, true, 1e-5, vec![]));
    }

    #[test]
    fn end_tokens_of_both_files_are_united() {
        let mut config = fixture();
        config["eos_token_id"] = json!([1, 7]);
        let mut spec = Spec::from_config(&config).expect("list");
        spec.merge_generation(&json!({"eos_token_id": [7, 9], "temperature": 0.7})).expect("merge");
        assert_eq!(spec.eos, [1, 7, 9]);
        assert!(spec.merge_generation(&json!({"eos_token_id": 1000})).is_err());
        let many = spec.merge_generation(&json!({"eos_token_id": vec![7; MAX_EOS + 1]})).expect_err("too many");
        assert!(many.to_string().contains(&format!("at most {MAX_EOS}")), "{many}");
    }

    #[test]
    fn a_folder_without_config_says_so() {
        let folder = tempfile::tempdir().expect("folder");
        let text = Spec::from_folder(folder.path()).expect_err("empty").to_string();
        assert!(text.contains("config.json") && text.contains(&folder.path().display().to_string()), "{text}");
    }
}
