//! The tensors of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use serde::Deserialize;

use crate::bounded::read_bounded;
use crate::limits::MAX_INDEX_BYTES;
use crate::map::{map, release};

/// The memory-mapped tensors of a model folder.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

/// One safetensors file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// One tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// The file.
    pub file: &'a Path,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Extent of each dimension, slowest first.
    pub shape: &'a [usize],
    /// The elements, little endian, not necessarily aligned.
    pub bytes: &'a [u8],
}

/// The element types that weights come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of an IEEE binary32.
    Bf16,
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Neither a safetensors file nor an index.
    #[error("{} has neither {SINGLE} nor {INDEX}{}", folder.display(), if *.pickled { PICKLED } else { "" })]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// Whether there are weights in the older format.
        pickled: bool,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A shard that the index lists but that is not there.
    #[error("{} is missing, but {INDEX} lists it (for {tensor}); download it again", path.display())]
    NoShard {
        /// The shard.
        path: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
    },
    /// An index that is not an index.
    #[error("{} is not a safetensors index: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that ends too early.
    #[error(
        "{} is truncated: it has {found} bytes and needs {expected}; download it again",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that its header asks for.
        expected: u64,
    },
    /// A file that is not safetensors.
    #[error("{} is not a safetensors file: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that is not there.
    #[error("tensor {tensor} is missing from {}; the file holds {found} tensors", file.display())]
    Missing {
        /// The tensor.
        tensor: String,
        /// The file (the first one of a sharded model).
        file: PathBuf,
        /// How many tensors there are.
        found: usize,
    },
    /// A tensor of another shape than the configuration asks for.
    #[error("tensor {tensor} in {} has shape {found:?}; {expected:?} is expected by config.json", file.display())]
    Shape {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The configuration's shape.
        expected: Vec<usize>,
    },
    /// An element type that cannot be read.
    #[error("tensor {tensor} in {} has elements of type {found}; F32, F16 and BF16 can be read", file.display())]
    Dtype {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// Its type.
        found: String,
    },
}

impl Weights {
    /// Maps the weights of a folder and checks that every file is whole.
    ///
    /// # Errors
    /// A file that is missing, unreadable, truncated or not safetensors.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        let mut weights = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        let single = folder.join(SINGLE);
        match File::open(&single) {
            Ok(file) => {
                let (shard, entries) = open_shard(single, &file, 0)?;
                weights.shards.push(shard);
                weights.tensors.extend(entries);
                Ok(weights)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => weights.open_index(folder),
            Err(error) => Err(WeightsError::Read { path: single, error }),
        }
    }

    /// A tensor by its name in the file.
    ///
    /// # Errors
    /// A tensor that is missing or of a type that cannot be read.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        let Some((name, entry)) = self.tensors.get_key_value(name) else {
            let file = self.shards.first().map(|shard| shard.path.clone()).unwrap_or_default();
            return Err(WeightsError::Missing { tensor: name.into(), file, found: self.tensors.len() });
        };
        let shard = &self.shards[entry.shard];
        let dtype = match entry.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => {
                let (tensor, file) = (name.clone(), shard.path.clone());
                return Err(WeightsError::Dtype { tensor, file, found: format!("{other:?}") });
            }
        };
        let bytes = &shard.map[entry.bytes.clone()];
        Ok(TensorView { name, file: &shard.path, dtype, shape: &entry.shape, bytes })
    }

    /// A tensor of a given shape.
    ///
    /// # Errors
    /// Those of [`Weights::tensor`], and another shape.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, WeightsError> {
        let view = self.tensor(name)?;
        if view.shape == shape {
            return Ok(view);
        }
        let (tensor, file) = (name.to_string(), view.file.to_path_buf());
        Err(WeightsError::Shape { tensor, file, found: view.shape.to_vec(), expected: shape.to_vec() })
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Lets go of the memory that holds a tensor's bytes; the next read fetches them again.
    pub(crate) fn release(&self, view: &TensorView<'_>) {
        let begin = view.bytes.as_ptr().addr();
        for shard in &self.shards {
            if let Some(offset) = begin.checked_sub(shard.map.as_ptr().addr())
                && offset < shard.map.len()
            {
                release(&shard.map, offset, view.bytes.len());
            }
        }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The files, in the order of their first tensor.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    fn open_index(mut self, folder: &Path) -> Result<Self, WeightsError> {
        let path = folder.join(INDEX);
        let bytes = match read_bounded(&path, MAX_INDEX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pickled = folder.join("pytorch_model.bin").exists();
                return Err(WeightsError::NoWeights { folder: folder.into(), pickled });
            }
            Err(error) => return Err(WeightsError::Read { path, error }),
        };
        let wrong = |reason: String| WeightsError::Index { path: path.clone(), reason };
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;

        let mut found: HashMap<&str, HashMap<String, Entry>> = HashMap::new();
        for (tensor, name) in &index.weight_map {
            if !found.contains_key(name.as_str()) {
                if Path::new(name).file_name().is_none_or(|plain| plain != name.as_str()) {
                    return Err(wrong(format!("'{name}' (for {tensor}) is not a plain file name")));
                }
                let (shard, entries) = self.open_listed(folder, name, tensor)?;
                self.shards.push(shard);
                found.insert(name, entries.into_iter().collect());
            }
            let entry = found.get_mut(name.as_str()).and_then(|entries| entries.remove(tensor));
            let entry =
                entry.ok_or_else(|| wrong(format!("{name} does not hold {tensor}, which the index puts there")))?;
            self.tensors.insert(tensor.clone(), entry);
        }
        if self.shards.is_empty() { Err(wrong("it lists no tensors".into())) } else { Ok(self) }
    }

    fn open_listed(
        &self,
        folder: &Path,
        name: &str,
        tensor: &str,
    ) -> Result<(Shard, Vec<(String, Entry)>), WeightsError> {
        let path = folder.join(name);
        match File::open(&path) {
            Ok(file) => open_shard(path, &file, self.shards.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(WeightsError::NoShard { path, tensor: tensor.into() })
            }
            Err(error) => Err(WeightsError::Read { path, error }),
        }
    }
}

