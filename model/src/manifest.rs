//! The list of a split model's pieces, and loading a piece that the list names.
//!
//! On disk a split model is `syn1.json` (the manifest) beside one `<sha256>.bin` per piece. Over HTTP the same bytes are
//! `/shards/manifest.json` and `/shards/<sha256>`. The manifest's own identity is the SHA-256 of its exact bytes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::SpecError;
use crate::piece::PieceBytes;
use crate::plan::{Piece, WeightFormat, all_pieces, piece_bytes};
use crate::spec::Spec;

/// What a split model consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`Manifest::VERSION`].
    pub version: u32,
    /// The model's name, for people.
    pub name: String,
    /// The architecture.
    pub spec: Spec,
    /// How the matrices are stored.
    pub format: WeightFormat,
    /// What it was made from.
    pub origin: Origin,
    /// Every piece, in the order of [`all_pieces`].
    pub pieces: Vec<ManifestPiece>,
    /// Whether a `tokenizer.json` lies beside the pieces.
    pub tokenizer: bool,
}

/// The files that a split model was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// SHA-256 of `config.json`.
    pub config_sha256: Digest,
    /// The files with weights.
    pub files: Vec<OriginFile>,
    /// What the rounding of the blocks was calibrated with; none where every weight was rounded to the nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// The text that rounding was calibrated with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Its tokens.
    pub positions: usize,
    /// SHA-256 of the file; none for a text that the model wrote itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_sha256: Option<Digest>,
}

/// A file with weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// One piece of a split model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestPiece {
    /// The piece's [`Display`](std::fmt::Display) form, such as `block.3`.
    pub name: String,
    /// SHA-256 of the bytes.
    pub sha256: Digest,
    /// Length.
    pub bytes: u64,
    /// Power of the source's weights over that of what rounding to the format has changed, in dB, over all matrices of the
    /// piece; none if nothing was changed. Calibration lowers it: weights go farther so that products stay nearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqnr_db: Option<f32>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// An error in what a file says.
    #[error("{}: {error}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        error: Box<ManifestError>,
    },
    /// Not the JSON of a manifest.
    #[error("this is not a SYN1 manifest: {0}")]
    Json(serde_json::Error),
    /// Written by another version.
    #[error(
        "the manifest has version {found}, this program reads version {}: split the model again",
        Manifest::VERSION
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// Longer than any real manifest.
    #[error("the manifest has {found} bytes, the limit is {}", Manifest::MAX_BYTES)]
    TooLong {
        /// Its length.
        found: u64,
    },
    /// A name that cannot be shown to people.
    #[error("the model's name must have 1 to {MAX_NAME} bytes and no control characters")]
    Name,
    /// An architecture that cannot be run.
    #[error("the manifest's model cannot be run: {0}")]
    Spec(#[from] SpecError),
    /// Too few or too many pieces.
    #[error("the manifest lists {found} pieces, a model of this shape has {expected}: split the model again")]
    Count {
        /// How many it lists.
        found: usize,
        /// How many the plan has.
        expected: usize,
    },
    /// A piece other than the plan's.
    #[error("piece {index} of the manifest is '{found}' where '{expected}' belongs: split the model again")]
    Piece {
        /// Place in the list.
        index: usize,
        /// Its name.
        found: String,
        /// The plan's piece.
        expected: Piece,
    },
    /// A piece of another length than the plan's.
    #[error("the manifest gives piece {piece} {found} bytes where {expected} belong: split the model again")]
    Size {
        /// The piece.
        piece: Piece,
        /// The length it claims.
        found: u64,
        /// The length by the plan.
        expected: u64,
    },
}

/// Why a piece cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The file cannot be read.
    #[error("piece {piece}: cannot read {}: {error}; split the model again to restore it", path.display())]
    Read {
        /// The piece.
        piece: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Another length than the manifest says.
    #[error("piece {piece} ({origin}) has {found} bytes where {expected} belong; {REMEDY}")]
    Length {
        /// The piece.
        piece: String,
        /// The file, or where the bytes came from.
        origin: String,
        /// Its length.
        found: u64,
        /// The manifest's length.
        expected: u64,
    },
    /// Other bytes than the manifest says.
    #[error("piece {piece} ({origin}) is damaged: its SHA-256 is {found} instead of {expected}; {REMEDY}")]
    Damaged {
        /// The piece.
        piece: String,
        /// The file, or where the bytes came from.
        origin: String,
        /// SHA-256 of the bytes.
        found: Digest,
        /// The manifest's SHA-256.
        expected: Digest,
    },
}

impl Manifest {
    /// The version that this program reads and writes; it covers the layout of [`plan`](crate::plan) too.
    pub const VERSION: u32 = 2;

    /// The file's name in a split folder.
    pub const FILE: &str = "syn1.json";

