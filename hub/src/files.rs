//! Which files make a model.

use std::collections::BTreeMap;

use serde::Deserialize;
use syn1_model::weights::{INDEX, SINGLE};

use crate::check::Check;
use crate::error::HubError;
use crate::meter::Meter;
use crate::origin::Origin;
use crate::repo::is_plain_file;

/// A file of a model, elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    /// Its name in the model's folder.
    pub(crate) name: String,
    /// Where it is asked for: a URL, or a path.
    pub(crate) url: String,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// What is promised of its bytes.
    pub(crate) check: Check,
    /// What tells its versions apart where no hash is promised.
    pub(crate) version: Option<String>,
}

/// The files of a model.
pub(crate) struct Files {
    /// Configuration, tokenizer and what belongs to them.
    pub(crate) small: Vec<RemoteFile>,
    pub(crate) weights: Weights,
}

/// The files that hold tensors.
pub(crate) enum Weights {
    /// All in one.
    Single(RemoteFile),
    /// Shards, and the index that names them.
    Sharded(RemoteFile),
}

/// The part of an index that matters: the shard of each tensor.
#[derive(Deserialize)]
pub(crate) struct Index {
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl Files {
    /// Looks for the files. A model without a tokenizer can be used with token ids, which is said.
    pub(crate) fn find(origin: &Origin, meter: &Meter<'_>) -> Result<Self, HubError> {
        let lacks = |file: &str, remedy: &str| HubError::Lacks {
            whose: origin.whose().to_owned(),
            file: file.to_owned(),
            remedy: remedy.to_owned(),
        };
        let mut small = Vec::new();
        for name in SMALL {
            match origin.find(name, meter)? {
                Some(file) => small.push(file),
                None if *name == CONFIG => {
                    return Err(lacks(CONFIG, "it is no model that this program can read; is the name right?"));
                }
                None if *name == TOKENIZER => meter.notice(format!(
                    "{} has no {TOKENIZER}: texts cannot be read or written, only token ids (--ids); transformers makes one \
                     with AutoTokenizer.from_pretrained(..).save_pretrained(..)",
                    origin.whose()
                )),
                None => {}
            }
        }
        let weights = match (origin.find(SINGLE, meter)?, origin.find(INDEX, meter)?) {
            (Some(file), _) => Weights::Single(file),
            (None, Some(index)) => Weights::Sharded(index),
            (None, None) => {
                let remedy = "only weights in safetensors can be read: look for a copy of the model that has them, or convert \
                              it with transformers (save_pretrained)";
                return Err(lacks(&format!("{SINGLE} and no {INDEX}"), remedy));
            }
        };
        Ok(Self { small, weights })
    }
}

impl Index {
    /// Reads an index; the names in it are checked.
    pub(crate) fn parse(bytes: &[u8], origin: &Origin) -> Result<Self, HubError> {
        let whose = origin.whose().to_owned();
        let wrong = |reason| HubError::Content { file: INDEX.into(), whose: whose.clone(), reason };
        let index: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if index.weight_map.is_empty() {
            return Err(wrong("it lists no tensors".into()));
        }
        match index.weight_map.iter().find(|(_, shard)| !is_plain_file(shard) || !shard.ends_with(".safetensors")) {
            Some((tensor, shard)) => {
                Err(wrong(format!("'{shard}' (for {tensor}) is not a plain file name that ends in .safetensors")))
            }
            None => Ok(index),
        }
    }

    /// The shards that hold the tensors of which `wanted` holds, each once.
    pub(crate) fn shards(
        &self,
        origin: &Origin,
        meter: &Meter<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<RemoteFile>, HubError> {
        let mut names: Vec<&String> =
            self.weight_map.iter().filter(|(tensor, _)| wanted(tensor)).map(|(_, shard)| shard).collect();
        names.sort();
        names.dedup();
        let find = |name: &String| {
            let lacks = || HubError::Lacks {
                whose: origin.whose().to_owned(),
                file: name.clone(),
                remedy: format!("its {INDEX} lists that shard: the model is not whole there"),
            };
            origin.find(name, meter)?.ok_or_else(lacks)
        };
        names.into_iter().map(find).collect()
    }
}

/// What every model has.
pub(crate) const CONFIG: &str = "config.json";

/// What texts need.
const TOKENIZER: &str = "tokenizer.json";

/// The files beside the weights.
const SMALL: &[&str] = &[
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
];
