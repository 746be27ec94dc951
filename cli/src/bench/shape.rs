//! Models for benchmarks that only need a shape: random weights, packed and split like any other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use syn1_model::digest::Digest;
use syn1_model::folder::ModelFolder;
use syn1_model::manifest::{Manifest, ManifestPiece, Origin};
use syn1_model::plan::{WeightFormat, all_pieces};
use syn1_model::random::random_piece;
use syn1_model::spec::Spec;
use tempfile::TempDir;

use crate::context;
use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::{ModelOptions, Weights};

/// A public model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// GPT-2 124M: 12 layers, width 768, vocabulary 50,257.
    Gpt2,
    /// Llama 3.2 1B: 16 layers, width 2048, vocabulary 128,256; a context of 8192.
    #[value(name = "llama-1b", alias = "llama1b")]
    Llama1b,
    /// SmolLM 135M: 30 layers, width 576, vocabulary 49,152; a context of 8192.
    #[value(name = "llama-135m", alias = "llama135m")]
    Llama135m,
    /// The toys of `syn1 bench fusion`, of this width: 4 layers, and a vocabulary of 256; f32 unless --weights says otherwise.
    #[value(name = "tiny-32")]
    Tiny32,
    /// The same, 64 wide.
    #[value(name = "tiny-64")]
    Tiny64,
    /// The same, 128 wide.
    #[value(name = "tiny-128")]
    Tiny128,
    /// The same, 256 wide.
    #[value(name = "tiny-256")]
    Tiny256,
    /// The same, 512 wide.
    #[value(name = "tiny-512")]
    Tiny512,
}

impl Shape {
    fn spec(self) -> Spec {
        match self {
            Self::Gpt2 => Spec::gpt2_124m(),
            Self::Llama1b => Spec::llama_1b(),
            Self::Tiny32 => tiny(32),
            Self::Tiny64 => tiny(64),
            Self::Tiny128 => tiny(128),
            Self::Tiny256 => tiny(256),
            Self::Tiny512 => tiny(512),
            Self::Llama135m => Spec::llama_135m(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2-124m (random weights)",
            Self::Llama1b => "llama-1b (random weights)",
            Self::Llama135m => "llama-135m (random weights)",
            Self::Tiny32 => "tiny-32 (random weights)",
            Self::Tiny64 => "tiny-64 (random weights)",
            Self::Tiny128 => "tiny-128 (random weights)",
            Self::Tiny256 => "tiny-256 (random weights)",
            Self::Tiny512 => "tiny-512 (random weights)",
        }
    }

    /// How its weights are stored if `asked` so.
    pub(crate) fn format(self, asked: Weights) -> WeightFormat {
        let is_tiny = matches!(self, Self::Tiny32 | Self::Tiny64 | Self::Tiny128 | Self::Tiny256 | Self::Tiny512);
        asked.format(is_tiny.then_some(WeightFormat::F32))
    }
}

/// A toy of the fusion experiment, with embedding and head so that it can loop.
fn tiny(width: usize) -> Spec {
    let heads = (width / 64).max(2);
    Spec {
        layers: 4,
        width,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        ffn: 4 * width,
        vocab: 256,
        ..Spec::gpt2_124m()
    }
}

/// What a benchmark runs.
#[derive(clap::Args)]
pub(crate) struct Subject {
    #[command(flatten)]
    model: ModelOptions,
    /// Random weights of a public model's shape, in place of --model
    #[arg(long, value_enum, conflicts_with = "model")]
    shape: Option<Shape>,
}

/// What is known of a model without its weights.
pub(crate) struct Sketch {
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) format: WeightFormat,
    /// Positions a request may take.
    pub(crate) max_positions: usize,
}

impl Subject {
    /// The model without its weights: nothing is split or written.
    pub(crate) async fn sketch(&self) -> Result<Sketch> {
        let ModelOptions { model, weights, context } = self.model.clone();
        if let Some(shape) = self.shape {
            let (name, spec) = (shape.name().into(), shape.spec());
            let max_positions = context::positions(context, &spec)?;
            return Ok(Sketch { name, spec, format: shape.format(weights), max_positions });
        }
        blocking(move || {
            let folder = ModelFolder::open(&model::find(model.as_deref())?)?;
            let format = weights.format(folder.manifest().map(|manifest| manifest.format));
            let max_positions = context::positions(context, folder.spec())?;
            Ok(Sketch { name: folder.name().to_owned(), spec: folder.spec().clone(), format, max_positions })
        })
        .await
    }

    /// The model, split, and the folder of its random weights, which are deleted with it.
    pub(crate) async fn prepare(&self) -> Result<(Prepared, TempDir)> {
        let folder = tempfile::tempdir().context("cannot make a folder for random weights")?;
        let prepared = match self.shape {
            Some(shape) => {
                let (format, folder) = (shape.format(self.model.weights), folder.path().to_owned());
                blocking(move || prepare(shape, format, &folder)).await?
            }
            // What is measured is what the report names, whatever memory there is.
            None => Prepared { smaller: Vec::new(), ..model::prepare(&self.model).await? },
        };
        Ok((prepared, folder))
    }
}

/// Writes a split model of this shape with random weights into `folder`. Blocks for as long as it takes.
pub(crate) fn prepare(shape: Shape, format: WeightFormat, folder: &Path) -> Result<Prepared> {
    let spec = shape.spec();
    let mut pieces = Vec::new();
    for piece in all_pieces(&spec, format) {
        let bytes = random_piece(&spec, format, piece, SEED);
        let bytes = bytes.as_slice();
        let (sha256, length) = (Digest::of(bytes), bytes.len() as u64);
        let listed = ManifestPiece { name: piece.to_string(), sha256, bytes: length, sqnr_db: None };
        write(&folder.join(listed.file_name()), bytes)?;
        pieces.push(listed);
    }
    let name = shape.name().to_owned();
    let manifest = Manifest {
        version: Manifest::VERSION,
        name: name.clone(),
        spec: spec.clone(),
        format,
        origin: Origin { config_sha256: Digest::of(b""), files: Vec::new(), calibration: None },
        pieces,
        tokenizer: false,
    };
    write(&folder.join(Manifest::FILE), &manifest.to_bytes())?;
    let max_positions = spec.max_positions;
    let shards = folder.to_owned();
    let smaller = Vec::new();
    Ok(Prepared { name, spec, format, manifest, shards, smaller, tokenizer: None, max_positions, folder: None })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Pieces of one seed fit together.
const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use syn1_fusion::WIDTHS;

    use super::*;

    #[test]
    fn a_toy_has_the_widths_and_heads_of_the_fusion_experiment() {
        let toys = [Shape::Tiny32, Shape::Tiny64, Shape::Tiny128, Shape::Tiny256, Shape::Tiny512];
        for (shape, width) in toys.into_iter().zip(WIDTHS) {
            let toy = syn1_fusion::Shape::new(width, 4).unwrap();
            let spec = shape.spec();
            assert_eq!((spec.width, spec.heads, spec.layers), (toy.width, toy.heads, toy.layers));
            assert_eq!(spec.head_dim * spec.heads, spec.width);
            assert!(shape.name().starts_with(&format!("tiny-{width} ")));
            assert_eq!(shape.to_possible_value().unwrap().get_name(), format!("tiny-{width}"));
            assert_eq!(shape.format(Weights::Auto), WeightFormat::F32);
            assert_eq!(shape.format(Weights::Int8), WeightFormat::Int8);
        }
        assert_eq!(Shape::Gpt2.format(Weights::Auto), WeightFormat::F16);
    }
}