    /// A manifest of [`MAX_LAYERS`](crate::limits::MAX_LAYERS) layers and many files has three quarters of this.
    pub const MAX_BYTES: u64 = 1 << 20;

    /// Reads and checks the bytes of a manifest.
    ///
    /// # Errors
    /// Anything that is not a manifest of this version that [`Manifest::check`] accepts.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// The one field that every version has.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        if bytes.len() as u64 > Self::MAX_BYTES {
            return Err(ManifestError::TooLong { found: bytes.len() as u64 });
        }
        let head: Head = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if head.version != Self::VERSION {
            return Err(ManifestError::Version { found: head.version });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads and checks `syn1.json` of a split folder.
    ///
    /// # Errors
    /// An unreadable file, or those of [`Manifest::from_bytes`], with the file's name.
    pub fn load(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(Self::FILE);
        let read = File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(Self::MAX_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes)
        });
        match read {
            Ok(bytes) => Self::from_bytes(&bytes).map_err(|error| ManifestError::In { path, error: Box::new(error) }),
            Err(error) => Err(ManifestError::Read { path, error }),
        }
    }

    /// The bytes that are written to `syn1.json` and served; the same manifest always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and lists of them: nothing that JSON could refuse.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// SHA-256 of [`Manifest::to_bytes`].
    pub fn sha256(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Whether the model can be run and the pieces are exactly those of its plan, in order, with the plan's sizes.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.version != Self::VERSION {
            return Err(ManifestError::Version { found: self.version });
        }
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return Err(ManifestError::Name);
        }
        self.spec.check()?;
        let plan = all_pieces(&self.spec, self.format);
        if self.pieces.len() != plan.len() {
            return Err(ManifestError::Count { found: self.pieces.len(), expected: plan.len() });
        }
        for (index, (listed, piece)) in self.pieces.iter().zip(plan).enumerate() {
            if listed.name != piece.to_string() {
                return Err(ManifestError::Piece { index, found: listed.name.clone(), expected: piece });
            }
            let expected = piece_bytes(&self.spec, self.format, piece);
            if listed.bytes != expected {
                return Err(ManifestError::Size { piece, found: listed.bytes, expected });
            }
        }
        Ok(())
    }

    /// The entry of a piece.
    pub fn find(&self, piece: Piece) -> Option<&ManifestPiece> {
        let name = piece.to_string();
        self.pieces.iter().find(|listed| listed.name == name)
    }

    /// Bytes of all pieces.
    pub fn total_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}

impl ManifestPiece {
    /// The piece's file in a split folder, `<sha256>.bin`.
    pub fn file_name(&self) -> String {
        format!("{}.bin", self.sha256)
    }

    /// Whether `bytes` are this piece's; `origin` says in the error where they came from (a path, an address).
    ///
    /// # Errors
    /// Another length or another SHA-256.
    pub fn verify(&self, bytes: &[u8], origin: &dyn std::fmt::Display) -> Result<(), PieceError> {
        self.verify_length(bytes.len() as u64, origin)?;
        self.verify_digest(Digest::of(bytes), origin)
    }

    /// Whether the piece's file in a split folder is whole, without keeping it in memory.
    ///
    /// # Errors
    /// A file that is missing, of another length, or damaged.
    pub fn verify_file(&self, folder: &Path) -> Result<(), PieceError> {
        let path = folder.join(self.file_name());
        let unreadable = |error| PieceError::Read { piece: self.name.clone(), path: path.clone(), error };
        let file = File::open(&path).map_err(unreadable)?;
        self.verify_length(file.metadata().map_err(unreadable)?.len(), &path.display())?;
        self.verify_digest(Digest::read(file).map_err(unreadable)?, &path.display())
    }

    fn verify_digest(&self, found: Digest, origin: &dyn std::fmt::Display) -> Result<(), PieceError> {
        if found == self.sha256 {
            return Ok(());
        }
        let (piece, origin) = (self.name.clone(), origin.to_string());
        Err(PieceError::Damaged { piece, origin, found, expected: self.sha256 })
    }

    fn verify_length(&self, found: u64, origin: &dyn std::fmt::Display) -> Result<(), PieceError> {
        if found == self.bytes {
            return Ok(());
        }
        let (piece, origin) = (self.name.clone(), origin.to_string());
        Err(PieceError::Length { piece, origin, found, expected: self.bytes })
    }
}

