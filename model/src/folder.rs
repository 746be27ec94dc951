//! A folder with a model in it, whether as Hugging Face has it or already split.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::manifest::{MAX_NAME, Manifest, ManifestError, PieceError, load_piece};
use crate::pack::{PackError, pack_piece};
use crate::piece::PieceBytes;
use crate::plan::{Piece, WeightFormat, all_pieces};
use crate::source::{Source, SourceError};
use crate::spec::Spec;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// An opened model folder.
#[derive(Debug)]
pub struct ModelFolder {
    path: PathBuf,
    name: String,
    content: Content,
    tokenizer: Option<Tokenizer>,
}

/// What the folder holds.
#[derive(Debug)]
enum Content {
    /// `config.json` and safetensors.
    Source(Source),
    /// `syn1.json` and pieces.
    Split(Manifest),
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no such folder.
    #[error("there is no folder {}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A folder that may not be looked into.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Something else than a folder.
    #[error("{} is not a folder; give the folder that holds config.json and model.safetensors", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// Neither kind of model folder.
    #[error("{} holds no model: neither config.json (Hugging Face) nor {} (split)", path.display(), Manifest::FILE)]
    NoModel {
        /// The path.
        path: PathBuf,
    },
    /// A Hugging Face folder with something wrong in it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A split folder with something wrong in it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A piece that cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A piece that cannot be loaded.
    #[error(transparent)]
    Piece(#[from] PieceError),
    /// A piece of another model.
    #[error("{} has no piece {piece}", path.display())]
    NoPiece {
        /// The folder.
        path: PathBuf,
        /// The piece.
        piece: Piece,
    },
    /// A split folder in another format.
    #[error(
        "{} was split with {} weights, {} are asked for: use --weights {} or split the model again",
        path.display(), found.name(), wanted.name(), found.name()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: WeightFormat,
        /// The format asked for.
        wanted: WeightFormat,
    },
}

impl ModelFolder {
    /// Opens a folder and checks everything that can be checked without reading all weights: of these, only a tied head's
    /// matrix that the file has a second time is compared with the first.
    ///
    /// # Errors
    /// A path that is no model folder, and everything that is wrong in it, by name.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(FolderError::Missing { path: path.into() });
            }
            Err(error) => return Err(FolderError::Read { path: path.into(), error }),
            Ok(found) if !found.is_dir() => return Err(FolderError::NotAFolder { path: path.into() }),
            Ok(_) => {}
        }
        let (name, content) = if path.join("config.json").exists() {
            (model_name(path), Content::Source(Source::open(path)?))
        } else if path.join(Manifest::FILE).exists() {
            let manifest = Manifest::load(path)?;
            (manifest.name.clone(), Content::Split(manifest))
        } else {
            return Err(FolderError::NoModel { path: path.into() });
        };
        let mut folder = Self { path: path.into(), name, content, tokenizer: None };
        folder.tokenizer = Tokenizer::open(path, folder.spec())?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's name: that of the Hugging Face folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture.
    pub fn spec(&self) -> &Spec {
        match &self.content {
            Content::Source(source) => source.spec(),
            Content::Split(manifest) => &manifest.spec,
        }
    }

    /// The tokenizer, if the folder has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The weights, if this is a Hugging Face folder.
    pub fn source(&self) -> Option<&Source> {
        match &self.content {
            Content::Source(source) => Some(source),
            Content::Split(_) => None,
        }
    }

    /// The manifest, if this is a split folder.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.content {
            Content::Source(_) => None,
            Content::Split(manifest) => Some(manifest),
        }
    }

    /// The format to use where none is asked for: that of a split folder, else f16, whatever the source has (half the
    /// bytes of f32; a value that does not fit is an error that names `--weights f32`).
    pub fn default_format(&self) -> WeightFormat {
        self.manifest().map_or(WeightFormat::F16, |manifest| manifest.format)
    }

    /// A piece in kernel layout: packed from the source, or loaded and verified.
    ///
    /// # Errors
    /// Those of [`pack_piece`] and [`load_piece`]; a piece that the model does not have; another format than that of a
    /// split folder.
    pub fn piece(&self, piece: Piece, format: WeightFormat) -> Result<PieceBytes, FolderError> {
        let absent = || FolderError::NoPiece { path: self.path.clone(), piece };
        match &self.content {
            _ if !all_pieces(self.spec(), format).contains(&piece) => Err(absent()),
            Content::Source(source) => Ok(pack_piece(source, piece, format)?),
            Content::Split(manifest) if manifest.format != format => {
                Err(FolderError::Format { path: self.path.clone(), found: manifest.format, wanted: format })
            }
            Content::Split(manifest) => Ok(load_piece(&self.path, manifest.find(piece).ok_or_else(absent)?)?),
        }
    }
}

