//! `syn1 split`: a model cut into content-addressed shards.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use syn1_coordinator::placement::size;
use syn1_model::plan::WeightFormat;

use crate::interrupt::blocking;
use crate::options::Weights;
use crate::{model, options, show};

/// Options of `syn1 split`.
#[derive(clap::Args)]
#[command(after_help = "\
The output holds syn1.json, one file per piece (named by its SHA-256), and the tokenizer with its chat
template. It can be served (syn1 coordinator --model OUT), copied, or given to a node (syn1 node
--shards OUT). A run that was cut off is resumed: pieces that are there and whole are kept. With --layers there is no
syn1.json, only the pieces of these layers: a node takes them (syn1 node --shards OUT) and fetches
what else it needs.")]
pub(crate) struct Args {
    /// A Hugging Face folder, or the ORG/NAME[@REV] of a model that `syn1 pull` fetched
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
    /// Print the manifest as JSON; with --layers the list of pieces
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let dir = model::find(args.model.as_deref())?;
    let (out, format) = (args.out.clone(), args.weights.format(None));
    if let Some(layers) = args.layers {
        return split_layers(dir, layers, args.out, format, args.json).await;
    }
    let manifest = blocking(move || Ok(model::split(&dir, &out, format)?)).await?;
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&manifest)? + "\n"))?);
    }
    let total = size(manifest.total_bytes());
    let (name, pieces, out) = (&manifest.name, manifest.pieces.len(), args.out.display());
    Ok(show::out(&format!("{name}: {pieces} pieces of {} weights, {total}, in {out}\n", format.name()))?)
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
