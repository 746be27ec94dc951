//! Finds the model, and cuts it into shards where that has not been done.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn1_model::digest::Digest;
use syn1_model::folder::ModelFolder;
use syn1_model::manifest::Manifest;
use syn1_model::plan::WeightFormat;
use syn1_model::spec::Spec;
use syn1_model::tokenizer::Tokenizer;
use syn1_node_host::cache::Cache;

use crate::calibrate::{CalibrateWith, split_calibrated};
use crate::interrupt::blocking;
use crate::options::ModelOptions;

/// A model that is ready to be served.
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) format: WeightFormat,
    pub(crate) manifest: Manifest,
    /// Manifest and pieces.
    pub(crate) shards: PathBuf,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// Positions a request may take.
    pub(crate) max_positions: usize,
    /// Where it came from; none for random weights.
    pub(crate) folder: Option<PathBuf>,
}

/// Opens the model and makes sure that its shards are on disk.
pub(crate) async fn prepare(options: &ModelOptions) -> Result<Prepared> {
    let options = options.clone();
    blocking(move || {
        let dir = find(options.model.as_deref())?;
        let folder = ModelFolder::open(&dir)?;
        let format = options.weights.format(folder.manifest().map(|manifest| manifest.format));
        let tokenizer = folder.tokenizer().cloned();
        let max_positions = context(options.context, folder.spec())?;
        let (shards, manifest) = shards(&dir, &folder, format)?;
        let (name, spec) = (folder.name().to_owned(), folder.spec().clone());
        let folder = Some(dir);
        Ok(Prepared { name, spec, format, manifest, shards, tokenizer, max_positions, folder })
    })
    .await
}

/// The folder named, or the bundled model: in the working directory or beside the program, or above either.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = named {
        return Ok(dir.to_owned());
    }
    let program = std::env::current_exe().ok();
    let places = [std::env::current_dir().ok(), program];
    let above = places.iter().flatten().flat_map(|place| place.ancestors());
    let bundled = above.map(|dir| dir.join(BUNDLED)).find(|dir| dir.join("config.json").is_file());
    bundled.with_context(|| format!("the bundled model {BUNDLED} is not here: name a model folder with --model"))
}

fn context(asked: Option<usize>, spec: &Spec) -> Result<usize> {
    match asked {
        Some(0 | 1) => bail!("--context must be at least 2: one token in, one out"),
        Some(more) if more > spec.max_positions => {
            bail!("--context {more} is more than the model's {} positions", spec.max_positions)
        }
        asked => Ok(asked.unwrap_or(spec.max_positions)),
    }
}

/// The split model's folder: the given one if it is split, else one in the cache, made when it is missing or stale.
fn shards(dir: &Path, folder: &ModelFolder, format: WeightFormat) -> Result<(PathBuf, Manifest)> {
    if let Some(manifest) = folder.manifest() {
        if manifest.format != format {
            let (have, want) = (manifest.format.name(), format.name());
            bail!("{} is split with {have} weights: use --weights {have}, or split it again for {want}", dir.display());
        }
        return Ok((dir.to_owned(), manifest.clone()));
    }
    // One folder per source; the split itself notices when the source has changed, and keeps what is still whole.
    let path = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let digest = Digest::of(path.as_os_str().as_encoded_bytes()).to_string();
    let folder_name = format!("{}-{}-{}", folder.name(), format.name(), digest.get(..12).unwrap_or_default());
    let out = Cache::default_dir()?.join("split").join(folder_name);
    let manifest = split_calibrated(dir, &out, format, &CalibrateWith::Auto)?;
    Ok((out, manifest))
}

const BUNDLED: &str = "models/tiny-rust-docs";
