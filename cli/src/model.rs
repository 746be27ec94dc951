//! Finds the model, and cuts it into shards where that has not been done.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use syn1_coordinator::server::{Pack, Packed};
use syn1_hub::{Endpoint, Repo};
use syn1_model::digest::Digest;
use syn1_model::folder::ModelFolder;
use syn1_model::manifest::{Manifest, ManifestPiece, load_piece};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::Spec;
use syn1_model::split::SplitError;
use syn1_model::tokenizer::Tokenizer;
use syn1_node_host::cache::Cache;

use crate::calibrate::{CalibrateWith, split_calibrated};
use crate::context;
use crate::interrupt::blocking;
use crate::options::ModelOptions;
use crate::progress::ByteBar;

/// A model that is ready to be served.
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) format: WeightFormat,
    pub(crate) manifest: Manifest,
    /// Manifest and pieces.
    pub(crate) shards: PathBuf,
    /// Formats to fall back to where the nodes' memory does not hold `format`, the best first; none where one was named.
    pub(crate) smaller: Vec<WeightFormat>,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// Positions a request may take.
    pub(crate) max_positions: usize,
    /// Where it came from; none for random weights.
    pub(crate) folder: Option<PathBuf>,
}

impl Prepared {
    /// What packs the model in its smaller formats.
    pub(crate) fn pack(&self) -> Pack {
        let (dir, name) = (self.folder.clone(), self.name.clone());
        Arc::new(move |format| {
            let dir = dir.as_deref().ok_or("there is no model folder to pack from")?;
            let packed = split_folder(dir, &name, format).and_then(|shards| {
                let manifest_sha256 =
                    *split_calibrated(dir, &shards, format, &CalibrateWith::Auto)?.sha256().as_bytes();
                Ok(Packed { shards, manifest_sha256 })
            });
            packed.map_err(|error| format!("{error:#}"))
        })
    }

    /// The whole model for one engine, every piece verified. Blocks for as long as it takes.
    pub(crate) fn whole(&self) -> Result<(Plan, Vec<PieceBytes>)> {
        self.part(0..self.spec.layers)
    }

    /// The same for some of its layers.
    pub(crate) fn part(&self, layers: Range<usize>) -> Result<(Plan, Vec<PieceBytes>)> {
        let plan = Plan::new(&self.spec, self.format, layers);
        let pieces = plan.pieces.iter().map(|piece| match self.manifest.find(*piece) {
            Some(listed) => Ok(load_piece(&self.shards, listed)?),
            None => bail!("the manifest has no piece {piece}"),
        });
        let pieces = pieces.collect::<Result<_>>()?;
        Ok((plan, pieces))
    }

    /// Bytes of the weights and of one KV cache.
    pub(crate) fn bytes(&self) -> u64 {
        let plan = Plan::new(&self.spec, self.format, 0..self.spec.layers);
        plan.weight_bytes().saturating_add(plan.kv_bytes(self.max_positions, 1))
    }

    /// The folders that the model's weights are in, or will be when they have been packed.
    pub(crate) fn folders(&self) -> Result<Vec<PathBuf>> {
        let mut folders = vec![self.shards.clone()];
        if let Some(dir) = &self.folder {
            for format in &self.smaller {
                folders.push(split_folder(dir, &self.name, *format)?);
            }
        }
        Ok(folders)
    }
}

/// Opens the model and makes sure that its shards are on disk.
pub(crate) async fn prepare(options: &ModelOptions) -> Result<Prepared> {
    let options = options.clone();
    blocking(move || {
        let dir = find(options.model.as_deref())?;
        let folder = ModelFolder::open(&dir)?;
        let format = options.weights.format(folder.manifest().map(|manifest| manifest.format));
        let smaller = if folder.source().is_some() { options.weights.smaller() } else { Vec::new() };
        let tokenizer = folder.tokenizer().cloned();
        let max_positions = context::positions(options.context, folder.spec())?;
        let (shards, manifest) = shards(&dir, &folder, format)?;
        let (name, spec) = (folder.name().to_owned(), folder.spec().clone());
        let folder = Some(dir);
        Ok(Prepared { name, spec, format, manifest, shards, smaller, tokenizer, max_positions, folder })
    })
    .await
}

/// Cuts some layers of the model in `source` into shards in `out`, with a bar.
pub(crate) fn split_layers(
    source: &Path,
    layers: Range<usize>,
    out: &Path,
    format: WeightFormat,
) -> Result<Vec<ManifestPiece>, SplitError> {
    let bar = ByteBar::new();
    syn1_model::split::split_layers(source, layers, out, format, &mut |at| bar.packing(at))
}

/// The folder named, the model of that name in the hub's cache, or the bundled model: in the working directory or beside
/// the program, or above either. Nothing is fetched.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = named {
        let repo = dir.to_str().and_then(|name| name.parse::<Repo>().ok());
        return match repo {
            Some(repo) if !dir.exists() => {
                let cached = Endpoint::from_env().and_then(|endpoint| endpoint.cache().find(&repo));
                cached.map_err(|error| anyhow!("there is no folder {}, and {error}", dir.display()))
            }
            _ => Ok(dir.to_owned()),
        };
    }
    let program = std::env::current_exe().ok();
    let places = [std::env::current_dir().ok(), program];
    let above = places.iter().flatten().flat_map(|place| place.ancestors());
    let bundled = above.map(|dir| dir.join(BUNDLED)).find(|dir| dir.join("config.json").is_file());
    bundled.with_context(|| format!("the bundled model {BUNDLED} is not here: name a model folder with --model"))
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
    let out = split_folder(dir, folder.name(), format)?;
    let manifest = split_calibrated(dir, &out, format, &CalibrateWith::Auto)?;
    Ok((out, manifest))
}

/// Where the model `name` in `dir` is split to, in the cache: one folder for each source and format. The split itself
/// notices when the source has changed, and keeps what is still whole.
fn split_folder(dir: &Path, name: &str, format: WeightFormat) -> Result<PathBuf> {
    let path = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let digest = Digest::of(path.as_os_str().as_encoded_bytes()).to_string();
    let folder = format!("{name}-{format}-{}", digest.get(..12).unwrap_or_default());
    Ok(Cache::default_dir()?.join("split").join(folder))
}

const BUNDLED: &str = "models/tiny-rust-docs";
