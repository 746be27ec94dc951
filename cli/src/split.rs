//! `syn1 split`: a model cut into content-addressed shards.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use syn1_coordinator::placement::size;
use syn1_model::manifest::Manifest;
use syn1_model::plan::{WeightFormat, all_pieces, piece_weights};

use crate::calibrate::{CalibrateWith, split_calibrated};
use crate::interrupt::blocking;
use crate::options::Weights;
use crate::{machine, model, options, show};

/// Options of `syn1 split`.
#[derive(clap::Args)]
#[command(after_help = "\
Example:  syn1 split --model path/to/model --weights int8 --out path/to/shards

The output holds syn1.json, one file per piece (named by its SHA-256), and the tokenizer with its chat template. It can
be served (syn1 coordinator --model OUT), copied, or given to a node (syn1 node --shards OUT). A run that was cut off is
resumed: pieces that are there and whole are kept. With --layers there is no syn1.json, only the pieces of these layers:
a node takes them (syn1 node --shards OUT) and fetches what else it needs.

SQNR is the power of the model's weights over the power of what rounding them has changed: 6 dB are one bit.")]
pub(crate) struct Args {
    /// A Hugging Face folder, or the ORG/NAME (or ORG/NAME@REV) of a model that `syn1 pull` fetched
    /// [default: the bundled tiny-rust-docs]
    #[arg(long, value_name = "DIR|ORG/NAME", env = "SYN1_MODEL")]
    model: Option<PathBuf>,
    /// Folder for the shards
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// How weights are stored: auto is f16.
    #[arg(long, value_enum, default_value_t = Weights::Auto)]
    weights: Weights,
    /// Only layers A up to but not including B, counted from 0; the folder need not hold others (see syn1 pull --layers)
    #[arg(long, value_name = "A..B", value_parser = options::layers)]
    layers: Option<Range<usize>>,
    /// What the rounding of int4 weights is calibrated with: a text file; own (a text that the model writes itself); none
    /// (every weight to the nearest); auto is own for small models, none for others
    #[arg(long, value_name = "TEXT", default_value = "auto", conflicts_with = "layers")]
    calibrate: CalibrateWith,
    /// Print one JSON object in place of text: the manifest and the figures; with --layers the list of pieces
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    manifest: &'a Manifest,
    bytes: u64,
    /// Bits of all pieces, norms and biases included, for each element of a matrix.
    bits_per_weight: f64,
    /// Null where nothing was rounded.
    sqnr_db: Option<Sqnr>,
    seconds: f64,
    /// The most memory that the program had at a time; null where the system does not tell.
    peak_memory_bytes: Option<u64>,
}

/// Power of the source's weights over that of what rounding has changed, in dB.
#[derive(Serialize)]
struct Sqnr {
    /// From the mean of all weights' noise over signal, where that of a weight is its piece's.
    mean: f64,
    worst: f32,
    worst_piece: String,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let dir = model::find(args.model.as_deref())?;
    let (out, format) = (args.out.clone(), args.weights.format(None));
    if let Some(layers) = args.layers {
        return split_layers(dir, layers, args.out, format, args.json).await;
    }
    let begun = Instant::now();
    let calibrate = args.calibrate.clone();
    let manifest = blocking(move || split_calibrated(&dir, &out, format, &calibrate)).await?;
    let report = report(&manifest, begun.elapsed().as_secs_f64());
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    let (name, pieces, out) = (&manifest.name, manifest.pieces.len(), args.out.display());
    let sqnr = report.sqnr_db.map_or_else(
        || "nothing was rounded".into(),
        |sqnr| format!("SQNR {:.1} dB, worst {:.1} dB in {}", sqnr.mean, sqnr.worst, sqnr.worst_piece),
    );
    let peak = report.peak_memory_bytes.map_or_else(|| "unknown".into(), size);
    Ok(show::out(&format!(
        "{name}: {pieces} pieces of {format} weights, {}, in {out}\n{:.2} bits a weight, {sqnr}; {:.1} s, peak memory {peak}\n",
        size(report.bytes),
        report.bits_per_weight,
        report.seconds,
    ))?)
}

fn report(manifest: &Manifest, seconds: f64) -> Report<'_> {
    let bytes = manifest.total_bytes();
    let weights: u64 = weights(manifest).iter().sum();
    Report {
        manifest,
        bytes,
        bits_per_weight: 8.0 * bytes as f64 / weights as f64,
        sqnr_db: sqnr(manifest),
        seconds,
        peak_memory_bytes: machine::peak_memory_bytes(),
    }
}

