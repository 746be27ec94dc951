//! Tensors to packed pieces: kernel layout, element for element as [`plan`](crate::plan) describes it.

use crate::bands::Bands;
use crate::families::{Linear, NormNames};
use crate::feedback::{BlockFeedback, Feedback};
use crate::fold::{Fold, aux};
use crate::layout::{BlockLayout, HeadLayout, PositionsLayout, TokensLayout, rotary_row};
use crate::piece::PieceBytes;
use crate::plan::{Gemv, Matrix, Piece, Tensor, WeightFormat, piece_bytes};
use crate::source::Source;
use crate::store::{Fidelity, store_vector};
use crate::weights::{TensorView, WeightsError};

/// Why a piece cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A tensor that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An infinity or a NaN.
    #[error("tensor {tensor} in {file} holds {value} at element {index}: the file is damaged or its training diverged")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
        /// Place in the tensor.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// A value that f16 cannot hold.
    #[error(
        "tensor {tensor} in {file} holds {value} at element {index}, beyond what f16 can hold (65504), in which scales are \
         stored too; use --weights f32"
    )]
    BeyondF16 {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
        /// Place in the tensor.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// A piece larger than the address space.
    #[error("piece {piece} has {bytes} bytes, more than this machine can address")]
    TooLarge {
        /// The piece.
        piece: Piece,
        /// Its length.
        bytes: u64,
    },
    /// A piece that cannot be written.
    #[error("cannot write piece {piece}: {error}")]
    Write {
        /// The piece.
        piece: Piece,
        /// What the system says.
        error: std::io::Error,
    },
    /// No memory for a piece.
    #[error("there is no memory for the packed piece ({0}): end other programs")]
    Memory(#[from] std::collections::TryReserveError),
}

/// Packs one piece in memory.
///
/// f16 sources keep their bits in f16; f32 and bf16 sources are rounded to the nearest f16 (ties to even). For the formats
/// in groups see [`WeightFormat`].
///
/// # Errors
/// A tensor that is missing, not finite, or out of the format's range; no memory for the piece.
///
/// # Panics
/// If the piece is a block that the model does not have.
pub fn pack_piece(source: &Source, piece: Piece, format: WeightFormat) -> Result<PieceBytes, PackError> {
    let bytes = piece_bytes(source.spec(), format, piece);
    let length = usize::try_from(bytes).map_err(|_| PackError::TooLarge { piece, bytes })?;
    PieceBytes::try_with(length, |out| pack_into(source, piece, format, None, &mut Memory(out)).map(drop))
}

/// Packs block `index` as int4, rounded with feedback.
///
/// # Errors
/// As [`pack_piece`].
///
/// # Panics
/// If the model does not have the block, or a product of it has other inputs than its feedback.
pub fn pack_block(source: &Source, index: usize, feedback: &BlockFeedback) -> Result<PieceBytes, PackError> {
    let (piece, format) = (Piece::Block(index), WeightFormat::Int4);
    let bytes = piece_bytes(source.spec(), format, piece);
    let length = usize::try_from(bytes).map_err(|_| PackError::TooLarge { piece, bytes })?;
    PieceBytes::try_with(length, |out| pack_into(source, piece, format, Some(feedback), &mut Memory(out)).map(drop))
}

/// Where the bytes of a piece go. What is never written stays zero.
pub(crate) trait Sink {
    /// Writes `bytes` at `offset` of the piece.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()>;
}

/// A piece in memory, zeroed.
struct Memory<'a>(&'a mut [u8]);

impl Sink for Memory<'_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Packs one piece band by band, with memory for a band and a few vectors; gives what rounding has changed. Only a block in
/// int4 is rounded with feedback.
pub(crate) fn pack_into(
    source: &Source,
    piece: Piece,
    format: WeightFormat,
    feedback: Option<&BlockFeedback>,
    out: &mut dyn Sink,
) -> Result<Fidelity, PackError> {
    let (spec, names) = (source.spec(), source.names());
    let mut packer = Packer { source, piece, out, fidelity: Fidelity::default() };
    match piece {
        Piece::Tokens => packer.rows(&TokensLayout::new(spec, format).matrix, &names.tokens())?,
        Piece::Positions => packer.rows(&PositionsLayout::new(spec, format).matrix, &names.positions())?,
        Piece::Block(index) => {
            assert!(index < spec.layers, "block {index} of {}", spec.layers);
            packer.block(index, &BlockLayout::new(spec, format, index), feedback)?;
        }
        Piece::Head => packer.gemv(&HeadLayout::new(spec, format).gemv, &names.head(), None)?,
    }
    Ok(packer.fidelity)
}

