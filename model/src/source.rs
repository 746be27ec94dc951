//! A model folder whose weights are where its configuration says they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::families::{HEAD, Names};
use crate::spec::Spec;
use crate::weights::{Weights, WeightsError};

/// The architecture and the weights of a Hugging Face folder, checked against each other.
#[derive(Debug)]
pub struct Source {
    spec: Spec,
    weights: Weights,
    prefix: &'static str,
}

/// Why a folder is not a usable source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor that the configuration has no place for.
    #[error(
        "tensor {tensor} in {} has no place in the model that config.json describes; refusing to leave it out",
        folder.display()
    )]
    Unexpected {
        /// The tensor.
        tensor: String,
        /// The folder.
        folder: PathBuf,
    },
    /// A tied head with a matrix of its own.
    #[error(
        "{} in {} differs from {tokens}, but config.json ties them (tie_word_embeddings): one of the two is wrong",
        HEAD, folder.display()
    )]
    Untied {
        /// The embedding.
        tokens: String,
        /// The folder.
        folder: PathBuf,
    },
}

impl Source {
    /// Opens a folder: reads its configuration, maps its weights, and checks that every tensor of the model is there with
    /// the right shape and a readable type, and that no other is.
    ///
    /// # Errors
    /// The first thing that is wrong, by name.
    pub fn open(folder: &Path) -> Result<Self, SourceError> {
        let spec = Spec::from_folder(folder)?;
        let weights = Weights::open(folder)?;
        let saved = Names::prefix_of(spec.family);
        let prefix = if weights.names().any(|name| name.starts_with(saved)) { saved } else { "" };
        let source = Self { spec, weights, prefix };
        source.check_names(folder)?;
        source.check_tie(folder)?;
        Ok(source)
    }

    /// The architecture.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn names(&self) -> Names<'_> {
        Names { spec: &self.spec, prefix: self.prefix }
    }

    fn check_names(&self, folder: &Path) -> Result<(), SourceError> {
        let mut wanted = BTreeSet::new();
        for (name, shape) in self.names().all() {
            self.weights.shaped(&name, &shape)?;
            wanted.insert(name);
        }
        let known = |name: &str| wanted.contains(name) || name == HEAD || self.names().is_buffer(name);
        match self.weights.names().find(|name| !known(name)) {
            Some(name) => Err(SourceError::Unexpected { tensor: name.into(), folder: folder.into() }),
            None => Ok(()),
        }
    }

    /// Some files repeat a tied matrix. If it is not the same one, the file and the configuration mean different models.
    fn check_tie(&self, folder: &Path) -> Result<(), SourceError> {
        if !self.spec.tied_head || !self.weights.contains(HEAD) {
            return Ok(());
        }
        let tokens = self.weights.tensor(&self.names().tokens())?;
        let head = self.weights.shaped(HEAD, tokens.shape)?;
        let same = head.dtype == tokens.dtype && head.bytes == tokens.bytes;
        [head, tokens].iter().for_each(|view| self.weights.release(view));
        if same {
            return Ok(());
        }
        Err(SourceError::Untied { tokens: tokens.name.into(), folder: folder.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;
    use safetensors::Dtype;

    fn refusal(model: &Model) -> String {
        Source::open(model.write(Dtype::F16).path()).expect_err("refused").to_string()
    }

    #[test]
    fn a_missing_a_misshapen_and_an_extra_tensor_are_named() {
        let name = "transformer.h.2.ln_2.bias";
        let mut model = Model::fixture();
        model.tensors.remove(name);
        let text = refusal(&model);
        assert!(text.contains(name) && text.contains("missing"), "{text}");

        let mut model = Model::fixture();
        model.tensors.insert(name.into(), (vec![95], vec![0.0; 95]));
        let text = refusal(&model);
        assert!(text.contains(name) && text.contains("[95]") && text.contains("[96]"), "{text}");

        let mut model = Model::fixture();
        model.tensors.insert("transformer.h.0.adapter.weight".into(), (vec![1], vec![0.0]));
        assert!(refusal(&model).contains("transformer.h.0.adapter.weight"));
    }

    #[test]
    fn fewer_layers_than_the_file_has_are_noticed() {
        let mut model = Model::fixture();
        model.config["n_layer"] = 3.into();
        assert!(refusal(&model).contains("transformer.h.3."));
    }

    #[test]
    fn saved_masks_and_an_equal_tied_head_are_passed_over() {
        let mut model = Model::fixture();
        let tokens = model.tensors["transformer.wte.weight"].clone();
        model.tensors.insert("lm_head.weight".into(), tokens);
        model.tensors.insert("transformer.h.0.attn.bias".into(), (vec![1, 1, 2, 2], vec![0.0; 4]));
        model.tensors.insert("transformer.h.0.attn.masked_bias".into(), (vec![1], vec![0.0]));
        assert!(Source::open(model.write(Dtype::F16).path()).is_ok());

        model.values_mut("lm_head.weight")[5] += 1.0;
        let text = refusal(&model);
        assert!(text.contains("lm_head.weight") && text.contains("tie_word_embeddings"), "{text}");
    }

    #[test]
    fn an_untied_model_without_its_head_is_refused() {
        let mut model = Model::fixture();
        model.config["tie_word_embeddings"] = false.into();
        assert!(refusal(&model).contains("lm_head.weight"));
    }
}
