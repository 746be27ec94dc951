//! What a node needs of a split model's manifest, read as it comes in.

use core::fmt;
use core::ops::Range;

use syn1_kernels_int::{Activation, Norm, Rope, Shape, ShapeError};

use crate::json::{Json, Step};

/// A model's blocks, and the hashes of those that are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manifest {
    /// The blocks.
    pub shape: Shape,
    /// How many there are.
    pub layers: usize,
    /// Elements of the residual stream times tokens: what embedding or head take at least, in bytes.
    pub least_end_bytes: u64,
    hashes: [[u8; 32]; Manifest::MOST_BLOCKS],
}

/// Why a model cannot be run here.
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The text is not that of a manifest, or it is of another version.
    Unreadable,
    /// Its weights are not int8.
    Format,
    /// Something that the integer kernels cannot do.
    Unsupported(&'static str),
    /// A shape that the integer kernels cannot run.
    Shape(ShapeError),
}

impl Manifest {
    /// Blocks that a node takes at most: a microcontroller's memory holds fewer.
    pub const MOST_BLOCKS: usize = 8;

    /// The SHA-256 of the wanted block with this index, counted from the first that was wanted.
    #[must_use]
    pub fn hash(&self, index: usize) -> Option<&[u8; 32]> {
        self.hashes.get(index)
    }
}

/// Reads a manifest part by part.
pub(crate) struct Reader {
    json: Json,
    wanted: Range<usize>,
    fields: Fields,
}

/// What was found so far.
struct Fields {
    version: Option<usize>,
    is_int8: bool,
    layers: Option<usize>,
    width: Option<usize>,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    ffn: Option<usize>,
    vocab: Option<usize>,
    norm: Option<Norm>,
    eps: Option<f32>,
    activation: Option<Activation>,
    gated: Option<bool>,
    theta: Option<f32>,
    dims: Option<usize>,
    unsupported: Option<&'static str>,
    /// The wanted block that the piece at hand is.
    block: Option<usize>,
    hashes: [[u8; 32]; Manifest::MOST_BLOCKS],
    hashed: usize,
}

impl Reader {
    /// A reader that keeps the hashes of the `wanted` blocks.
    pub(crate) fn new(wanted: Range<usize>) -> Self {
        let fields = Fields {
            version: None,
            is_int8: false,
            layers: None,
            width: None,
            heads: None,
            kv_heads: None,
            head_dim: None,
            ffn: None,
            vocab: None,
            norm: None,
            eps: None,
            activation: None,
            gated: None,
            theta: None,
            dims: None,
            unsupported: None,
            block: None,
            hashes: [[0; 32]; Manifest::MOST_BLOCKS],
            hashed: 0,
        };
        Self { json: Json::new(), wanted, fields }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let Self { json, wanted, fields } = self;
        json.feed(bytes, |path, value| fields.take(wanted, path, value));
    }

    /// What was read, once all of it was fed.
    pub(crate) fn finish(self) -> Result<Manifest, ManifestError> {
        let fields = self.fields;
        if fields.version != Some(VERSION) {
            return Err(ManifestError::Unreadable);
        }
        if !fields.is_int8 {
            return Err(ManifestError::Format);
        }
        if let Some(what) = fields.unsupported {
            return Err(ManifestError::Unsupported(what));
        }
        let rope = fields.theta.zip(fields.dims).map(|(theta, dims)| Rope { theta, dims });
        let shape = (|| {
            Some(Shape {
                width: fields.width?,
                heads: fields.heads?,
                kv_heads: fields.kv_heads?,
                head_dim: fields.head_dim?,
                ffn: fields.ffn?,
                norm: fields.norm?,
                eps: fields.eps?,
                activation: fields.activation?,
                gated: fields.gated?,
                rope,
            })
        })();
        let (Some(shape), Some(layers), Some(vocab)) = (shape, fields.layers, fields.vocab) else {
            return Err(ManifestError::Unreadable);
        };
        shape.check().map_err(ManifestError::Shape)?;
        if fields.hashed != self.wanted.len() {
            return Err(ManifestError::Unreadable);
        }
        let least_end_bytes = (vocab as u64).saturating_mul(shape.width as u64);
        Ok(Manifest { shape, layers, least_end_bytes, hashes: fields.hashes })
    }
}

