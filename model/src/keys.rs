//! The object of a configuration file, read key by key.
//!
//! Every key must be read by the family or stand on the list of keys that cannot change a logit; [`Object::finish`]
//! refuses the others by name. `null` counts as absent, as in the files' own library.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::config::ConfigError;
use crate::limits::MAX_EOS;

/// An object, and which of its keys were read.
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    /// What stands in front of a key in messages: empty, or the outer key and a dot.
    path: String,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Object<'a> {
    /// The file's top level.
    pub(crate) fn new(config: &'a Value) -> Result<Self, ConfigError> {
        let map = config.as_object().ok_or(ConfigError::NotAnObject)?;
        Ok(Self { map, path: String::new(), read: RefCell::default() })
    }

    /// The object at `key`, if there is one.
    pub(crate) fn nested(&self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong_type(key, "an object"))?;
        Ok(Some(Self { map, path: format!("{}{key}.", self.path), read: RefCell::default() }))
    }

    /// Refuses the first key that nobody read; at the top level those pass that cannot change a logit.
    pub(crate) fn finish(&self) -> Result<(), ConfigError> {
        let harmless = |key: &str| HARMLESS.contains(&key) || key.starts_with("summary_");
        let known = |key: &str| self.read.borrow().contains(key) || (self.path.is_empty() && harmless(key));
        match self.map.keys().find(|key| !known(key)) {
            Some(key) => Err(ConfigError::UnknownKey { key: format!("{}{key}", self.path) }),
            None => Ok(()),
        }
    }

    pub(crate) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it `null`.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Passes over keys that mean nothing beside what was read.
    pub(crate) fn pass_over(&self, keys: &[&'static str]) {
        self.read.borrow_mut().extend(keys);
    }

    /// What stands at `key`, for an error message.
    fn text(&self, key: &'static str) -> String {
        let text = self.value(key).unwrap_or(&Value::Null).to_string();
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }

    pub(crate) fn wrong_type(&self, key: &'static str, expected: &'static str) -> ConfigError {
        ConfigError::Type { key: format!("{}{key}", self.path), found: self.text(key), expected }
    }

    /// That `key` cannot be what it is, but only `supported`.
    pub(crate) fn unsupported(&self, key: &'static str, supported: &'static str) -> ConfigError {
        ConfigError::Unsupported { key: format!("{}{key}", self.path), found: self.text(key), supported }
    }

    pub(crate) fn missing(&self, key: &'static str) -> ConfigError {
        ConfigError::Missing { key: format!("{}{key}", self.path) }
    }

    /// A number from 1 to `max`.
    pub(crate) fn number(&self, key: &'static str, max: usize) -> Result<usize, ConfigError> {
        let value = self.value(key).ok_or_else(|| self.missing(key))?;
        let found = value.as_u64().ok_or_else(|| self.wrong_type(key, "a whole number"))?;
        match usize::try_from(found) {
            Ok(number) if (1..=max).contains(&number) => Ok(number),
            _ => Err(ConfigError::Range { key: format!("{}{key}", self.path), found, min: 1, max }),
        }
    }

    pub(crate) fn number_or(&self, key: &'static str, default: usize, max: usize) -> Result<usize, ConfigError> {
        if self.value(key).is_some() { self.number(key, max) } else { Ok(default) }
    }

    /// A number above 0 that f32 can hold.
    pub(crate) fn positive(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| *number as f32 > 0.0 && (*number as f32).is_finite());
        number.map(Some).ok_or_else(|| self.wrong_type(key, "a number above 0"))
    }

    pub(crate) fn epsilon(&self, key: &'static str, default: f32) -> Result<f32, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let eps = value.as_f64().filter(|eps| *eps > 0.0 && *eps < 1.0);
        eps.map(|eps| eps as f32).ok_or_else(|| self.wrong_type(key, "a number between 0 and 1"))
    }

    pub(crate) fn flag(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong_type(key, "true or false"))
    }

    /// Refuses anything but `wanted` and absence.
    pub(crate) fn must_be(&self, key: &'static str, wanted: bool) -> Result<(), ConfigError> {
        match self.value(key) {
            None => Ok(()),
            Some(Value::Bool(found)) if *found == wanted => Ok(()),
            Some(_) => Err(self.unsupported(key, if wanted { "true" } else { "false" })),
        }
    }

    /// Refuses anything but this word (`quoted` as JSON writes it) and absence.
    pub(crate) fn must_say(&self, key: &'static str, quoted: &'static str) -> Result<(), ConfigError> {
        match self.value(key) {
            Some(found) if found.as_str() != Some(quoted.trim_matches('"')) => Err(self.unsupported(key, quoted)),
            _ => Ok(()),
        }
    }

    /// An id, a list of up to [`MAX_EOS`] ids, or nothing.
    pub(crate) fn token_ids(&self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.value(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) if values.len() > MAX_EOS => None,
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong_type(key, "a token id or a list of at most 64 token ids"))
    }
}

/// Keys that cannot change a logit: training, other heads, sampling defaults, where caches and code lie, book-keeping.
pub(crate) const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_from_model_config",
    "_name_or_path",
    "_num_labels",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
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
    "is_llama_config",
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
    "pretraining_tp",
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
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];
