//! A model folder whose weights are where its configuration says they are.

use std::collections::BTreeSet;
use std::ops::Range;
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
    /// Layers that the model does not have.
    #[error("layers {}..{} are not layers of a model of {layers}: give A..B with A < B <= {layers}", range.start, range.end)]
    Layers {
        /// The range.
        range: Range<usize>,
        /// How many layers the model has.
        layers: usize,
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
        Self::check(folder, Spec::from_folder(folder)?, None)
    }

    /// Opens a folder of which only the tensors of `layers` must be there: what a node needs that holds these layers.
    ///
    /// The tensors of other layers may be missing; a piece of theirs then cannot be packed, and the error names its tensor.
    ///
    /// # Errors
    /// As [`Source::open`], and a range that the model does not have.
    pub fn open_layers(folder: &Path, layers: Range<usize>) -> Result<Self, SourceError> {
        let spec = Spec::from_folder(folder)?;
        check_layers(&spec, &layers)?;
        Self::check(folder, spec, Some(layers))
    }

    fn check(folder: &Path, spec: Spec, layers: Option<Range<usize>>) -> Result<Self, SourceError> {
        let weights = Weights::open(folder)?;
        let prefix = prefix(&spec, weights.names());
        let layers = layers.unwrap_or(0..spec.layers);
        let source = Self { spec, weights, prefix };
        source.check_names(folder, layers)?;
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

    fn check_names(&self, folder: &Path, layers: Range<usize>) -> Result<(), SourceError> {
        for (name, shape) in self.names().of_layers(layers) {
            self.weights.shaped(&name, &shape)?;
        }
        let all: BTreeSet<String> = self.names().all().into_iter().map(|(name, _)| name).collect();
        let known = |name: &str| all.contains(name) || name == HEAD || self.names().is_buffer(name);
        match self.weights.names().find(|name| !known(name)) {
            Some(name) => Err(SourceError::Unexpected { tensor: name.into(), folder: folder.into() }),
            None => Ok(()),
        }
    }

    /// Some files repeat a tied matrix. If it is not the same one, the file and the configuration mean different models.
    fn check_tie(&self, folder: &Path) -> Result<(), SourceError> {
        let names = self.names();
        if !self.spec.tied_head || !self.weights.contains(HEAD) || !self.weights.contains(&names.tokens()) {
            return Ok(());
        }
        let tokens = self.weights.tensor(&names.tokens())?;
        let head = self.weights.shaped(HEAD, tokens.shape)?;
        let same = head.dtype == tokens.dtype && head.bytes == tokens.bytes;
        [head, tokens].iter().for_each(|view| self.weights.release(view));
        if same {
            return Ok(());
        }
        Err(SourceError::Untied { tokens: tokens.name.into(), folder: folder.into() })
    }
}

/// The tensors that a node needs to hold `layers` of a model, each once, with the shape that the configuration gives it:
/// what [`pack_piece`](crate::pack_piece) reads for the pieces of the range's [`Plan`](crate::Plan).
///
/// The embedding comes with the first layer, the final norm and the head with the last (a tied head's matrix is the
/// embedding). `stored` are the names that the checkpoint has; some were saved without the prefix.
///
/// # Errors
/// [`SourceError::Layers`] for a range that the model does not have.
pub fn layer_tensors<'n>(
    spec: &Spec,
    layers: Range<usize>,
    stored: impl IntoIterator<Item = &'n str>,
) -> Result<Vec<(String, Vec<usize>)>, SourceError> {
    check_layers(spec, &layers)?;
    Ok(Names { spec, prefix: prefix(spec, stored) }.of_layers(layers))
}

fn check_layers(spec: &Spec, layers: &Range<usize>) -> Result<(), SourceError> {
    if layers.start < layers.end && layers.end <= spec.layers {
        return Ok(());
    }
    Err(SourceError::Layers { range: layers.clone(), layers: spec.layers })
}

/// What the names of this checkpoint begin with.
fn prefix<'n>(spec: &Spec, stored: impl IntoIterator<Item = &'n str>) -> &'static str {
    let saved = Names::prefix_of(spec.family);
    if stored.into_iter().any(|name| name.starts_with(saved)) { saved } else { "" }
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
    fn a_folder_with_only_the_tensors_of_some_layers_packs_their_pieces_to_the_same_bytes() {
        use crate::{Plan, WeightFormat, pack_piece};
        for family in ["gpt2", "llama", "gemma3", "phi3", "qwen2"] {
            let whole = Model::of(family);
            let folder = whole.write(Dtype::F16);
            let whole_source = Source::open(folder.path()).expect(family);
            let spec = whole_source.spec();
            for layers in [0..1, 1..2, 1..spec.layers, 0..spec.layers] {
                let mut part = Model::of(family);
                let stored: Vec<String> = whole.tensors.keys().cloned().collect();
                let needed = layer_tensors(spec, layers.clone(), stored.iter().map(String::as_str)).expect("range");
                part.tensors.retain(|name, _| needed.iter().any(|(needed, _)| needed == name));
                assert_eq!(part.tensors.len(), needed.len(), "{family} {layers:?}: each once");
                let folder = part.write(Dtype::F16);
                let source = Source::open_layers(folder.path(), layers.clone()).expect(family);
                for piece in Plan::new(spec, WeightFormat::F16, layers.clone()).pieces {
                    let [a, b] =
                        [&whole_source, &source].map(|from| pack_piece(from, piece, WeightFormat::F16).expect("piece"));
                    assert!(a.as_slice() == b.as_slice(), "{family} {layers:?} {piece}");
                }
                assert_eq!(Source::open(folder.path()).is_ok(), layers == (0..spec.layers), "{family} {layers:?}");
            }
        }
    }

    #[test]
    fn layers_that_are_missing_or_beyond_the_model_are_named() {
        let mut model = Model::fixture();
        model.tensors.retain(|name, _| !name.starts_with("transformer.h.2."));
        let folder = model.write(Dtype::F16);
        let refusal = |layers| Source::open_layers(folder.path(), layers).expect_err("refused").to_string();
        assert!(Source::open_layers(folder.path(), 0..2).is_ok());
        assert!(refusal(1..3).contains("transformer.h.2."));
        assert!(refusal(1..5).contains("1..5") && refusal(1..5).contains("of 4"), "{}", refusal(1..5));
        assert!(refusal(2..2).contains("2..2"));
    }

    #[test]
    fn an_untied_model_without_its_head_is_refused() {
        let mut model = Model::fixture();
        model.config["tie_word_embeddings"] = false.into();
        assert!(refusal(&model).contains("lm_head.weight"));
    }
}
