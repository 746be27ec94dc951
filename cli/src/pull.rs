//! `syn1 pull`: a model from a hub, a web server or a folder, whole or only some of its layers.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use syn1_coordinator::placement::size;
use syn1_hub::{Endpoint, Origin, Pulled, Repo, Watch, layers_to_folder, to_cache, to_folder};

use crate::interrupt::blocking;
use crate::progress::ByteBar;
use crate::{options, show};

/// Options of `syn1 pull`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  syn1 pull HuggingFaceTB/SmolLM2-135M-Instruct
    then: syn1 generate --model HuggingFaceTB/SmolLM2-135M-Instruct \"Once upon a time\"
  syn1 pull HuggingFaceTB/SmolLM2-135M-Instruct --layers 0..10 --out first-third
    then: syn1 split --model first-third --layers 0..10 --out pieces
    then: syn1 node --join tcp://HOST:PORT --shards pieces
  syn1 pull --from https://example.org/models/small --out small
    then: syn1 generate --model small \"Once upon a time\"

The folder is printed to standard output. Without --out it is in the hub's cache, where Python's
tools find the same files, and where what they fetched is found. A run that was cut off is resumed
where it ended. HF_TOKEN (for gated models), HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE
mean what they mean to Python's tools.")]
pub(crate) struct Args {
    /// A model of the hub; REV is a branch, a tag or a commit [default: main]
    #[arg(value_name = "ORG/NAME[@REV]", required_unless_present = "from")]
    repo: Option<Repo>,
    /// In place of the hub: a model's folder, or an address under which a model's files lie (URL/config.json and so on)
    #[arg(long, value_name = "DIR|URL", conflicts_with = "repo", requires = "out")]
    from: Option<String>,
    /// Only the tensors that a node needs for layers A up to but not including B, counted from 0, by byte ranges: the
    /// embedding comes with the first layer, the head with the last
    #[arg(long, value_name = "A..B", requires = "out", value_parser = options::layers)]
    layers: Option<Range<usize>>,
    /// A folder for the files [default: the hub's cache]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object in place of the folder
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let begun = Instant::now();
    let Args { repo, from, layers, out, json } = args;
    let of_layers = layers.is_some();
    let name = repo.as_ref().map(Repo::to_string);
    let pulled = blocking(move || pull(repo.as_ref(), from.as_deref(), layers, out)).await?;
    if of_layers {
        show::say(
            "model.safetensors holds only parts of the model's files, so their SHA-256 cannot be checked: sizes, headers and \
             that the files stayed the same were",
        );
    } else if !pulled.unhashed.is_empty() {
        show::say(&format!("no hash is known of {}: only the length was checked", pulled.unhashed.join(", ")));
    }
    if json {
        let report = serde_json::json!({
            "repo": name,
            "commit": pulled.commit,
            "folder": pulled.folder,
            "files": pulled.files,
            "unhashed": pulled.unhashed,
            "fetched_bytes": pulled.fetched_bytes,
            "reused_bytes": pulled.reused_bytes,
            "seconds": begun.elapsed().as_secs_f64(),
        });
        return Ok(show::out(&format!("{report}\n"))?);
    }
    let (fetched, reused) = (size(pulled.fetched_bytes), size(pulled.reused_bytes));
    show::say(&format!("{} files: {fetched} fetched, {reused} were here already", pulled.files.len()));
    Ok(show::out(&format!("{}\n", pulled.folder.display()))?)
}

fn pull(repo: Option<&Repo>, from: Option<&str>, layers: Option<Range<usize>>, out: Option<PathBuf>) -> Result<Pulled> {
    let bar = ByteBar::new();
    let progress = |at: syn1_hub::Progress<'_>| bar.show(at.file.to_owned(), at.done_bytes, at.total_bytes);
    let notice = |text: String| {
        bar.clear();
        show::say(&text);
    };
    // Ctrl-C ends the program; what came is on disk by then.
    let cancelled = AtomicBool::new(false);
    let watch = Watch { progress: &progress, notice: &notice, cancelled: &cancelled };
    let origin = match (from, repo) {
        (Some(url), _) if url.contains("://") => Origin::web(url)?,
        (Some(dir), _) => Origin::folder(dir.as_ref()),
        (None, Some(repo)) => {
            let endpoint = Endpoint::from_env()?;
            if out.is_none() {
                return Ok(to_cache(&endpoint, repo, &watch)?);
            }
            Origin::hub(&endpoint, repo, &watch)?
        }
        (None, None) => anyhow::bail!("name a model as ORG/NAME, or a folder or an address with --from"),
    };
    let Some(out) = out else { anyhow::bail!("name a folder for the files with --out") };
    Ok(match layers {
        Some(layers) => layers_to_folder(&origin, layers, &out, &watch)?,
        None => to_folder(&origin, &out, &watch)?,
    })
}