/// The name of a model from the name of its folder, fit for messages and manifests.
pub(crate) fn model_name(path: &Path) -> String {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let name = hub_name(&real).unwrap_or_else(|| real.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let mut clean = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if clean.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        clean.push(c);
    }
    if clean.is_empty() { "model".into() } else { clean }
}

/// The model's name where the folder is a snapshot in a hub cache, `models--ORG--NAME/snapshots/COMMIT`: its own name is
/// that of a commit.
fn hub_name(path: &Path) -> Option<String> {
    let snapshots = path.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let repo = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(repo.rsplit_once("--").map_or(repo, |(_, name)| name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;
    use crate::split::split;
    use safetensors::Dtype;

    fn bundled() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs")
    }

    fn refusal(path: &Path) -> String {
        ModelFolder::open(path).expect_err("refused").to_string()
    }

    #[test]
    fn a_split_folder_gives_the_same_model_as_its_source() {
        let out = tempfile::tempdir().expect("folder");
        split(&bundled(), out.path(), WeightFormat::F16, &mut |_| {}).expect("split");
        let [source, parts] = [&bundled(), out.path()].map(|path| ModelFolder::open(path).expect("open"));
        assert_eq!((source.name(), source.spec()), (parts.name(), parts.spec()));
        assert!(source.source().is_some() && source.manifest().is_none());
        assert!(parts.source().is_none() && parts.manifest().is_some());
        assert!(source.tokenizer().is_some() && parts.tokenizer().is_some());
        for piece in all_pieces(source.spec(), WeightFormat::F16) {
            let [a, b] = [&source, &parts].map(|folder| folder.piece(piece, WeightFormat::F16).expect("piece"));
            assert_eq!(a.as_slice(), b.as_slice(), "{piece}");
        }
        let text = parts.piece(Piece::Head, WeightFormat::F32).expect_err("format").to_string();
        assert!(text.contains("--weights f16"), "{text}");
        for folder in [source, parts] {
            let error = folder.piece(Piece::Block(8), WeightFormat::F16).expect_err("no such block");
            assert!(error.to_string().contains("block.8"), "{error}");
        }
    }

    #[test]
    fn folders_that_are_none_are_told_apart() {
        let folder = tempfile::tempdir().expect("folder");
        let text = refusal(&folder.path().join("nowhere"));
        assert!(text.contains("there is no folder") && text.contains("nowhere"), "{text}");
        let text = refusal(folder.path());
        assert!(text.contains("config.json") && text.contains("syn1.json"), "{text}");
        let text = refusal(&bundled().join("config.json"));
        assert!(text.contains("is not a folder"), "{text}");
    }

    #[test]
    fn a_truncated_model_and_a_foreign_tokenizer_are_refused_at_once() {
        let folder = Model::fixture().write(Dtype::F16);
        let weights = folder.path().join("model.safetensors");
        let whole = std::fs::read(&weights).expect("read");
        std::fs::write(&weights, &whole[..whole.len() - 100]).expect("write");
        assert!(refusal(folder.path()).contains("truncated"));

        std::fs::write(&weights, whole).expect("write");
        assert!(ModelFolder::open(folder.path()).expect("open").tokenizer().is_none());
        std::fs::copy(bundled().join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("copy");
        let text = refusal(folder.path());
        assert!(
            text.contains("does not match the vocabulary") && text.contains("4096") && text.contains("1000"),
            "{text}"
        );
    }

    #[test]
    fn names_are_fit_for_a_manifest() {
        assert_eq!(model_name(&bundled().join(".")), "tiny-rust-docs");
        assert_eq!(model_name(Path::new("/")), "model");
        assert_eq!(model_name(Path::new("nowhere/a\nb")), "ab");
        assert_eq!(model_name(Path::new("hub/models--org--small-model/snapshots/0a1b2c")), "small-model");
        assert_eq!(model_name(Path::new("hub/other/snapshots/0a1b2c")), "0a1b2c");
        let long = model_name(Path::new(&"é".repeat(200)));
        assert_eq!(long, "é".repeat(128));
    }
}
