//! The families of models: how each one's `config.json` maps to a [`Spec`], and how it names its tensors.
//!
//! | family | file | what is particular |
//! |---|---|---|
//! | GPT-2 | `gpt2` | transposed matrices, LayerNorm, learned positions |
//! | Llama | `llama` | the plain case |
//! | SmolLM3 | `llama` | layers without rotation |
//! | Mistral, Qwen 2 and 3 | `llama` | windows; biases (Qwen 2), norms of q and k (Qwen 3) |
//! | Phi-3 | `phi3` | fused matrices, rotation of a part of each head |
//! | Gemma 2 and 3 | `gemma` | `1 + w` norms before and behind, soft caps, two kinds of layers |

use serde_json::Value;

use crate::config::ConfigError;
use crate::keys::Object;
use crate::spec::{Family, Spec};

mod decoder;
mod gemma;
mod gpt2;
mod llama;
#[cfg(test)]
mod packed;
mod phi3;
mod tensors;

pub(crate) use tensors::{HEAD, Linear, Names, NormNames};

/// Reads the configuration of any family.
pub(crate) fn read(object: &Object<'_>) -> Result<Spec, ConfigError> {
    match family(object)? {
        Family::Gpt2 => gpt2::spec(object),
        Family::Phi3 => phi3::spec(object),
        family @ (Family::Gemma2 | Family::Gemma3) => gemma::spec(object, family),
        family => llama::spec(object, family),
    }
}

/// What this version runs, for an error message.
pub(crate) fn supported() -> String {
    let names: Vec<String> = KNOWN.iter().map(|(_, class, kind)| format!("{class} (model_type {kind})")).collect();
    names.join(", ")
}

fn family(object: &Object<'_>) -> Result<Family, ConfigError> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let kind =
        object.value("model_type").map(|kind| word(kind).ok_or_else(|| object.wrong_type("model_type", "a word")));
    let class = object.value("architectures").map(|list| {
        let first = list.as_array().and_then(|list| list.first()).and_then(word);
        first.ok_or_else(|| object.wrong_type("architectures", "a list of class names"))
    });
    let (kind, class) = (kind.transpose()?, class.transpose()?);
    let (kind, class) = (kind.as_deref(), class.as_deref());
    let known = KNOWN.iter().find(|(_, name, model_type)| {
        class.is_none_or(|class| class == *name) && kind.is_some_and(|kind| kind == *model_type)
    });
    let found = match (known, class, kind) {
        (Some((family, ..)), ..) => return Ok(*family),
        (None, Some(class), Some(kind)) => format!("{class} (model_type {kind})"),
        (None, Some(class), None) => format!("{class} (no model_type)"),
        (None, None, Some(kind)) => format!("model_type {kind}"),
        (None, None, None) => return Err(ConfigError::Missing { key: "model_type".into() }),
    };
    Err(ConfigError::Architecture { found })
}

