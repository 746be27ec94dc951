//! Files of the coordinator, whole and verified.

use core::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::board::{Board, FetchError};
use crate::manifest::Reader;
use crate::{Manifest, ManifestError};

/// Why a manifest or a block could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadError {
    Fetch(FetchError),
    Manifest(ManifestError),
}

/// The manifest with this hash; the hashes of the `wanted` blocks are kept.
pub(crate) async fn manifest<B: Board>(
    board: &B,
    port: u16,
    sha256: &[u8; 32],
    wanted: Range<usize>,
) -> Result<Manifest, LoadError> {
    let (mut reader, mut hash) = (Reader::new(wanted), Sha256::new());
    file(board, port, "manifest.json", MOST_MANIFEST_BYTES, &mut |bytes| {
        reader.feed(bytes);
        hash.update(bytes);
    })
    .await
    .map_err(LoadError::Fetch)?;
    if hash.finalize().as_slice() != sha256 {
        return Err(LoadError::Fetch(FetchError::Hash));
    }
    reader.finish().map_err(LoadError::Manifest)
}

/// Fills `out` with the piece that has this hash; `progress` is told of every part.
pub(crate) async fn piece<B: Board>(
    board: &B,
    port: u16,
    sha256: &[u8; 32],
    out: &mut [u8],
    progress: &mut dyn FnMut(usize),
) -> Result<(), LoadError> {
    let mut name = [0; 64];
    for (digits, byte) in name.as_chunks_mut::<2>().0.iter_mut().zip(sha256) {
        *digits = [byte >> 4, byte & 15].map(|digit| HEX.get(usize::from(digit)).copied().unwrap_or(b'0'));
    }
    let name = core::str::from_utf8(&name).unwrap_or_default();
    let (mut hash, mut at) = (Sha256::new(), 0);
    let want = out.len();
    file(board, port, name, want, &mut |bytes| {
        if let Some(place) = out.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        hash.update(bytes);
        at += bytes.len();
        progress(bytes.len());
    })
    .await
    .map_err(LoadError::Fetch)?;
    let is_right = at == want && hash.finalize().as_slice() == sha256;
    if is_right { Ok(()) } else { Err(LoadError::Fetch(FetchError::Hash)) }
}

/// A file of up to `most` bytes, asked for again from where it broke off as long as there is progress.
async fn file<B: Board>(
    board: &B,
    port: u16,
    name: &str,
    most: usize,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), FetchError> {
    let (mut at, mut attempts) = (0, 0);
    loop {
        let before = at;
        let mut too_long = false;
        let mut part = |bytes: &[u8]| {
            too_long |= bytes.len() > most - at;
            if !too_long {
                at += bytes.len();
                take(bytes);
            }
        };
        let got = board.fetch(port, name, before, &mut part).await;
        attempts = if at > before { 0 } else { attempts + 1 };
        match got {
            _ if too_long => return Err(FetchError::Length),
            Ok(()) => return Ok(()),
            // All of it was there before the connection broke.
            Err(FetchError::Broken) if at == most => return Ok(()),
            Err(FetchError::Broken) if attempts < MOST_ATTEMPTS => {
                board.sleep_until(board.now().plus(PAUSE_MS)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Attempts without a byte of progress.
const MOST_ATTEMPTS: u32 = 5;
/// Between two attempts.
const PAUSE_MS: u64 = 300;
/// A manifest of the most layers that there may be has three quarters of this.
const MOST_MANIFEST_BYTES: usize = 1 << 20;

const HEX: &[u8; 16] = b"0123456789abcdef";
