//! A model folder to a split folder: content-addressed pieces and a manifest.
//!
//! A split can be interrupted at any time and run again: a journal beside the pieces says which ones are done, and they
//! are used again after their SHA-256 has been verified. The journal stays when the split is complete, so that splitting
//! an unchanged model again only verifies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::digest::Digest;
use crate::feedback::BlockFeedback;
use crate::folder::model_name;
use crate::manifest::{Calibration, Manifest, ManifestError, ManifestPiece, Origin, OriginFile};
use crate::pack::{PackError, Sink, pack_into};
use crate::plan::{Piece, Plan, WeightFormat, all_pieces, piece_bytes};
use crate::source::{Source, SourceError};

/// How far a split is; reported before each piece, while it grows, and once at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The piece at hand; none at the end.
    pub piece: Option<Piece>,
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes of all pieces.
    pub total_bytes: u64,
    /// Bytes of done pieces that an earlier run had finished.
    pub reused_bytes: u64,
}

/// How the blocks of a split in int4 are rounded, if not to the nearest.
pub struct Calibrated<'a> {
    /// What is calibrated with: it goes into the manifest, and an earlier run's pieces count only if it is the same.
    pub with: Calibration,
    /// The feedback of a block. It is asked for blocks that have to be packed, in order.
    pub feedback: &'a mut dyn FnMut(usize) -> Result<BlockFeedback, Box<dyn std::error::Error + Send + Sync>>,
}

/// Why a model cannot be split.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// The model.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A weight.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A model whose manifest would be refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The calibration.
    #[error(transparent)]
    Calibrate(Box<dyn std::error::Error + Send + Sync>),
    /// Feedback for a format that is not rounded with it.
    #[error("{0} weights are always rounded to the nearest: calibration is for int4")]
    NotCalibrated(WeightFormat),
    /// Reading or writing a file.
    #[error("cannot {verb} {}: {error}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A folder that is split already.
    #[error("{} is a split folder already (it has {})", folder.display(), Manifest::FILE)]
    AlreadySplit {
        /// The folder.
        folder: PathBuf,
    },
    /// A model split into its own folder.
    #[error("{} is the model's own folder; name another one for the pieces", folder.display())]
    SameFolder {
        /// The folder.
        folder: PathBuf,
    },
}