/// Reads a piece from a split folder (or a cache laid out like one) and verifies its length and SHA-256.
///
/// # Errors
/// A file that is missing, of another length, or damaged: with the names of piece and file, and what to do.
pub fn load_piece(folder: &Path, piece: &ManifestPiece) -> Result<PieceBytes, PieceError> {
    let path = folder.join(piece.file_name());
    let unreadable = |error| PieceError::Read { piece: piece.name.clone(), path: path.clone(), error };
    let mut file = File::open(&path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    piece.verify_length(length, &path.display())?;
    let too_large = || std::io::Error::other("larger than this machine's address space");
    let length = usize::try_from(length).map_err(|_| unreadable(too_large()))?;
    let bytes = PieceBytes::try_with(length, |out| file.read_exact(out)).map_err(unreadable)?;
    piece.verify(bytes.as_slice(), &path.display())?;
    Ok(bytes)
}

/// Longest name of a model, in bytes: it travels in control messages whose texts end there.
pub const MAX_NAME: usize = 256;

/// What to do about a damaged piece.
const REMEDY: &str = "delete it, then split the model again or let the node fetch it again";

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let spec = Spec { layers: 2, width: 32, heads: 2, head_dim: 16, kv_heads: 2, ffn: 48, ..Spec::gpt2_124m() };
        let format = WeightFormat::F16;
        let piece = |piece: Piece| ManifestPiece {
            name: piece.to_string(),
            sha256: Digest::of(piece.to_string().as_bytes()),
            bytes: piece_bytes(&spec, format, piece),
            sqnr_db: Some(73.4),
        };
        let pieces = all_pieces(&spec, format).into_iter().map(piece).collect();
        let files = vec![OriginFile { name: "model.safetensors".into(), bytes: 1234 }];
        let origin = Origin { config_sha256: Digest::of(b"{}"), files, calibration: None };
        Manifest { version: Manifest::VERSION, name: "small".into(), spec, format, origin, pieces, tokenizer: false }
    }

    #[test]
    fn bytes_round_trip_and_are_stable() {
        let manifest = manifest();
        let bytes = manifest.to_bytes();
        let again = Manifest::from_bytes(&bytes).expect("own bytes");
        assert_eq!(again, manifest);
        assert_eq!(again.to_bytes(), bytes);
        assert_eq!(manifest.sha256(), Digest::of(&bytes));
    }

    /// A change, and a part of the message that it must cause.
    type Change = (&'static str, fn(&mut Manifest));

    #[test]
    fn every_difference_from_the_plan_is_caught() {
        let changes: [Change; 8] = [
            ("version 1", |m| m.version = 1),
            ("name", |m| m.name = "a\nb".into()),
            ("layers", |m| m.spec.layers = 0),
            ("5 pieces", |m| m.spec.layers = 1),
            ("4 pieces", |m| drop(m.pieces.pop())),
            ("block.1", |m| m.pieces.swap(2, 3)),
            ("bytes", |m| m.pieces[4].bytes += 1),
            ("bytes", |m| m.format = WeightFormat::F32),
        ];
        for (part, change) in changes {
            let mut manifest = manifest();
            change(&mut manifest);
            let text = Manifest::from_bytes(&manifest.to_bytes()).expect_err(part).to_string();
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_deepest_model_fits_the_limit() {
        let mut manifest = manifest();
        let (sha256, sqnr_db) = (Digest([0; 32]), Some(-123.4));
        let block = ManifestPiece { name: "block.4095".into(), sha256, bytes: u64::MAX, sqnr_db };
        manifest.pieces = vec![block; crate::limits::MAX_LAYERS + 3];
        assert!((manifest.to_bytes().len() as u64) < Manifest::MAX_BYTES);
    }

    #[test]
    fn a_digest_that_is_a_path_is_refused() {
        let text = String::from_utf8(manifest().to_bytes()).expect("UTF-8");
        let digest = manifest().pieces[0].sha256.to_string();
        let evil = text.replace(&digest, "../../../etc/passwd");
        assert!(matches!(Manifest::from_bytes(evil.as_bytes()), Err(ManifestError::Json(_))));
    }

    #[test]
    fn one_flipped_byte_a_cut_file_and_a_missing_file_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let mut bytes = vec![7_u8; 1000];
        let piece = ManifestPiece { name: "block.3".into(), sha256: Digest::of(&bytes), bytes: 1000, sqnr_db: None };
        let path = folder.path().join(piece.file_name());
        let text = load_piece(folder.path(), &piece).expect_err("missing").to_string();
        assert!(text.contains("block.3") && text.contains(&piece.file_name()), "{text}");

        std::fs::write(&path, &bytes).expect("write");
        assert_eq!(load_piece(folder.path(), &piece).expect("whole").as_slice(), bytes);

        bytes[500] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        let text = load_piece(folder.path(), &piece).expect_err("flipped").to_string();
        assert!(text.contains("block.3") && text.contains("damaged") && text.contains("delete it"), "{text}");

        std::fs::write(&path, &bytes[..999]).expect("write");
        let text = load_piece(folder.path(), &piece).expect_err("cut").to_string();
        assert!(text.contains("999 bytes") && text.contains("1000"), "{text}");
    }
}
