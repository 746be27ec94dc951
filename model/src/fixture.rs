//! A fixture as a model that tests can change and write to a folder of their own.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::spec::Spec;
use crate::tokenizer::Tokenizer;

/// A model in memory.
pub(crate) struct Model {
    /// `config.json`.
    pub(crate) config: Value,
    /// Shape and elements by name, row-major.
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Model {
    /// The GPT-2 fixture: 4 layers, width 96, MLP 200, f16.
    pub(crate) fn fixture() -> Self {
        Self::of("gpt2")
    }

    /// The fixture of this name.
    pub(crate) fn of(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name);
        let read = |name: &str| std::fs::read(folder.join(name)).expect(name);
        let bytes = read("model.safetensors");
        let parsed = SafeTensors::deserialize(&bytes).expect("safetensors");
        let values = |view: &TensorView<'_>| {
            assert_eq!(view.dtype(), Dtype::F16);
            view.data().as_chunks().0.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect()
        };
        let tensors = parsed.iter().map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(&view))));
        Self { config: serde_json::from_slice(&read("config.json")).expect("JSON"), tensors: tensors.collect() }
    }

    pub(crate) fn spec(&self) -> Spec {
        Spec::from_config(&self.config).expect("spec")
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensors[name].1.clone()
    }

    pub(crate) fn values_mut(&mut self, name: &str) -> &mut [f32] {
        &mut self.tensors.get_mut(name).expect(name).1
    }

    /// Gives the head a matrix of its own.
    pub(crate) fn untie(&mut self) {
        let (shape, mut values) = self.tensors["transformer.wte.weight"].clone();
        values.reverse();
        self.tensors.insert("lm_head.weight".into(), (shape, values));
        self.config["tie_word_embeddings"] = false.into();
    }

    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> String) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
    }

    /// Writes a Hugging Face folder.
    pub(crate) fn write(&self, dtype: Dtype) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        let encode = |values: &[f32]| -> Vec<u8> {
            match dtype {
                Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            }
        };
        let encoded: Vec<_> = self.tensors.iter().map(|(name, (shape, v))| (name, shape, encode(v))).collect();
        let views = encoded
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.to_vec(), bytes).expect("view")));
        let bytes = safetensors::serialize(views, None).expect("serialize");
        std::fs::write(folder.path().join("model.safetensors"), bytes).expect("write");
        std::fs::write(folder.path().join("config.json"), self.config.to_string()).expect("write");
        folder
    }
}

/// The bundled model's tokenizer, and its architecture.
pub(crate) fn bundled_tokenizer() -> (Tokenizer, Spec) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs");
    let spec = Spec::from_folder(&folder).expect("bundled model");
    (Tokenizer::load(&folder.join("tokenizer.json"), &spec).expect("bundled tokenizer"), spec)
}