/// Splits the model of `model_dir` into `out_dir` and gives the manifest that was written there.
///
/// Each piece is written to a temporary file and then renamed to `<sha256>.bin`; `syn1.json` comes last, so a folder
/// with a manifest is complete. No more than a few bands of rows are in memory, however large the model is. The manifest
/// of an older split goes first, its pieces that are not listed any more last. What a model has beside its weights
/// (tokenizer, chat template, generation settings, what was measured for the wire) is copied.
///
/// # Errors
/// Those of opening and packing the model, and of writing files.
pub fn split(
    model_dir: &Path,
    out_dir: &Path,
    format: WeightFormat,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, SplitError> {
    split_with(model_dir, out_dir, format, None, progress)
}

/// As [`split`], with the blocks rounded as `calibrated` says.
///
/// # Errors
/// As [`split`], those of the calibration, and [`SplitError::NotCalibrated`] for another format than int4.
pub fn split_with(
    model_dir: &Path,
    out_dir: &Path,
    format: WeightFormat,
    calibrated: Option<Calibrated<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, SplitError> {
    if calibrated.is_some() && format != WeightFormat::Int4 {
        return Err(SplitError::NotCalibrated(format));
    }
    check_not_split(model_dir)?;
    let source = Source::open(model_dir)?;
    let _lock = prepare(model_dir, out_dir)?;
    // An older split's: from here on the folder is not complete.
    remove(&out_dir.join(Manifest::FILE))?;
    let spec = source.spec();
    let plan = all_pieces(spec, format);
    let calibration = calibrated.as_ref().map(|calibrated| calibrated.with.clone());
    let (pieces, state) = write_pieces(&source, (model_dir, out_dir), format, plan, calibrated, progress)?;
    let name = model_name(model_dir);
    let tokenizer = copy_beside(model_dir, out_dir, "tokenizer.json")?;
    for name in ["tokenizer_config.json", "chat_template.jinja", "generation_config.json", "wire.json"] {
        copy_beside(model_dir, out_dir, name)?;
    }
    let origin = origin(&source, model_dir, calibration)?;
    let manifest = Manifest { version: Manifest::VERSION, name, spec: spec.clone(), format, origin, pieces, tokenizer };
    manifest.check()?;
    write_atomically(&out_dir.join(Manifest::FILE), &manifest.to_bytes())?;
    remove_unlisted(out_dir, &manifest)?;
    progress(state);
    Ok(manifest)
}

/// Writes only the pieces of `layers` into `out_dir` and gives them. The model's folder need not hold other layers.
///
/// There is no manifest: a node that has one, the coordinator's, finds the pieces by their names. They are the same as
/// those of a split of the whole model.
///
/// # Errors
/// Those of [`split`]; a range that the model does not have; an `out_dir` with a manifest, which belongs to a whole model.
pub fn split_layers(
    model_dir: &Path,
    layers: Range<usize>,
    out_dir: &Path,
    format: WeightFormat,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<ManifestPiece>, SplitError> {
    check_not_split(model_dir)?;
    if out_dir.join(Manifest::FILE).exists() {
        return Err(SplitError::AlreadySplit { folder: out_dir.into() });
    }
    let source = Source::open_layers(model_dir, layers.clone())?;
    let _lock = prepare(model_dir, out_dir)?;
    let plan = Plan::new(source.spec(), format, layers).pieces;
    let (pieces, state) = write_pieces(&source, (model_dir, out_dir), format, plan, None, progress)?;
    progress(state);
    Ok(pieces)
}

/// That a folder is not what a split wrote.
fn check_not_split(model_dir: &Path) -> Result<(), SplitError> {
    if model_dir.join(Manifest::FILE).exists() && !model_dir.join("config.json").exists() {
        return Err(SplitError::AlreadySplit { folder: model_dir.into() });
    }
    Ok(())
}

/// Makes the folder and takes its lock.
fn prepare(model_dir: &Path, out_dir: &Path) -> Result<File, SplitError> {
    fs::create_dir_all(out_dir).map_err(failed("create", out_dir))?;
    if fs::canonicalize(model_dir).ok() == fs::canonicalize(out_dir).ok() {
        return Err(SplitError::SameFolder { folder: out_dir.into() });
    }
    lock(out_dir)
}

/// Writes the pieces that are not there yet; gives all of them, and the progress at the end.
fn write_pieces(
    source: &Source,
    (model_dir, out_dir): (&Path, &Path),
    format: WeightFormat,
    plan: Vec<Piece>,
    mut calibrated: Option<Calibrated<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<ManifestPiece>, Progress), SplitError> {
    let calibration = calibrated.as_ref().map(|calibrated| &calibrated.with);
    let mut journal = Journal::open(out_dir, fingerprint(source, model_dir, format, calibration)?);
    let spec = source.spec();
    let mut state = Progress {
        piece: None,
        done_bytes: 0,
        total_bytes: plan.iter().map(|piece| piece_bytes(spec, format, *piece)).sum(),
        reused_bytes: 0,
    };
    let mut pieces = Vec::new();
    for piece in plan {
        progress(Progress { piece: Some(piece), ..state });
        let bytes = piece_bytes(spec, format, piece);
        let listed = match journal.finished(out_dir, piece, bytes) {
            Some(listed) => {
                state.reused_bytes += bytes;
                listed
            }
            None => {
                let grown = &mut |written| {
                    let done_bytes = state.done_bytes + written;
                    progress(Progress { piece: Some(piece), done_bytes, ..state });
                };
                let feedback = match (piece, &mut calibrated) {
                    (Piece::Block(index), Some(calibrated)) => {
                        Some((calibrated.feedback)(index).map_err(SplitError::Calibrate)?)
                    }
                    _ => None,
                };
                let listed = write_piece(source, out_dir, (piece, format), feedback.as_ref(), grown)?;
                journal.record(out_dir, &listed)?;
                listed
            }
        };
        state.done_bytes += bytes;
        pieces.push(listed);
    }
    Ok((pieces, state))
}

/// Keeps a second split of the same folder waiting until this one is done (it then finds everything finished). The
/// system lifts the lock when its process ends, however it ends.
fn lock(folder: &Path) -> Result<File, SplitError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(failed("write", &path))?;
    match file.lock() {
        // Some network file systems have no locks; then only the luck of one split at a time is left.
        Err(error) if error.kind() != ErrorKind::Unsupported => Err(failed("lock", &path)(error)),
        _ => Ok(file),
    }
}

/// What an earlier run of the same split finished.
#[derive(Serialize, Deserialize)]
struct Journal {
    /// Of the source and the format; pieces of another source do not count.
    fingerprint: Digest,
    /// By name.
    pieces: BTreeMap<String, ManifestPiece>,
}

impl Journal {
    /// The journal of the folder, or an empty one if there is none that fits.
    fn open(folder: &Path, fingerprint: Digest) -> Self {
        let read = fs::read(folder.join(JOURNAL)).ok();
        let journal = read.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let fits = journal.filter(|journal| journal.fingerprint == fingerprint);
        fits.unwrap_or(Self { fingerprint, pieces: BTreeMap::new() })
    }

    /// The entry of a piece that was finished and whose file is still whole.
    fn finished(&self, folder: &Path, piece: Piece, bytes: u64) -> Option<ManifestPiece> {
        let listed = self.pieces.get(&piece.to_string()).filter(|listed| listed.bytes == bytes)?;
        listed.verify_file(folder).is_ok().then(|| listed.clone())
    }

    fn record(&mut self, folder: &Path, piece: &ManifestPiece) -> Result<(), SplitError> {
        self.pieces.insert(piece.name.clone(), piece.clone());
        let path = folder.join(JOURNAL);
        let bytes = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        write_atomically(&path, &bytes.map_err(failed("write", &path))?)
    }
}

/// Packs a piece into a file of its own; `grown` hears how many bytes are written.
fn write_piece(
    source: &Source,
    folder: &Path,
    (piece, format): (Piece, WeightFormat),
    feedback: Option<&BlockFeedback>,
    grown: &mut dyn FnMut(u64),
) -> Result<ManifestPiece, SplitError> {
    let temporary = folder.join(GROWING);
    let written = failed("write", &temporary);
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&temporary).map_err(&written)?;
    let bytes = piece_bytes(source.spec(), format, piece);
    // What is not written is padding, and zero.
    file.set_len(bytes).map_err(&written)?;
    let fidelity = pack_into(source, piece, format, feedback, &mut Growing { file: &file, written: 0, grown })?;
    file.sync_all().map_err(&written)?;
    file.rewind().map_err(&written)?;
    let sha256 = Digest::read(&file).map_err(failed("read", &temporary))?;
    let sqnr_db = fidelity.sqnr_db().map(|db| (10.0 * db).round() / 10.0);
    let listed = ManifestPiece { name: piece.to_string(), sha256, bytes, sqnr_db };
    let path = folder.join(listed.file_name());
    fs::rename(&temporary, &path).map_err(failed("write", &path))?;
    Ok(listed)
}

/// A piece's file while it is written.
struct Growing<'a> {
    file: &'a File,
    written: u64,
    grown: &'a mut dyn FnMut(u64),
}