/// One piece on its way.
struct Packer<'a> {
    source: &'a Source,
    piece: Piece,
    out: &'a mut dyn Sink,
    fidelity: Fidelity,
}

impl Packer<'_> {
    /// A block: its products, and the norms that are not in front of one.
    fn block(&mut self, index: usize, layout: &BlockLayout, feedback: Option<&BlockFeedback>) -> Result<(), PackError> {
        let source = self.source;
        let (spec, block) = (source.spec(), source.names().block(index));
        let gemvs = [layout.qkv, layout.out, layout.up, layout.down];
        for (place, (gemv, linear)) in gemvs.iter().zip(&block.linears).enumerate() {
            self.gemv(gemv, linear, feedback.and_then(|feedback| feedback[place].as_ref()))?;
        }
        if let (Some(layout), Some(names)) = (layout.qk_norm, &block.qk_norm) {
            let dims = spec.layer(index).rope.map_or(0, |rope| spec.ropes()[rope].dims);
            for (tensor, names) in [layout.q, layout.k].into_iter().zip(names) {
                let stored = gamma(source, names, spec.head_dim)?;
                let packed: Vec<f32> = (0..spec.head_dim).map(|element| stored[rotary_row(element, dims)]).collect();
                self.vector(tensor, &packed)?;
            }
        }
        if let (Some(layouts), Some(names)) = (layout.post_norms, &block.post_norms) {
            for (layout, names) in layouts.iter().zip(names) {
                self.vector(layout.gamma, &gamma(source, names, spec.width)?)?;
            }
        }
        Ok(())
    }

    /// An embedding: rows as they are.
    fn rows(&mut self, matrix: &Matrix, name: &str) -> Result<(), PackError> {
        let view = self.source.weights().shaped(name, &[matrix.rows, matrix.cols])?;
        let bands = Bands {
            weights: self.source.weights(),
            views: vec![view],
            transposed: false,
            place: &|row| (0, row),
            matrix,
            fold: None,
            feedback: None,
        };
        self.fidelity += bands.pack(Some(self.out))?.1;
        Ok(())
    }

    /// A product: gamma, `aux` and the matrix. A matrix that lies in another piece (a tied head's) only gives its `aux`.
    fn gemv(&mut self, gemv: &Gemv, linear: &Linear, feedback: Option<&Feedback>) -> Result<(), PackError> {
        let (source, matrix) = (self.source, &gemv.matrix);
        if let Some(feedback) = feedback {
            assert_eq!(
                (feedback.cols, matrix.format),
                (matrix.cols, WeightFormat::Int4),
                "feedback for another product"
            );
        }
        let fold = match &linear.norm {
            Some(names) => {
                let beta = names.beta.as_ref().map(|beta| vector(source, beta, matrix.cols));
                let beta = beta.unwrap_or_else(|| Ok(vec![0.0; matrix.cols]))?;
                Some(Fold { gamma: gamma(source, names, matrix.cols)?, beta })
            }
            None => None,
        };
        if let (Some(folded), Some(fold)) = (&gemv.norm, &fold) {
            self.vector(folded.gamma, &fold.gamma)?;
        }
        let shape = |rows| if linear.transposed { [matrix.cols, rows] } else { [rows, matrix.cols] };
        let views = linear.parts.iter().map(|part| source.weights().shaped(&part.weight, &shape(part.rows)));
        let bands = Bands {
            weights: source.weights(),
            views: views.collect::<Result<_, _>>()?,
            transposed: linear.transposed,
            place: &|row| linear.stored(row),
            matrix,
            fold: fold.as_ref(),
            feedback,
        };
        let own = matrix.data.piece == self.piece;
        let (mut sums, fidelity) = bands.pack(if own { Some(self.out) } else { None })?;
        if own {
            self.fidelity += fidelity;
        }
        for (index, part) in linear.parts.iter().enumerate() {
            let Some(bias) = &part.bias else { continue };
            let bias = vector(source, bias, part.rows)?;
            for (row, sums) in sums.iter_mut().enumerate() {
                let (part, stored) = linear.stored(row);
                sums[1] += if part == index { f64::from(bias[stored]) } else { 0.0 };
            }
        }
        self.vector(gemv.aux, &aux(&sums))
    }

    fn vector(&mut self, tensor: Tensor, values: &[f32]) -> Result<(), PackError> {
        let mut bytes = vec![0; 4 * values.len()];
        store_vector(values, &mut bytes);
        self.out.put(tensor.offset, &bytes).map_err(|error| PackError::Write { piece: self.piece, error })
    }
}

