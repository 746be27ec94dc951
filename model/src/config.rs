//! `config.json` and `generation_config.json` to a [`Spec`].
//!
//! Every key must be either understood or on the written list of keys that cannot change what the model computes. A key
//! on neither list may well change it, so it is refused by name rather than ignored.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::bounded::read_bounded;
use crate::limits::{MAX_CONFIG_BYTES, MAX_EOS, MAX_FFN, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, SpecError};
use crate::spec::{Activation, Attention, Family, Norm, NormKind, Position, Spec};

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
    #[error("architecture {found} is not supported; this version runs {SUPPORTED}")]
    Architecture {
        /// What the file names.
        found: String,
    },
    /// A key that must be there.
    #[error("the key '{key}' is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value of the wrong type.
    #[error("'{key}' is {found}; {expected} is expected")]
    Type {
        /// The key.
        key: &'static str,
        /// What the file holds.
        found: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A number that no model has.
    #[error("'{key}' is {found}; between {min} and {max} are allowed")]
    Range {
        /// The key.
        key: &'static str,
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
        key: &'static str,
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
    #[error("'n_embd' {width} cannot be divided into 'n_head' {heads} heads")]
    Heads {
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
        let object = Object(config.as_object().ok_or(ConfigError::NotAnObject)?);
        object.check_architecture()?;
        object.check_keys()?;
        gpt2(&object)
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
        let object = Object(generation.as_object().ok_or(ConfigError::NotAnObject)?);
        for id in object.token_ids("eos_token_id")? {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
        Ok(self.check()?)
    }
}

/// The GPT-2 family's keys.
fn gpt2(object: &Object<'_>) -> Result<Spec, ConfigError> {
    let width = object.number("n_embd", MAX_WIDTH)?;
    let heads = object.number("n_head", MAX_WIDTH)?;
    if !width.is_multiple_of(heads) {
        return Err(ConfigError::Heads { width, heads });
    }
    let max_positions = object.number("n_positions", MAX_POSITIONS)?;
    // An old name of the same number; another value would mean a mask that this version does not have.
    if object.value("n_ctx").is_some() && object.number("n_ctx", MAX_POSITIONS)? != max_positions {
        let found = object.text("n_ctx");
        return Err(ConfigError::Unsupported { key: "n_ctx", found, supported: "the value of n_positions" });
    }
    match object.value("activation_function").and_then(Value::as_str) {
        Some("gelu_new") => {}
        None if object.value("activation_function").is_none() => {}
        _ => {
            let (key, found) = ("activation_function", object.text("activation_function"));
            return Err(ConfigError::Unsupported { key, found, supported: "\"gelu_new\"" });
        }
    }
    object.must_be("scale_attn_weights", true)?;
    for key in [
        "scale_attn_by_inverse_layer_idx",
        "reorder_and_upcast_attn",
        "add_cross_attention",
        "is_encoder_decoder",
        "cross_attention_hidden_size",
    ] {
        object.must_be(key, false)?;
    }
    if let Some(heads) = object.value("pruned_heads")
        && heads.as_object().is_none_or(|heads| !heads.is_empty())
    {
        let found = object.text("pruned_heads");
        return Err(ConfigError::Unsupported { key: "pruned_heads", found, supported: "an empty object" });
    }
    let spec = Spec {
        family: Family::Gpt2,
        layers: object.number("n_layer", MAX_LAYERS)?,
        width,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        ffn: if object.value("n_inner").is_some() { object.number("n_inner", MAX_FFN)? } else { 4 * width },
        vocab: object.number("vocab_size", MAX_VOCAB)?,
        max_positions,
        norm: Norm { kind: NormKind::Layer, eps: object.epsilon("layer_norm_epsilon")? },
        position: Position::Learned,
        activation: Activation::GeluTanh,
        gated: false,
        attention: Attention::default(),
        post_norms: false,
        embed_scale: None,
        logit_softcap: None,
        tied_head: object.flag("tie_word_embeddings")?.unwrap_or(true),
        eos: object.token_ids("eos_token_id")?,
    };
    spec.check()?;
    Ok(spec)
}

/// The object of a configuration file, read key by key. `null` counts as absent, as in the files' own library.
struct Object<'a>(&'a Map<String, Value>);

impl Object<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// What stands at `key`, for an error message.
    fn text(&self, key: &str) -> String {
        let text = self.value(key).unwrap_or(&Value::Null).to_string();
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }

    fn wrong_type(&self, key: &'static str, expected: &'static str) -> ConfigError {
        ConfigError::Type { key, found: self.text(key), expected }
    }

    fn number(&self, key: &'static str, max: usize) -> Result<usize, ConfigError> {
        let value = self.value(key).ok_or(ConfigError::Missing { key })?;
        let found = value.as_u64().ok_or_else(|| self.wrong_type(key, "a whole number"))?;
        match usize::try_from(found) {
            Ok(number) if (1..=max).contains(&number) => Ok(number),
            _ => Err(ConfigError::Range { key, found, min: 1, max }),
        }
    }

    fn epsilon(&self, key: &'static str) -> Result<f32, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(DEFAULT_EPSILON) };
        let eps = value.as_f64().filter(|eps| *eps > 0.0 && *eps < 1.0);
        eps.map(|eps| eps as f32).ok_or_else(|| self.wrong_type(key, "a number between 0 and 1"))
    }

    fn flag(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong_type(key, "true or false"))
    }

    fn must_be(&self, key: &'static str, wanted: bool) -> Result<(), ConfigError> {
        match self.value(key) {
            None => Ok(()),
            Some(Value::Bool(found)) if *found == wanted => Ok(()),
            Some(_) => {
                let supported = if wanted { "true" } else { "false" };
                Err(ConfigError::Unsupported { key, found: self.text(key), supported })
            }
        }
    }

    /// An id, a list of up to [`MAX_EOS`] ids, or nothing.
    fn token_ids(&self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.value(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) if values.len() > MAX_EOS => None,
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong_type(key, "a token id or a list of at most 64 token ids"))
    }

    fn check_architecture(&self) -> Result<(), ConfigError> {
        let kind = self.value("model_type").and_then(Value::as_str);
        let class = self.value("architectures").and_then(Value::as_array).and_then(|list| list.first());
        let class = class.and_then(Value::as_str);
        let found = match (class, kind) {
            (None | Some("GPT2LMHeadModel"), Some("gpt2")) => return Ok(()),
            (Some(class), Some(kind)) => format!("{class} (model_type {kind})"),
            (Some(class), None) => format!("{class} (no model_type)"),
            (None, Some(kind)) => format!("model_type {kind}"),
            (None, None) => return Err(ConfigError::Missing { key: "model_type" }),
        };
        Err(ConfigError::Architecture { found })
    }

    fn check_keys(&self) -> Result<(), ConfigError> {
        let known = |key: &str| READ.contains(&key) || HARMLESS.contains(&key) || key.starts_with("summary_");
        match self.0.keys().find(|key| !known(key)) {
            Some(key) => Err(ConfigError::UnknownKey { key: key.clone() }),
            None => Ok(()),
        }
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

/// What this version runs.
const SUPPORTED: &str = "GPT2LMHeadModel (model_type gpt2)";

/// `layer_norm_epsilon` where the file has none.
const DEFAULT_EPSILON: f32 = 1e-5;

/// Keys that this file reads.
const READ: &[&str] = &[
    "activation_function",
    "add_cross_attention",
    "architectures",
    "cross_attention_hidden_size",
    "eos_token_id",
    "is_encoder_decoder",
    "layer_norm_epsilon",
    "model_type",
    "n_ctx",
    "n_embd",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
    "pruned_heads",
    "reorder_and_upcast_attn",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys that cannot change a logit: training, other heads, sampling defaults, book-keeping.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_from_model_config",
    "_name_or_path",
    "_num_labels",
    "attn_pdrop",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "n_special",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "predict_special_tokens",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

#[cfg(test)]
mod tests {
    use super::*;
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
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/llama");
        let text = Spec::from_folder(&path).expect_err("llama").to_string();
        assert!(
            text.contains("LlamaForCausalLM") && text.contains("llama") && text.contains("GPT2LMHeadModel"),
            "{text}"
        );
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
