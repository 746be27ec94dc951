//! Models for benchmarks that only need a shape: random weights, packed and split like any other.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use syn1_model::digest::Digest;
use syn1_model::manifest::{Manifest, ManifestPiece, Origin};
use syn1_model::plan::{WeightFormat, all_pieces};
use syn1_model::random::random_piece;
use syn1_model::spec::Spec;
use tempfile::TempDir;

use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::ModelOptions;

/// A public model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// GPT-2 124M: 12 layers, width 768, vocabulary 50,257.
    Gpt2,
    /// Llama 3.2 1B: 16 layers, width 2048, vocabulary 128,256; a context of 8192.
    Llama1b,
    /// SmolLM 135M: 30 layers, width 576, vocabulary 49,152; a context of 8192.
    Llama135m,
}

impl Shape {
    fn spec(self) -> Spec {
        match self {
            Self::Gpt2 => Spec::gpt2_124m(),
            Self::Llama1b => Spec::llama_1b(),
            Self::Llama135m => Spec::llama_135m(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2-124m (random weights)",
            Self::Llama1b => "llama-1b (random weights)",
            Self::Llama135m => "llama-135m (random weights)",
        }
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

impl Subject {
    /// The model, split, and the folder of its random weights, which are deleted with it.
    pub(crate) async fn prepare(&self) -> Result<(Prepared, TempDir)> {
        let folder = tempfile::tempdir().context("cannot make a folder for random weights")?;
        let prepared = match self.shape {
            Some(shape) => {
                let (format, folder) = (self.model.weights.format(None), folder.path().to_owned());
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