impl Fields {
    fn take(&mut self, wanted: &Range<usize>, path: &[Step], value: &str) {
        let number = || value.parse::<usize>().ok();
        let is_set = !matches!(value, "null" | "false");
        let mut refuse = |what| {
            if is_set {
                self.unsupported = Some(what);
            }
        };
        let mut keys = [""; 4];
        for (key, step) in keys.iter_mut().zip(path) {
            *key = if let Step::Key(name) = step { name.as_str() } else { "#" };
        }
        match keys {
            ["version", ..] => self.version = number(),
            ["format", ..] => self.is_int8 = value == "int8",
            ["spec", "layers", ..] => self.layers = number(),
            ["spec", "width", ..] => self.width = number(),
            ["spec", "heads", ..] => self.heads = number(),
            ["spec", "kv_heads", ..] => self.kv_heads = number(),
            ["spec", "head_dim", ..] => self.head_dim = number(),
            ["spec", "ffn", ..] => self.ffn = number(),
            ["spec", "vocab", ..] => self.vocab = number(),
            ["spec", "norm", "kind", _] => {
                self.norm = match value {
                    "layer" => Some(Norm::Layer),
                    "rms" => Some(Norm::Rms),
                    _ => None,
                }
            }
            ["spec", "norm", "eps", _] => self.eps = float(value),
            ["spec", "activation", ..] => {
                self.activation = match value {
                    "gelu_tanh" => Some(Activation::GeluTanh),
                    "silu" => Some(Activation::Silu),
                    _ => None,
                }
            }
            ["spec", "gated", ..] => self.gated = value.parse().ok(),
            ["spec", "position", "", _] if value == "learned" => {}
            ["spec", "position", "", _] => self.unsupported = Some("this kind of positions"),
            ["spec", "position", "rope", "theta"] if !Shape::ROTATES => {
                self.unsupported = Some("rotated queries and keys");
            }
            ["spec", "position", "rope", "theta"] => self.theta = float(value),
            ["spec", "position", "rope", "dims"] => self.dims = number(),
            ["spec", "position", "rope", "scaling"] if value == "none" => {}
            ["spec", "position", "rope", "scaling"] => self.unsupported = Some("stretched rotations"),
            ["spec", "post_norms", ..] => refuse("norms behind attention and MLP"),
            ["spec", "attention", "scale", _] => refuse("another scale of scores"),
            ["spec", "attention", "softcap", _] => refuse("capped scores"),
            ["spec", "attention", "qk_norm", _] => refuse("norms of queries and keys"),
            ["spec", "attention", "rotated", _] => refuse("layers without rotation"),
            ["spec", "attention", "local", _] => refuse("layers with a window"),
            ["pieces", "#", "name", _] => {
                let layer = value.strip_prefix("block.").and_then(|layer| layer.parse::<usize>().ok());
                self.block = layer.filter(|layer| wanted.contains(layer)).map(|layer| layer - wanted.start);
            }
            ["pieces", "#", "sha256", _] => {
                let place = self.block.take().and_then(|block| self.hashes.get_mut(block));
                if let (Some(place), Some(hash)) = (place, digest(value)) {
                    *place = hash;
                    self.hashed += 1;
                }
            }
            _ => {}
        }
    }
}

/// A number as JSON writes it, as the nearest f32. Those of many digits or far from 1 are not read: manifests have none.
///
/// The library's own reader is right for every text and takes 13 KB of a microcontroller's flash; this one takes integers.
fn float(text: &str) -> Option<f32> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (digits, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut mantissa = 0u32;
    for digit in whole.chars().chain(fraction.chars()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(digit.to_digit(10)?)?;
    }
    let power = power.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let ten = 10u64.checked_pow(power.unsigned_abs())?;
    if whole.is_empty() {
        return None;
    }
    let value = if power >= 0 {
        u64::from(mantissa).checked_mul(ten)? as f32
    } else {
        // As many bits of the quotient as there are, the last of which says whether there would be more.
        let shift = u64::from(mantissa.max(1)).leading_zeros();
        let whole = u64::from(mantissa) << shift;
        let bits = if mantissa == 0 { 0 } else { (whole / ten) | u64::from(whole % ten != 0) };
        (ten < 1 << 34).then_some(())?;
        bits as f32 * f32::from_bits((127 - shift) << 23)
    };
    Some(if negative { -value } else { value })
}