/// Reads elements that `format` can hold.
pub(crate) fn read_checked(
    view: &TensorView<'_>,
    start: usize,
    format: WeightFormat,
    values: &mut [f32],
) -> Result<(), PackError> {
    view.read(start, values);
    if !all_below(values, f32::INFINITY) {
        let (tensor, file, index, value) = find(view, start, values, |value| !value.is_finite());
        return Err(PackError::NotFinite { tensor, file, index, value });
    }
    if format != WeightFormat::F32 && !all_below(values, BEYOND_F16) {
        let (tensor, file, index, value) = find(view, start, values, |value| value.abs() >= BEYOND_F16);
        return Err(PackError::BeyondF16 { tensor, file, index, value });
    }
    Ok(())
}

fn vector(source: &Source, name: &str, elements: usize) -> Result<Vec<f32>, PackError> {
    let view = source.weights().shaped(name, &[elements])?;
    let mut values = vec![0.0; elements];
    read_checked(&view, 0, WeightFormat::F32, &mut values)?;
    Ok(values)
}

/// A norm's gamma.
fn gamma(source: &Source, names: &NormNames, elements: usize) -> Result<Vec<f32>, PackError> {
    let mut gamma = vector(source, &names.gamma, elements)?;
    gamma.iter_mut().for_each(|gamma| *gamma += names.offset);
    Ok(gamma)
}

/// Whether every magnitude is below `bound` (a NaN is not): without a branch per element, so that it vectorises.
fn all_below(values: &[f32], bound: f32) -> bool {
    const MAGNITUDE: u32 = 0x7FFF_FFFF;
    let bound = bound.to_bits();
    !values.iter().fold(false, |bad, value| bad | (value.to_bits() & MAGNITUDE >= bound))
}

/// Names and place of the first value that is `wrong`.
fn find(
    view: &TensorView<'_>,
    start: usize,
    values: &[f32],
    wrong: impl Fn(&f32) -> bool,
) -> (String, String, usize, f32) {
    let place = values.iter().position(wrong).unwrap_or(0);
    (view.name.into(), view.file.display().to_string(), start + place, values.get(place).copied().unwrap_or(f32::NAN))
}

