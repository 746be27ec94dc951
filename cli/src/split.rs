//! `syn1 split`: a model cut into content-addressed shards.

use std::path::PathBuf;

use anyhow::Result;
use syn1_coordinator::placement::size;

use crate::calibrate::{CalibrateWith, split_calibrated};
use crate::interrupt::blocking;
use crate::model;
use crate::options::Weights;
use crate::show;

/// Options of `syn1 split`.
#[derive(clap::Args)]
#[command(after_help = "\
The output holds syn1.json, one file per piece (named by its SHA-256), and the tokenizer. It can be served
(syn1 coordinator --model OUT), copied, or given to a node (syn1 node --shards OUT). A run that was cut off is
resumed: pieces that are there and whole are kept.")]
pub(crate) struct Args {
    /// A Hugging Face folder [default: the bundled tiny-rust-docs]
    #[arg(long, value_name = "DIR", env = "SYN1_MODEL")]
    model: Option<PathBuf>,
    /// Folder for the shards
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// How weights are stored: auto is f16.
    #[arg(long, value_enum, default_value_t = Weights::Auto)]
    weights: Weights,
    /// What the rounding of int4 weights is calibrated with: a text file; own (a text that the model writes itself); none
    /// (every weight to the nearest); auto is own for small models, none for others
    #[arg(long, value_name = "TEXT", default_value = "auto")]
    calibrate: CalibrateWith,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let dir = model::find(args.model.as_deref())?;
    let (out, format) = (args.out.clone(), args.weights.format(None));
    let calibrate = args.calibrate.clone();
    let manifest = blocking(move || split_calibrated(&dir, &out, format, &calibrate)).await?;
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&manifest)? + "\n"))?);
    }
    let total = size(manifest.total_bytes());
    let (name, pieces, out) = (&manifest.name, manifest.pieces.len(), args.out.display());
    Ok(show::out(&format!("{name}: {pieces} pieces of {} weights, {total}, in {out}\n", format.name()))?)
}