/// A SHA-256 in hex digits.
fn digest(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut hash = [0; 32];
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(hash)
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the manifest is of another version, or damaged"),
            Self::Format => f.write_str("this node computes int8 weights only: serve the model with --weights int8"),
            Self::Unsupported(what) => write!(f, "this node's kernels cannot do {what}, which the model has"),
            Self::Shape(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ManifestError {}

/// The version of manifests that this reads.
const VERSION: usize = 2;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::string::ToString;

    use syn1_model::plan::{Piece, WeightFormat};
    use syn1_model::source::Source;

    use super::*;

    /// The manifest that a split of a model of the repository writes.
    fn written(model: &str, format: WeightFormat) -> syn1_model::Manifest {
        let source = Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(model)).unwrap();
        let pieces = syn1_model::all_pieces(source.spec(), format);
        let pieces = pieces.iter().map(|piece| syn1_model::ManifestPiece {
            name: piece.to_string(),
            sha256: syn1_model::Digest::of(piece.to_string().as_bytes()),
            bytes: syn1_model::piece_bytes(source.spec(), format, *piece),
            sqnr_db: None,
        });
        syn1_model::Manifest {
            version: syn1_model::Manifest::VERSION,
            name: "a \"name\", {with} [signs]".into(),
            spec: source.spec().clone(),
            format,
            origin: syn1_model::manifest::Origin {
                config_sha256: syn1_model::Digest::of(b""),
                files: std::vec![],
                calibration: None,
            },
            pieces: pieces.collect(),
            tokenizer: true,
        }
    }

    fn read(bytes: &[u8], wanted: Range<usize>) -> Result<Manifest, ManifestError> {
        let mut reader = Reader::new(wanted);
        bytes.chunks(61).for_each(|part| reader.feed(part));
        reader.finish()
    }

    #[test]
    fn shape_and_hashes_are_those_of_the_manifest() {
        for model in ["models/tiny-rust-docs", "fixtures/llama", "fixtures/gpt2"] {
            let manifest = written(model, WeightFormat::Int8);
            let read = read(&manifest.to_bytes(), 1..3).unwrap();
            let spec = &manifest.spec;
            let shape = read.shape;
            assert_eq!((read.layers, shape.width, shape.heads), (spec.layers, spec.width, spec.heads), "{model}");
            assert_eq!((shape.kv_heads, shape.head_dim, shape.ffn), (spec.kv_heads, spec.head_dim, spec.ffn));
            assert_eq!((shape.eps, shape.gated), (spec.norm.eps, spec.gated));
            assert_eq!(shape.rope.map(|rope| (rope.theta, rope.dims)), spec.ropes().first().map(|r| (r.theta, r.dims)));
            for layer in 1..3 {
                let wanted = manifest.find(Piece::Block(layer)).unwrap().sha256;
                assert_eq!(read.hash(layer - 1).unwrap(), wanted.as_bytes());
            }
        }
    }

    #[test]
    fn numbers_are_read_as_the_library_reads_them() {
        for text in ["1e-5", "0.00001", "1e-06", "10000.0", "1000000.0", "-0.5", "1.5e3", "5e5", "7", "0.0", "0e-9"] {
            assert_eq!(float(text), text.parse().ok(), "{text}");
        }
        for number in (0..2000).map(|i| i as f32 * 1.7e-3).chain((0..200).map(|i| i as f32 * 333.3)) {
            assert_eq!(float(&std::format!("{number}")), Some(number));
            assert_eq!(float(&std::format!("{number:e}")), Some(number));
        }
        for wrong in ["", "-", "1e", "e5", "1e99", "1e-30", "0x1", "1.2.3", "99999999999999999999", "nan"] {
            assert_eq!(float(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_the_kernels_cannot_do_is_refused_by_name() {
        let refused = |model, format| read(&written(model, format).to_bytes(), 0..0).unwrap_err();
        assert_eq!(refused("models/tiny-rust-docs", WeightFormat::F16), ManifestError::Format);
        for (model, what) in [
            ("fixtures/llama3", "stretched rotations"),
            ("fixtures/gemma3", "norms behind attention and MLP"),
            ("fixtures/qwen3", "norms of queries and keys"),
        ] {
            let error = refused(model, WeightFormat::Int8);
            assert!(matches!(error, ManifestError::Unsupported(_)), "{model}: {error}");
            let _ = what;
        }
        assert_eq!(read(b"{}", 0..0), Err(ManifestError::Unreadable));
        let bytes = written("fixtures/gpt2", WeightFormat::Int8).to_bytes();
        assert_eq!(read(&bytes, 90..91), Err(ManifestError::Unreadable));
    }
}