impl TensorView<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// Reads `out.len()` elements from element `start` on. Every supported type converts to f32 without loss.
    ///
    /// # Panics
    /// If that is beyond the tensor's end.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.bytes();
        let bytes = &self.bytes[start * size..(start + out.len()) * size];
        match self.dtype {
            Dtype::F32 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Dtype::F16 => {
                let mut bits = [0_u16; CHUNK];
                for (values, bytes) in out.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
                    let bits = &mut bits[..values.len()];
                    for (bits, bytes) in bits.iter_mut().zip(bytes.as_chunks().0) {
                        *bits = u16::from_le_bytes(*bytes);
                    }
                    bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(values);
                }
            }
            Dtype::Bf16 => {
                for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
        }
    }
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// The part of an index that matters.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Maps a file and reads its header: 8 bytes of length, then JSON, then the tensors without gaps.
fn open_shard(path: PathBuf, file: &File, shard: usize) -> Result<(Shard, Vec<(String, Entry)>), WeightsError> {
    let read = |error| WeightsError::Read { path: path.clone(), error };
    let found = file.metadata().map_err(read)?.len();
    let truncated = |expected| WeightsError::Truncated { path: path.clone(), found, expected };
    let wrong = |reason: String| WeightsError::Header { path: path.clone(), reason };
    if found < LENGTH as u64 {
        return Err(truncated(LENGTH as u64));
    }
    let map = map(file).map_err(read)?;
    let (length, rest) = map.split_first_chunk::<LENGTH>().ok_or_else(|| truncated(LENGTH as u64))?;
    if length == LFS_POINTER {
        return Err(wrong("it is a Git LFS pointer; fetch the weights themselves with `git lfs pull`".into()));
    }
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(wrong(format!("its header claims {length} bytes, the limit is {MAX_HEADER}")));
    }
    let header = rest.get(..length as usize).ok_or_else(|| truncated(LENGTH as u64 + length))?;
    // Reading the metadata checks that the tensors follow each other without gaps and that sizes match shapes.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| wrong(error.to_string()))?;
    let start = LENGTH + length as usize;
    let expected = (start as u64).saturating_add(metadata.data_len() as u64);
    if found < expected {
        return Err(truncated(expected));
    }
    if found > expected {
        return Err(wrong(format!("it has {found} bytes, {} more than its header describes", found - expected)));
    }
    let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        (name, Entry { shard, dtype: info.dtype, shape: info.shape.clone(), bytes })
    };
    let entries = metadata.tensors().into_iter().map(entry).collect();
    Ok((Shard { path, map }, entries))
}

/// The file of a model in one piece.
pub const SINGLE: &str = "model.safetensors";

/// The list of shards of a larger model.
pub const INDEX: &str = "model.safetensors.index.json";

/// Said about `pytorch_model.bin`, a format that runs code when it is read.
const PICKLED: &str = "; its pytorch_model.bin must be converted first (save_pretrained with safe_serialization)";

/// Bytes of the header's length.
const LENGTH: usize = 8;

/// How the text file begins that a clone without Git LFS has in place of a large file.
const LFS_POINTER: &[u8; LENGTH] = b"version ";

/// The format's own limit for its header.
const MAX_HEADER: u64 = 100_000_000;

