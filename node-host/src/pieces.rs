//! Where a shard's pieces come from: a folder on this machine, or the coordinator by way of the cache.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use syn1_model::{FolderError, Manifest, ModelFolder, PieceBytes, PieceError, Plan};
use syn1_node::Progress;

use crate::cache::Cache;
use crate::fetch::{FetchError, Fetcher, Watch};

/// A source of pieces.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A Hugging Face folder or a split folder of this machine.
    Folder(Arc<ModelFolder>),
    /// The coordinator, and what came from it before.
    Coordinator { cache: Cache, fetcher: Fetcher },
}

/// The pieces of a plan, in its order, each verified.
pub(crate) struct Gathered {
    pub(crate) pieces: Vec<PieceBytes>,
    /// Bytes that came over the network.
    pub(crate) fetched_bytes: u64,
}

/// Why a plan's pieces could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatherError {
    #[error("the local weights cannot be used: {0}")]
    Folder(#[from] FolderError),
    #[error(
        "the local weights are not what the coordinator serves: {0}; leave the folder out to fetch them from there"
    )]
    Other(PieceError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the manifest lists no piece {0}: split the model again on the coordinator")]
    Unlisted(String),
    /// Blocks that were rounded with a text which only the split saw.
    #[error("{} is not split, and the coordinator's weights are calibrated: name its split folder, or none", path.display())]
    Calibrated {
        /// The folder.
        path: std::path::PathBuf,
    },
}

impl Origin {
    /// Gets and verifies the plan's pieces. Blocks for as long as it takes.
    pub(crate) fn gather(
        &self,
        plan: &Plan,
        manifest: &Manifest,
        progress: &dyn Fn(Progress),
        notice: &dyn Fn(String),
        cancelled: &AtomicBool,
    ) -> Result<Gathered, GatherError> {
        if let (Self::Folder(folder), Some(_)) = (self, &manifest.origin.calibration)
            && folder.source().is_some()
        {
            return Err(GatherError::Calibrated { path: folder.path().into() });
        }
        let listed = plan.pieces.iter().map(|&piece| {
            manifest.find(piece).map(|listed| (piece, listed)).ok_or_else(|| GatherError::Unlisted(piece.to_string()))
        });
        let listed = listed.collect::<Result<Vec<_>, _>>()?;
        let total_bytes = listed.iter().map(|(_, listed)| listed.bytes).sum();
        let before = Cell::new(0);
        let tell = |piece_bytes| progress(Progress { done_bytes: before.get() + piece_bytes, total_bytes });
        tell(0);
        let watch = Watch { progress: &tell, notice, waited: Cell::new(false), cancelled };
        let (mut pieces, mut fetched_bytes) = (Vec::with_capacity(listed.len()), 0);
        for &(piece, listed) in &listed {
            if cancelled.load(Ordering::Relaxed) {
                return Err(FetchError::Cancelled.into());
            }
            pieces.push(match self {
                Self::Folder(folder) => {
                    let bytes = folder.piece(piece, manifest.format)?;
                    // A split folder's pieces were verified against its own manifest, which may be another model's.
                    listed.verify(bytes.as_slice(), &folder.path().display()).map_err(GatherError::Other)?;
                    bytes
                }
                Self::Coordinator { cache, fetcher } => {
                    let fetched = fetcher.piece(cache, listed, &watch)?;
                    fetched_bytes += fetched.network_bytes;
                    fetched.bytes
                }
            });
            before.set(before.get() + listed.bytes);
            tell(0);
        }
        if let Self::Coordinator { cache, .. } = self {
            let keep: Vec<_> = manifest.pieces.iter().map(|listed| listed.sha256).collect();
            if let Err(err) = cache.evict(&keep) {
                // The pieces are at hand: a cache that grows too large is no reason not to serve.
                notice(err.to_string());
            }
        }
        Ok(Gathered { pieces, fetched_bytes })
    }
}