/// Weights of each piece.
fn weights(manifest: &Manifest) -> Vec<u64> {
    let Manifest { spec, format, .. } = manifest;
    all_pieces(spec, *format).into_iter().map(|piece| piece_weights(spec, *format, piece)).collect()
}

fn sqnr(manifest: &Manifest) -> Option<Sqnr> {
    let rounded = manifest.pieces.iter().filter_map(|piece| Some((piece.sqnr_db?, piece)));
    let (worst, piece) = rounded.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let (mut noise, mut all) = (0.0, 0.0);
    for (piece, weights) in manifest.pieces.iter().zip(weights(manifest)) {
        noise += piece.sqnr_db.map_or(0.0, |db| weights as f64 * 10_f64.powf(f64::from(-db) / 10.0));
        all += weights as f64;
    }
    Some(Sqnr { mean: -10.0 * (noise / all).log10(), worst, worst_piece: piece.name.clone() })
}

async fn split_layers(
    dir: PathBuf,
    layers: Range<usize>,
    out: PathBuf,
    format: WeightFormat,
    json: bool,
) -> Result<()> {
    let place = out.clone();
    let pieces = blocking(move || Ok(model::split_layers(&dir, layers, &out, format)?)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&pieces)? + "\n"))?);
    }
    let total = size(pieces.iter().map(|piece| piece.bytes).sum());
    let line = format!("{} pieces of {} weights, {total}, in {}\n", pieces.len(), format.name(), place.display());
    Ok(show::out(&line)?)
}

#[cfg(test)]
mod tests {
    use syn1_model::digest::Digest;
    use syn1_model::manifest::{ManifestPiece, Origin};
    use syn1_model::plan::{WeightFormat, piece_bytes};
    use syn1_model::spec::Spec;

    use super::*;

    fn manifest(format: WeightFormat, sqnr_db: fn(usize) -> Option<f32>) -> Manifest {
        let spec = Spec { layers: 2, ..Spec::gpt2_124m() };
        let piece = |(index, piece)| ManifestPiece {
            name: format!("{piece}"),
            sha256: Digest([0; 32]),
            bytes: piece_bytes(&spec, format, piece),
            sqnr_db: sqnr_db(index),
        };
        let pieces = all_pieces(&spec, format).into_iter().enumerate().map(piece).collect();
        let origin = Origin { config_sha256: Digest([0; 32]), files: Vec::new(), calibration: None };
        Manifest { version: Manifest::VERSION, name: "two".into(), spec, format, origin, pieces, tokenizer: false }
    }

    #[test]
    fn bits_per_weight_are_those_of_the_format_and_a_little_for_norms_and_biases() {
        let bits = |format| report(&manifest(format, |_| None), 1.0).bits_per_weight;
        let spare = [(WeightFormat::F32, 32.0), (WeightFormat::F16, 16.0), (WeightFormat::Int8, 8.5)];
        for (format, least) in spare {
            assert!((least..least + 0.2).contains(&bits(format)), "{format}: {}", bits(format));
        }
        // Most of this small model is its token embedding, which is int8.
        assert!((7.0..8.5).contains(&bits(WeightFormat::Int4)), "{}", bits(WeightFormat::Int4));
    }

    #[test]
    fn the_mean_is_near_the_largest_pieces_and_the_worst_is_named() {
        assert!(sqnr(&manifest(WeightFormat::F32, |_| None)).is_none());
        let same = sqnr(&manifest(WeightFormat::Int8, |_| Some(44.0))).unwrap();
        assert!((same.mean - 44.0).abs() < 1e-9);
        // Tokens, positions, two blocks, head.
        let one = sqnr(&manifest(WeightFormat::Int4, |index| (index == 3).then_some(20.0))).unwrap();
        assert_eq!((one.worst, one.worst_piece.as_str()), (20.0, "block.1"));
        let share: f64 = 12.0 * 768.0 * 768.0 / ((50_257.0 + 1024.0) * 768.0 + 24.0 * 768.0 * 768.0);
        assert!((one.mean - (20.0 - 10.0 * share.log10())).abs() < 1e-9, "{}", one.mean);
    }
}