impl Sink for Growing<'_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        (self.grown)(self.written);
        Ok(())
    }
}

/// What the model is made from.
fn origin(source: &Source, folder: &Path, calibration: Option<Calibration>) -> Result<Origin, SplitError> {
    let path = folder.join("config.json");
    let config_sha256 = Digest::of(&fs::read(&path).map_err(failed("read", &path))?);
    let file = |path: &Path| {
        let bytes = fs::metadata(path).map_err(failed("read", path))?.len();
        Ok(OriginFile { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes })
    };
    let files = source.weights().files().map(file).collect::<Result<_, SplitError>>()?;
    Ok(Origin { config_sha256, files, calibration })
}

/// Writes beside the file and renames, so that the file is either absent, old, or whole.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), SplitError> {
    let temporary = path.with_extension("partial");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("write", path))
}

/// Copies a file if the model has it; says whether it has.
fn copy_beside(from: &Path, to: &Path, name: &str) -> Result<bool, SplitError> {
    let (from, to) = (from.join(name), to.join(name));
    match fs::read(&from) {
        Ok(bytes) => write_atomically(&to, &bytes).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => remove(&to).map(|()| false),
        Err(error) => Err(failed("read", &from)(error)),
    }
}

/// Removes a file if it is there.
fn remove(path: &Path) -> Result<(), SplitError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes the pieces of older splits; a file of another name than a piece's is somebody else's and stays.
fn remove_unlisted(folder: &Path, manifest: &Manifest) -> Result<(), SplitError> {
    let listed: BTreeSet<String> = manifest.pieces.iter().map(ManifestPiece::file_name).collect();
    let is_piece = |name: &str| {
        let hash = name.strip_suffix(".bin");
        hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let path = entry.map_err(failed("read", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_piece(name) && !listed.contains(name) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Identifies what is being split without reading the weights: the small files' bytes, the large files' sizes and times.
fn fingerprint(
    source: &Source,
    folder: &Path,
    format: WeightFormat,
    calibration: Option<&Calibration>,
) -> Result<Digest, SplitError> {
    let mut hash = sha2::Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&Manifest::VERSION.to_le_bytes());
    add(format.name().as_bytes());
    if let Some(Calibration { positions, text_sha256 }) = calibration {
        add(&(*positions as u64).to_le_bytes());
        add(text_sha256.as_ref().map_or(&[][..], |digest| &digest.as_bytes()[..]));
    }
    add(&fs::read(folder.join("config.json")).map_err(failed("read", &folder.join("config.json")))?);
    for path in source.weights().files() {
        let found = fs::metadata(path).map_err(failed("read", path))?;
        let modified = found.modified().map_err(failed("read", path))?;
        let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        add(path.file_name().unwrap_or_default().as_encoded_bytes());
        add(&found.len().to_le_bytes());
        add(&age.as_nanos().to_le_bytes());
    }
    Ok(Digest(hash.finalize().into()))
}

fn failed<'a>(verb: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> SplitError + 'a {
    move |error| SplitError::File { verb, path: path.into(), error }
}

/// The piece that is being written.
const GROWING: &str = "syn1.piece.partial";

/// The file that is locked while a split runs.
const LOCK: &str = "syn1.lock";

/// The journal's file in the split folder.
const JOURNAL: &str = "syn1.journal.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;
    use crate::manifest::load_piece;
    use crate::pack::pack_piece;
    use safetensors::Dtype;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    const F16: WeightFormat = WeightFormat::F16;

    /// Splits; gives the manifest and how many bytes an earlier run had finished.
    fn split_into(model: &Path, out: &Path) -> (Manifest, u64) {
        let mut last = None;
        let manifest = split(model, out, F16, &mut |progress| last = Some(progress)).expect("split");
        let last = last.expect("progress");
        assert_eq!((last.piece, last.done_bytes), (None, last.total_bytes));
        assert_eq!(last.total_bytes, manifest.total_bytes());
        (manifest, last.reused_bytes)
    }

    /// Splits, but stops as a kill would when `pieces` pieces are done.
    fn interrupted(model: &Path, out: &Path, pieces: usize) {
        let mut seen = Vec::new();
        let mut stop = |progress: Progress| {
            if !seen.contains(&progress.piece) {
                seen.push(progress.piece);
            }
            if seen.len() > pieces {
                resume_unwind(Box::new("killed"));
            }
        };
        assert!(catch_unwind(AssertUnwindSafe(|| split(model, out, F16, &mut stop))).is_err());
    }

    fn sum(pieces: &[ManifestPiece]) -> u64 {
        pieces.iter().map(|piece| piece.bytes).sum()
    }

    #[test]
    fn a_split_holds_what_packing_gives_and_is_the_same_every_time() {
        let (model, a, b) = (Model::fixture().write(Dtype::F16), tempfile::tempdir(), tempfile::tempdir());
        let (a, b) = (a.expect("folder"), b.expect("folder"));
        let (first, _) = split_into(model.path(), a.path());
        let (second, reused) = split_into(model.path(), b.path());
        assert_eq!((first.sha256(), reused), (second.sha256(), 0));
        assert_eq!(Manifest::load(a.path()).expect("manifest"), first);

        let source = Source::open(model.path()).expect("source");
        for (piece, listed) in all_pieces(source.spec(), F16).into_iter().zip(&first.pieces) {
            let packed = pack_piece(&source, piece, F16).expect("pack");
            let loaded = load_piece(a.path(), listed).expect("load");
            assert_eq!(loaded.as_slice(), packed.as_slice(), "{piece}");
        }
    }

    #[test]
    fn the_pieces_of_some_layers_are_those_of_the_whole_model_and_have_no_manifest() {
        let (model, whole) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        let (manifest, _) = split_into(model.path(), whole.path());
        for layers in [0..2, 2..4] {
            let mut part = Model::fixture();
            let other = |name: &str| (0..4).any(|i| !layers.contains(&i) && name.contains(&format!(".h.{i}.")));
            part.tensors.retain(|name, _| !other(name));
            let (part, out) = (part.write(Dtype::F16), tempfile::tempdir().expect("folder"));
            let mut last = None;
            let mut progress = |progress: Progress| last = Some(progress);
            let pieces = split_layers(part.path(), layers.clone(), out.path(), F16, &mut progress).expect("split");
            assert!(pieces.iter().all(|piece| manifest.pieces.contains(piece)), "{layers:?}");
            assert!(pieces.iter().all(|piece| load_piece(out.path(), piece).is_ok()));
            assert_eq!(last.expect("progress").done_bytes, sum(&pieces));
            assert!(!out.path().join(Manifest::FILE).exists());
        }
        let refused =
            |layers, out: &Path| split_layers(model.path(), layers, out, F16, &mut |_| {}).expect_err("refused");
        assert!(matches!(refused(0..1, whole.path()), SplitError::AlreadySplit { .. }));
        let out = tempfile::tempdir().expect("folder");
        assert!(refused(3..5, out.path()).to_string().contains("3..5"));
        assert!(matches!(refused(0..1, model.path()), SplitError::SameFolder { .. }));
    }

    #[test]
    fn an_interrupted_split_goes_on_where_it_stopped() {
        let (model, out) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        interrupted(model.path(), out.path(), 4);
        assert!(!out.path().join(Manifest::FILE).exists());
        let (manifest, reused) = split_into(model.path(), out.path());
        assert_eq!(reused, sum(&manifest.pieces[..4]));
        let fresh = tempfile::tempdir().expect("folder");
        assert_eq!(split_into(model.path(), fresh.path()).0, manifest);
    }

    #[test]
    fn a_folder_that_is_split_anew_has_no_manifest_until_it_is_complete_and_keeps_foreign_files() {
        let (model, out) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        split_into(model.path(), out.path());
        fs::write(out.path().join("notes.bin"), "mine").expect("write");
        interrupted(model.path(), out.path(), 1);
        assert!(!out.path().join(Manifest::FILE).exists());
        split_into(model.path(), out.path());
        assert!(out.path().join(Manifest::FILE).exists() && out.path().join("notes.bin").exists());
    }

    #[test]
    fn splits_of_one_folder_at_the_same_time_agree_and_work_once() {
        let (model, out) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        let results: Vec<(Manifest, u64)> = std::thread::scope(|scope| {
            let threads = [0; 4].map(|_| scope.spawn(|| split_into(model.path(), out.path())));
            threads.into_iter().map(|thread| thread.join().expect("split")).collect()
        });
        assert!(results.iter().all(|(manifest, _)| *manifest == results[0].0));
        assert_eq!(results.iter().filter(|(_, reused)| *reused == 0).count(), 1);
        assert!(results[0].0.pieces.iter().all(|listed| load_piece(out.path(), listed).is_ok()));
    }

    #[test]
    fn a_finished_piece_that_was_damaged_is_packed_again() {
        let (model, out) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        let (manifest, _) = split_into(model.path(), out.path());
        let path = out.path().join(manifest.pieces[3].file_name());
        let mut bytes = fs::read(&path).expect("read");
        bytes[1000] ^= 4;
        fs::write(&path, bytes).expect("write");
        let (again, reused) = split_into(model.path(), out.path());
        assert_eq!(again, manifest);
        assert_eq!(reused, manifest.total_bytes() - manifest.pieces[3].bytes);
        assert!(load_piece(out.path(), &manifest.pieces[3]).is_ok());
    }

    #[test]
    fn pieces_of_another_source_or_format_are_not_reused() {
        let (mut model, out) = (Model::fixture(), tempfile::tempdir().expect("folder"));
        let folder = model.write(Dtype::F16);
        let (before, _) = split_into(folder.path(), out.path());
        model.values_mut("transformer.h.0.ln_1.bias")[0] += 1.0;
        let changed = model.write(Dtype::F32);
        let (after, reused) = split_into(changed.path(), out.path());
        assert_eq!(reused, 0);
        let differing: Vec<_> = before.pieces.iter().zip(&after.pieces).filter(|(a, b)| a != b).collect();
        assert_eq!(differing.len(), 1);
        assert_eq!(differing[0].0.name, "block.0");
        let there = |listed: &ManifestPiece| out.path().join(listed.file_name()).exists();
        assert!(!there(differing[0].0) && after.pieces.iter().all(there));

        let mut reused = 0;
        split(changed.path(), out.path(), WeightFormat::F32, &mut |p| reused = p.reused_bytes).expect("split");
        assert_eq!(reused, 0);
    }

    #[test]
    fn calibrated_blocks_are_told_from_nearest_ones_and_are_not_calibrated_twice() {
        let (model, out) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        let mut asked = Vec::new();
        let mut calibrated = |positions: usize| {
            let mut reused = 0;
            let mut feedback = |index: usize| {
                asked.push(index);
                let mut moments = crate::Moments::new(96)?;
                moments.add(&(0..192 * 96).map(|at| ((at * at) % 97) as f32).collect::<Vec<_>>());
                Ok([Some(crate::Feedback::new(moments)), None, None, None])
            };
            let with = Calibration { positions, text_sha256: None };
            let how = Calibrated { with: with.clone(), feedback: &mut feedback };
            let progress = &mut |progress: Progress| reused = progress.reused_bytes;
            let manifest = split_with(model.path(), out.path(), WeightFormat::Int4, Some(how), progress);
            let manifest = manifest.expect("split");
            assert_eq!(manifest.origin.calibration, Some(with));
            assert_eq!(Manifest::load(out.path()).expect("manifest"), manifest);
            (manifest, reused, std::mem::take(&mut asked))
        };
        let (first, reused, blocks) = calibrated(192);
        assert_eq!((reused, blocks), (0, vec![0, 1, 2, 3]));
        let (again, reused, blocks) = calibrated(192);
        assert_eq!((&again, reused, blocks), (&first, first.total_bytes(), vec![]));
        let (_, reused, blocks) = calibrated(193);
        assert_eq!((reused, blocks), (0, vec![0, 1, 2, 3]));

        let nearest = split(model.path(), out.path(), WeightFormat::Int4, &mut |_| {}).expect("split");
        assert_eq!(nearest.origin.calibration, None);
        for (a, b) in first.pieces.iter().zip(&nearest.pieces) {
            assert_eq!(a.sha256 != b.sha256, a.name.starts_with("block"), "{}", a.name);
        }
        let mut never = |_| unreachable!();
        let with = Calibration { positions: 1, text_sha256: None };
        let how = Calibrated { with, feedback: &mut never };
        let error = split_with(model.path(), out.path(), F16, Some(how), &mut |_| {}).expect_err("f16");
        assert!(matches!(error, SplitError::NotCalibrated(F16)), "{error}");
    }

    #[test]
    fn the_tokenizer_comes_along_and_a_stale_one_goes() {
        let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs");
        let out = tempfile::tempdir().expect("folder");
        let (manifest, _) = split_into(&bundled, out.path());
        assert!(manifest.tokenizer);
        assert_eq!(manifest.name, "tiny-rust-docs");
        for name in ["tokenizer.json", "generation_config.json", "wire.json"] {
            let [a, b] = [&bundled, out.path()].map(|folder| fs::read(folder.join(name)).expect(name));
            assert_eq!(a, b);
        }
        let model = Model::fixture().write(Dtype::F16);
        let beside = ["tokenizer_config.json", "chat_template.jinja"];
        for name in beside {
            fs::write(model.path().join(name), name).expect("write");
        }
        let (manifest, _) = split_into(model.path(), out.path());
        assert!(!manifest.tokenizer && !out.path().join("tokenizer.json").exists());
        for name in beside {
            assert_eq!(fs::read_to_string(out.path().join(name)).expect(name), name);
            fs::remove_file(model.path().join(name)).expect("remove");
        }
        split_into(model.path(), out.path());
        assert!(beside.iter().all(|name| !out.path().join(name).exists()));
    }

    #[test]
    fn a_split_folder_and_the_models_own_folder_are_refused() {
        let (model, out) = (Model::fixture().write(Dtype::F16), tempfile::tempdir().expect("folder"));
        split_into(model.path(), out.path());
        let error = split(out.path(), model.path(), F16, &mut |_| {}).expect_err("split twice");
        assert!(matches!(error, SplitError::AlreadySplit { .. }), "{error}");
        let error = split(model.path(), model.path(), F16, &mut |_| {}).expect_err("same");
        assert!(matches!(error, SplitError::SameFolder { .. }), "{error}");
    }
}