/// Family, class in `architectures`, `model_type`.
const KNOWN: &[(Family, &str, &str)] = &[
    (Family::Gpt2, "GPT2LMHeadModel", "gpt2"),
    (Family::Llama, "LlamaForCausalLM", "llama"),
    (Family::Smollm3, "SmolLM3ForCausalLM", "smollm3"),
    (Family::Mistral, "MistralForCausalLM", "mistral"),
    (Family::Qwen2, "Qwen2ForCausalLM", "qwen2"),
    (Family::Qwen3, "Qwen3ForCausalLM", "qwen3"),
    (Family::Phi3, "Phi3ForCausalLM", "phi3"),
    (Family::Gemma2, "Gemma2ForCausalLM", "gemma2"),
    (Family::Gemma3, "Gemma3ForCausalLM", "gemma3_text"),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::Model;
    use crate::keys::HARMLESS;
    use crate::spec::{Layer, RopeScaling};

    fn config(name: &str) -> Value {
        Model::of(name).config
    }

    fn spec(name: &str) -> Spec {
        Spec::from_config(&config(name)).expect(name)
    }

    /// The message for a fixture's configuration with one key changed.
    fn refusal(name: &str, pointer: &str, value: Value) -> String {
        let mut config = config(name);
        match config.pointer_mut(pointer) {
            Some(found) => *found = value,
            None => config[&pointer[1..]] = value,
        }
        Spec::from_config(&config).expect_err(pointer).to_string()
    }

    #[test]
    fn every_fixture_is_read_with_what_is_particular_to_its_family() {
        let full = |rope| Layer { window: None, rope: Some(rope) };
        let near = |window, rope| Layer { window: Some(window), rope: Some(rope) };
        for (name, layers) in [
            ("llama", vec![full(0); 4]),
            ("llama3", vec![full(0); 3]),
            ("qwen2", vec![full(0); 4]),
            ("qwen3", vec![full(0); 4]),
            ("smollm3", vec![full(0), Layer { window: None, rope: None }, full(0), Layer { window: None, rope: None }]),
            ("mistral", vec![near(8, 0); 3]),
            ("phi3", vec![near(12, 0); 3]),
            ("gemma2", vec![near(8, 0), full(0), near(8, 0), full(0)]),
            ("gemma3", [vec![near(8, 1); 5], vec![full(0), near(8, 1)]].concat()),
        ] {
            let spec = spec(name);
            assert_eq!((0..spec.layers).map(|index| spec.layer(index)).collect::<Vec<_>>(), layers, "{name}");
        }
        assert_eq!(spec("gemma3").attention.local.expect("local").layers.len(), 6);
        let (qwen3, phi3, gemma2) = (spec("qwen3"), spec("phi3"), spec("gemma2"));
        assert_eq!((qwen3.head_dim, qwen3.attention_width(), qwen3.attention.qk_norm), (32, 192, true));
        assert_eq!((phi3.head_dim, phi3.ropes()[0].dims, phi3.norm.eps), (16, 8, 1e-5));
        assert_eq!((gemma2.attention.softcap, gemma2.logit_softcap), (Some(2.0), Some(4.0)));
        assert_eq!((gemma2.attention_scale(), gemma2.embed_scale), (1.0 / 20_f32.sqrt(), Some(96_f32.sqrt())));
        let ropes = spec("gemma3").ropes();
        assert_eq!((ropes[0].theta, ropes[0].scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
        assert_eq!((ropes[1].theta, ropes[1].scaling), (1e4, RopeScaling::None));
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 32 };
        assert_eq!((spec("llama3").ropes()[0].scaling, spec("llama3").eos), (scaling, vec![1, 2]));
    }

    #[test]
    fn files_of_transformers_4_say_the_same_in_other_keys() {
        let older = |name: &str, keys: Value| {
            let mut config = config(name);
            let object = config.as_object_mut().expect("object");
            for key in ["rope_parameters", "layer_types", "_sliding_window_pattern"] {
                object.remove(key);
            }
            object.extend(keys.as_object().expect("object").clone());
            assert_eq!(Spec::from_config(&config).expect(name), spec(name), "{name}");
        };
        let llama3 = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32
        });
        older("llama", json!({"rope_scaling": null}));
        older("llama3", json!({"rope_theta": 500_000.0, "rope_scaling": llama3}));
        older("qwen2", json!({"rope_theta": 10_000, "max_window_layers": 28, "sliding_window": 131_072}));
        let mut absent = config("smollm3");
        absent.as_object_mut().and_then(|object| object.remove("no_rope_layers")).expect("listed");
        assert_eq!(Spec::from_config(&absent).expect("interval"), spec("smollm3"));
        older("mistral", json!({"rope_theta": 10_000.0}));
        older("phi3", json!({"partial_rotary_factor": 0.5, "rope_scaling": null, "auto_map": {}}));
        older(
            "gemma2",
            json!({"cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 8}),
        );
        older("gemma3", json!({"rope_scaling": {"type": "linear", "factor": 8.0}}));
        older(
            "gemma3",
            json!({
                "rope_theta": 1_000_000, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 10_000, "sliding_window_pattern": 6
            }),
        );
    }

    #[test]
    fn windows_follow_the_keys_that_turn_them_on() {
        let window = |name: &str, keys: Value| {
            let mut config = config(name);
            let object = config.as_object_mut().expect("object");
            object.remove("layer_types");
            object.extend(keys.as_object().expect("object").clone());
            let spec = Spec::from_config(&config).expect(name);
            (0..spec.layers).map(|index| spec.layer(index).window).collect::<Vec<_>>()
        };
        let on = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 3});
        assert_eq!(window("qwen2", on.clone()), [None, None, None, Some(16)]);
        assert_eq!(window("qwen3", on), [None, None, None, Some(16)]);
        assert_eq!(window("qwen2", json!({"use_sliding_window": false, "sliding_window": 16})), [None; 4]);
        assert_eq!(window("mistral", json!({"sliding_window": null})), [None; 3]);
        let mut config = config("mistral");
        config.as_object_mut().expect("object").remove("sliding_window");
        assert_eq!(Spec::from_config(&config).expect("default").layer(0).window, Some(4096));
    }

    #[test]
    fn settings_that_cannot_be_run_are_refused_by_name() {
        for (name, pointer, value) in [
            ("llama", "/hidden_act", json!("gelu")),
            ("llama", "/attention_bias", json!(true)),
            ("llama", "/mlp_bias", json!(true)),
            ("llama", "/quantization_config", json!({"bits": 4})),
            ("llama", "/rope_parameters/rope_type", json!("yarn")),
            ("llama", "/rope_parameters/rope_theta", json!(0)),
            ("llama", "/rope_scaling", json!({"rope_type": "linear", "factor": 2})),
            ("gemma3", "/rope_scaling", json!({"rope_type": "linear", "factor": 2})),
            ("llama", "/rope_interleaved", json!(true)),
            ("qwen2", "/use_mrope", json!(true)),
            ("llama", "/partial_rotary_factor", json!(0.5)),
            ("llama", "/sliding_window", json!(8)),
            ("llama", "/attention_sinks", json!(true)),
            ("llama", "/head_dim", json!(15)),
            ("llama", "/num_key_value_heads", json!(4)),
            ("llama3", "/rope_parameters/low_freq_factor", json!(5.0)),
            ("llama3", "/rope_parameters/factor", json!(null)),
            ("llama3", "/rope_parameters/original_max_position_embeddings", json!(0)),
            ("mistral", "/layer_types", json!(["full_attention"])),
            ("smollm3", "/no_rope_layers", json!([1, 0])),
            ("smollm3", "/no_rope_layers/2", json!(2)),
            ("smollm3", "/use_sliding_window", json!(true)),
            ("qwen2", "/layer_types", json!(vec!["sliding_attention"; 4])),
            ("qwen3", "/layer_types/1", json!("chunked_attention")),
            ("phi3", "/rope_parameters/rope_type", json!("longrope")),
            ("gemma2", "/hidden_activation", json!("gelu")),
            ("gemma2", "/attn_logit_softcapping", json!(-1.0)),
            ("gemma2", "/sliding_window_size", json!(9)),
            ("gemma3", "/use_bidirectional_attention", json!(true)),
            ("gemma3", "/layer_types", json!(["full_attention"])),
            ("gemma3", "/rope_parameters/sliding_attention/rope_type", json!("dynamic")),
        ] {
            let text = refusal(name, pointer, value);
            let key = pointer.rsplit('/').find(|part| part.parse::<usize>().is_err()).expect("key");
            let named = match key {
                "head_dim" => "15 of 15",
                "num_key_value_heads" => "kv_heads",
                key => key,
            };
            assert!(text.contains(named), "{name} {pointer}: {text}");
        }
    }

    #[test]
    fn no_key_is_ignored_that_is_not_known_to_be_harmless() {
        let nonsense = json!({"nonsense": 1});
        for name in ["gpt2", "llama", "llama3", "smollm3", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3"] {
            let known = config(name);
            for key in known.as_object().expect("object").keys() {
                let mut config = known.clone();
                config[key] = nonsense.clone();
                let refused = Spec::from_config(&config).is_err();
                // Not looked at without use_sliding_window, and without a rotation that stretches.
                let unused = match name {
                    "qwen2" | "qwen3" | "smollm3" => ["sliding_window", "max_window_layers"].contains(&key.as_str()),
                    "phi3" => key == "original_max_position_embeddings",
                    _ => false,
                };
                assert_eq!(
                    refused,
                    !unused && !HARMLESS.contains(&key.as_str()) && !key.starts_with("summary_"),
                    "{name} {key}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_key_of_the_rotation_is_refused_with_its_place() {
        let text = refusal("llama", "/rope_parameters", json!({"rope_type": "default", "mscale": 2}));
        assert!(text.contains("'rope_parameters.mscale'"), "{text}");
    }
}