/// The least number that rounds to infinity in f16: half a step above the largest, 65504.
const BEYOND_F16: f32 = 65520.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;
    use crate::plan::all_pieces;
    use crate::store::{read_row, store};
    use half::f16;
    use safetensors::Dtype;

    const BOTH: [WeightFormat; 2] = [WeightFormat::F16, WeightFormat::F32];

    fn packed(model: &Model, dtype: Dtype, piece: Piece, format: WeightFormat) -> Result<PieceBytes, PackError> {
        let folder = model.write(dtype);
        pack_piece(&Source::open(folder.path()).expect("source"), piece, format)
    }

    /// The bits of a tensor's elements in a piece, widened.
    fn bits(piece: &PieceBytes, tensor: Tensor, format: WeightFormat) -> Vec<u32> {
        let bytes = &piece.as_slice()[tensor.offset as usize..][..tensor.bytes as usize];
        match format {
            WeightFormat::F32 => bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect(),
        }
    }

    fn floats(piece: &PieceBytes, tensor: Tensor) -> Vec<f32> {
        bits(piece, tensor, WeightFormat::F32).into_iter().map(f32::from_bits).collect()
    }

    fn stored_bits(value: f32, format: WeightFormat) -> u32 {
        match format {
            WeightFormat::F32 => value.to_bits(),
            _ => f16::from_f32(value).to_bits().into(),
        }
    }

    /// Compares a packed matrix with `element(row, col)`, padding included.
    fn assert_matrix(piece: &PieceBytes, matrix: &Matrix, element: impl Fn(usize, usize) -> f32) {
        let found = bits(piece, matrix.data, matrix.format);
        assert_eq!(found.len(), matrix.rows * matrix.stride);
        for (index, found) in found.into_iter().enumerate() {
            let (row, col) = (index / matrix.stride, index % matrix.stride);
            let wanted = if col < matrix.cols { stored_bits(element(row, col), matrix.format) } else { 0 };
            assert_eq!(found, wanted, "row {row}, col {col}");
        }
    }

    #[test]
    fn a_block_holds_the_source_element_for_element() {
        let model = Model::fixture();
        for format in BOTH {
            let piece = packed(&model, Dtype::F16, Piece::Block(2), format).expect("pack");
            let layout = BlockLayout::new(&model.spec(), format, 2);
            for (gemv, layer, norm) in [
                (layout.qkv, "attn.c_attn", Some("ln_1")),
                (layout.out, "attn.c_proj", None),
                (layout.up, "mlp.c_fc", Some("ln_2")),
                (layout.down, "mlp.c_proj", None),
            ] {
                let tensor = |part: &str| model.values(&format!("transformer.h.2.{part}"));
                let (weight, bias) = (tensor(&format!("{layer}.weight")), tensor(&format!("{layer}.bias")));
                let Matrix { rows, cols, .. } = gemv.matrix;
                assert_eq!((weight.len(), bias.len()), (rows * cols, rows));
                assert_matrix(&piece, &gemv.matrix, |row, col| weight[col * rows + row]);

                let mut aux = vec![[0.0, 0.0]; rows];
                if let Some(norm) = norm {
                    let (gamma, beta) = (tensor(&format!("{norm}.weight")), tensor(&format!("{norm}.bias")));
                    let mut stored = floats(&piece, gemv.norm.expect("norm").gamma);
                    assert!(stored.split_off(cols).iter().all(|padding| *padding == 0.0));
                    assert_eq!(stored, gamma);
                    for (row, aux) in aux.iter_mut().enumerate() {
                        for k in 0..cols {
                            let weight = f64::from(weight[k * rows + row]);
                            aux[0] += weight * f64::from(gamma[k]);
                            aux[1] += weight * f64::from(beta[k]);
                        }
                    }
                }
                for (row, bias) in bias.iter().enumerate() {
                    aux[row][1] += f64::from(*bias);
                }
                let aux: Vec<f32> = aux.into_iter().flatten().map(|sum| sum as f32).collect();
                assert_eq!(floats(&piece, gemv.aux), aux, "{layer}");
            }
        }
    }

    #[test]
    fn embeddings_and_head_hold_the_source_tied_or_not() {
        for tied in [true, false] {
            let mut model = Model::fixture();
            if !tied {
                model.untie();
            }
            let spec = model.spec();
            assert_eq!(spec.tied_head, tied);
            for format in BOTH {
                let tokens = packed(&model, Dtype::F16, Piece::Tokens, format).expect("tokens");
                let table = model.values("transformer.wte.weight");
                let row_major = |values: Vec<f32>| move |row: usize, col: usize| values[row * spec.width + col];
                assert_matrix(&tokens, &TokensLayout::new(&spec, format).matrix, row_major(table));

                let positions = packed(&model, Dtype::F16, Piece::Positions, format).expect("positions");
                let table = model.values("transformer.wpe.weight");
                assert_matrix(&positions, &PositionsLayout::new(&spec, format).matrix, row_major(table));

                let head = packed(&model, Dtype::F16, Piece::Head, format).expect("head");
                let gemv = HeadLayout::new(&spec, format).gemv;
                let table = model.values(if tied { "transformer.wte.weight" } else { "lm_head.weight" });
                if !tied {
                    assert_matrix(&head, &gemv.matrix, row_major(table.clone()));
                }
                let gamma = model.values("transformer.ln_f.weight");
                let beta = model.values("transformer.ln_f.bias");
                let dot = |row: &[f32], with: &[f32]| {
                    row.iter().zip(with).fold(0.0, |sum, (a, b)| sum + f64::from(*a) * f64::from(*b)) as f32
                };
                let rows = table.chunks(spec.width);
                let aux: Vec<f32> = rows.flat_map(|row| [dot(row, &gamma), dot(row, &beta)]).collect();
                assert_eq!(floats(&head, gemv.aux), aux);
            }
        }
    }

    #[test]
    fn names_without_prefix_give_the_same_pieces() {
        let with = Model::fixture();
        let mut without = Model::fixture();
        without.rename(|name| name.trim_start_matches("transformer.").to_string());
        for piece in all_pieces(&with.spec(), WeightFormat::F16) {
            let [a, b] = [&with, &without].map(|model| packed(model, Dtype::F16, piece, WeightFormat::F16));
            assert_eq!(a.expect("with").as_slice(), b.expect("without").as_slice(), "{piece}");
        }
    }

    #[test]
    fn wider_sources_are_rounded_to_the_nearest_half_and_kept_in_f32() {
        let name = "transformer.h.0.mlp.c_fc.weight";
        let mut model = Model::fixture();
        // Two ties (to even: down, up), a subnormal half, the largest value that rounds to a finite half, a plain value.
        let odd = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 3.1e-8, 65519.0, 0.1];
        model.values_mut(name)[..5].copy_from_slice(&odd);
        for dtype in [Dtype::F32, Dtype::BF16] {
            let source = |row: usize, col: usize| {
                let value = model.values(name)[col * 200 + row];
                if dtype == Dtype::F32 { value } else { half::bf16::from_f32(value).to_f32() }
            };
            // 65519 rounds up in bf16, beyond f16: the next test's matter.
            let formats = if dtype == Dtype::F32 { &BOTH[..] } else { &BOTH[1..] };
            for format in formats {
                let piece = packed(&model, dtype, Piece::Block(0), *format).expect("pack");
                let layout = BlockLayout::new(&model.spec(), *format, 0).up.matrix;
                let found = bits(&piece, layout.data, *format);
                for (row, col) in (0..200).flat_map(|row| [(row, 0), (row, 95)]) {
                    assert_eq!(found[row * layout.stride + col], stored_bits(source(row, col), *format));
                }
            }
        }
    }

    #[test]
    fn what_f16_cannot_hold_is_refused_by_name_and_fits_f32() {
        let name = "transformer.h.3.mlp.c_proj.weight";
        let mut model = Model::fixture();
        model.values_mut(name)[777] = -65520.0;
        let text = packed(&model, Dtype::F32, Piece::Block(3), WeightFormat::F16).expect_err("range").to_string();
        for part in [name, "-65520", "element 777", "--weights f32", "model.safetensors"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(packed(&model, Dtype::F32, Piece::Block(3), WeightFormat::F32).is_ok());
    }

    #[test]
    fn values_that_are_not_finite_are_refused_by_name() {
        for (name, piece) in [
            ("transformer.wte.weight", Piece::Tokens),
            ("transformer.wpe.weight", Piece::Positions),
            ("transformer.h.1.attn.c_attn.weight", Piece::Block(1)),
            ("transformer.h.1.ln_2.weight", Piece::Block(1)),
            ("transformer.h.1.mlp.c_fc.bias", Piece::Block(1)),
            ("transformer.ln_f.bias", Piece::Head),
        ] {
            for (dtype, value) in [(Dtype::F16, f32::NAN), (Dtype::F32, f32::INFINITY), (Dtype::BF16, f32::NAN)] {
                let mut model = Model::fixture();
                model.values_mut(name)[33] = value;
                for format in BOTH {
                    let text = packed(&model, dtype, piece, format).expect_err(name).to_string();
                    assert!(text.contains(name) && text.contains("element 33"), "{text}");
                }
            }
        }
    }

    #[test]
    fn groups_are_the_nearest_to_the_source_and_aux_follows_what_is_stored() {
        for (name, norm, weight) in [
            ("gpt2", "transformer.h.1.ln_2.weight", "transformer.h.1.mlp.c_fc.weight"),
            ("mistral", "model.layers.1.post_attention_layernorm.weight", "model.layers.1.mlp.gate_proj.weight"),
        ] {
            let model = Model::of(name);
            let (spec, gamma, weight) = (model.spec(), model.values(norm), model.values(weight));
            for format in [WeightFormat::Int8, WeightFormat::Int4] {
                let piece = packed(&model, Dtype::F16, Piece::Block(1), format).expect("pack");
                let up = BlockLayout::new(&spec, format, 1).up;
                let (matrix, aux) = (up.matrix, floats(&piece, up.aux));
                assert_eq!(matrix.format, format);
                let rows = piece.as_slice()[matrix.data.offset as usize..].chunks(matrix.row_bytes()).take(matrix.rows);
                for (index, bytes) in rows.enumerate() {
                    // Every second row of a gated MLP is the gate's.
                    let source: Vec<f32> = match (spec.gated, index % 2) {
                        (false, _) => (0..matrix.cols).map(|k| weight[k * matrix.rows + index]).collect(),
                        (true, 0) => weight[index / 2 * matrix.cols..][..matrix.cols].to_vec(),
                        (true, _) => continue,
                    };
                    let mut wanted = vec![0; matrix.row_bytes()];
                    store(&mut source.clone(), format, (0, matrix.stride), Some(&mut wanted));
                    assert_eq!(bytes, wanted, "{name} {format}, row {index}");
                    let stored = read_row(format, matrix.stride, bytes);
                    let dot = stored.iter().zip(&gamma).fold(0.0, |sum, (w, g)| sum + f64::from(*w) * f64::from(*g));
                    assert_eq!(aux[2 * index], dot as f32, "{name} {format}, row {index}");
                }
            }
        }
    }

    #[test]
    fn what_scales_cannot_hold_is_refused_too() {
        let name = "transformer.h.3.mlp.c_proj.weight";
        let mut model = Model::fixture();
        model.values_mut(name)[777] = 70_000.0;
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let text = packed(&model, Dtype::F32, Piece::Block(3), format).expect_err("range").to_string();
            assert!(text.contains("70000") && text.contains("element 777"), "{text}");
        }
    }
}
