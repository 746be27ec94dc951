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

use crate::model::Prepared;

/// A public model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// GPT-2 124M: 12 layers, width 768, vocabulary 50,257.
    Gpt2,
}

impl Shape {
    fn spec(self) -> Spec {
        match self {
            Self::Gpt2 => Spec::gpt2_124m(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2-124m (random weights)",
        }
    }
}

/// Writes a split model of this shape with random weights into `folder`. Blocks for as long as it takes.
pub(crate) fn prepare(shape: Shape, format: WeightFormat, folder: &Path) -> Result<Prepared> {
    let spec = shape.spec();
    let mut pieces = Vec::new();
    for (seed, piece) in (0..).zip(all_pieces(&spec, format)) {
        let bytes = random_piece(&spec, format, piece, seed);
        let bytes = bytes.as_slice();
        let listed = ManifestPiece {
            name: piece.to_string(),
            sha256: Digest::of(bytes),
            bytes: bytes.len() as u64,
            sqnr_db: None,
        };
        write(&folder.join(listed.file_name()), bytes)?;
        pieces.push(listed);
    }
    let name = shape.name().to_owned();
    let manifest = Manifest {
        version: Manifest::VERSION,
        name: name.clone(),
        spec: spec.clone(),
        format,
        origin: Origin { config_sha256: Digest::of(&[]), files: Vec::new() },
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