/// Elements converted at a time, on the stack.
const CHUNK: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView as Raw;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gpt2/model.safetensors")
    }

    fn folder_with(bytes: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join(SINGLE), bytes).expect("write");
        folder
    }

    fn serialized(dtype: safetensors::Dtype, bytes: &[u8]) -> Vec<u8> {
        let shape = vec![bytes.len() * 8 / dtype.bitsize()];
        safetensors::serialize([("t", Raw::new(dtype, shape, bytes).expect("view"))], None).expect("serialize")
    }

    #[test]
    fn f32_f16_and_bf16_are_read_exactly_at_any_offset() {
        let values: Vec<f32> = (0..600).map(|n| ((n % 200) as f32 - 100.0) * 0.25).collect();
        let encoded = [
            (safetensors::Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
            (safetensors::Dtype::F16, values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()),
            (safetensors::Dtype::BF16, values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
        ];
        for (dtype, bytes) in encoded {
            let folder = folder_with(&serialized(dtype, &bytes));
            let weights = Weights::open(folder.path()).expect("open");
            let view = weights.tensor("t").expect("tensor");
            assert_eq!((view.elements(), view.shape), (600, &[600][..]));
            for (start, len) in [(0, 600), (1, 599), (257, 300), (599, 1), (600, 0)] {
                let mut out = vec![f32::NAN; len];
                view.read(start, &mut out);
                assert_eq!(out, values[start..start + len], "{dtype:?}");
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_called_truncated() {
        let whole = std::fs::read(fixture()).expect("fixture");
        for length in [0, 7, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
            let folder = folder_with(&whole[..length]);
            let error = Weights::open(folder.path()).expect_err("cut");
            let text = error.to_string();
            assert!(matches!(error, WeightsError::Truncated { .. }), "{length}: {text}");
            assert!(text.contains(SINGLE) && text.contains(&length.to_string()), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_too_long_or_not_safetensors_is_refused() {
        let mut longer = std::fs::read(fixture()).expect("fixture");
        longer.push(0);
        for bytes in [longer, vec![b'x'; 4096], [&5_u64.to_le_bytes()[..], b"[1,2]"].concat()] {
            let error = Weights::open(folder_with(&bytes).path()).expect_err("bad");
            assert!(matches!(error, WeightsError::Header { .. }), "{error}");
        }
    }

    #[test]
    fn a_header_that_claims_more_than_memory_is_only_a_truncated_file() {
        let huge = r#"{"t":{"dtype":"F32","shape":[288230376151711744],"data_offsets":[0,1152921504606846976]}}"#;
        let bytes = [&(huge.len() as u64).to_le_bytes()[..], huge.as_bytes()].concat();
        let error = Weights::open(folder_with(&bytes).path()).expect_err("huge");
        assert!(matches!(error, WeightsError::Truncated { .. }), "{error}");
    }

    #[test]
    fn a_pointer_in_place_of_the_weights_is_recognised() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n";
        let text = Weights::open(folder_with(pointer).path()).expect_err("pointer").to_string();
        assert!(text.contains("git lfs pull"), "{text}");
    }

    #[test]
    fn missing_files_and_tensors_and_wrong_types_are_named() {
        let empty = tempfile::tempdir().expect("folder");
        let text = Weights::open(empty.path()).expect_err("empty").to_string();
        assert!(text.contains(SINGLE) && text.contains(INDEX) && !text.contains("pytorch"), "{text}");
        std::fs::write(empty.path().join("pytorch_model.bin"), b"").expect("write");
        let text = Weights::open(empty.path()).expect_err("pickled").to_string();
        assert!(text.contains("pytorch_model.bin"), "{text}");

        let folder = folder_with(&serialized(safetensors::Dtype::I64, &[0; 16]));
        let weights = Weights::open(folder.path()).expect("open");
        let text = weights.tensor("t").expect_err("I64").to_string();
        assert!(text.contains("tensor t") && text.contains("I64") && text.contains(SINGLE), "{text}");
        let text = weights.tensor("u").expect_err("missing").to_string();
        assert!(text.contains("tensor u") && text.contains(SINGLE), "{text}");

        let folder = folder_with(&serialized(safetensors::Dtype::F32, &[0; 16]));
        let weights = Weights::open(folder.path()).expect("open");
        let text = weights.shaped("t", &[2, 2]).expect_err("shape").to_string();
        assert!(text.contains("[4]") && text.contains("[2, 2]"), "{text}");
    }

    #[test]
    fn shards_are_joined_and_their_absence_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let value = |n: f32| serialized(safetensors::Dtype::F32, &n.to_le_bytes());
        std::fs::write(folder.path().join("a.safetensors"), value(1.5)).expect("write");
        let index = |text: &str| std::fs::write(folder.path().join(INDEX), text).expect("write");

        index(r#"{"metadata": {"total_size": 4}, "weight_map": {"t": "a.safetensors"}}"#);
        let weights = Weights::open(folder.path()).expect("open");
        let mut out = [0.0];
        weights.tensor("t").expect("tensor").read(0, &mut out);
        assert_eq!((out, weights.files().count()), ([1.5], 1));

        for (text, part) in [
            (r#"{"weight_map": {"t": "a.safetensors", "u": "b.safetensors"}}"#, "b.safetensors"),
            (r#"{"weight_map": {"t": "a.safetensors", "u": "a.safetensors"}}"#, "does not hold u"),
            (r#"{"weight_map": {"t": "../a.safetensors"}}"#, "plain file name"),
            (r#"{"weight_map": {}}"#, "no tensors"),
            (r#"{"weights": {}}"#, "weight_map"),
        ] {
            index(text);
            let text = Weights::open(folder.path()).expect_err(part).to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
