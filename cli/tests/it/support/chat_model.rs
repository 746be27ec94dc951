//! A model that can be talked with.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::repository;

/// A small model with random weights that can be talked with, in the style of Mistral.
pub(crate) fn chat_model(eos: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(repository("fixtures/llama").join(file), folder.path().join(file)).unwrap();
    }
    fs::copy(repository("fixtures/tokenizers/metaspace.json"), folder.path().join("tokenizer.json")).unwrap();
    let config = json!({ "bos_token": "<s>", "eos_token": eos });
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    folder
}

const TEMPLATE: &str = "\
{{ bos_token }}{% for message in messages %}
{% if message.role == 'system' %}
{{ message.content }};
{%- elif message.role == 'user' %}
[INST] {{ message.content }} [/INST]
{%- else %}
 {{ message.content | trim }}</s>
{%- endif %}
{% endfor %}
";
