//! Tensors to packed pieces: kernel layout, element for element as [`plan`](crate::plan) describes it.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::families::{Linear, NormNames};
use crate::fold::Fold;
use crate::layout::{BlockLayout, HeadLayout, PositionsLayout, TokensLayout, rotary_row};
use crate::piece::PieceBytes;
use crate::plan::{Gemv, Matrix, Piece, Tensor, WeightFormat, piece_bytes};
use crate::source::Source;
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
        "tensor {tensor} in {file} holds {value} at element {index}, beyond what f16 can hold (65504); use --weights f32"
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
    /// No memory for a piece.
    #[error("there is no memory for the packed piece ({0}): end other programs")]
    Memory(#[from] std::collections::TryReserveError),
}

/// Packs one piece.
///
/// f16 sources keep their bits in f16; f32 and bf16 sources are rounded to the nearest f16 (ties to even).
///
/// # Errors
/// A tensor that is missing, not finite, or out of the format's range; no memory for the piece.
///
/// # Panics
/// If the piece is a block that the model does not have.
pub fn pack_piece(source: &Source, piece: Piece, format: WeightFormat) -> Result<PieceBytes, PackError> {
    let (spec, names) = (source.spec(), source.names());
    let bytes = piece_bytes(spec, format, piece);
    let length = usize::try_from(bytes).map_err(|_| PackError::TooLarge { piece, bytes })?;
    PieceBytes::try_with(length, |out| match piece {
        Piece::Tokens => pack_rows(source, &TokensLayout::new(spec, format).matrix, &names.tokens(), out),
        Piece::Positions => pack_rows(source, &PositionsLayout::new(spec, format).matrix, &names.positions(), out),
        Piece::Block(index) => {
            assert!(index < spec.layers, "block {index} of {}", spec.layers);
            pack_block(source, index, &BlockLayout::new(spec, format, index), out)
        }
        Piece::Head => pack_gemv(source, piece, &HeadLayout::new(spec, format).gemv, &names.head(), out),
    })
}

/// A block: its products, and the norms that are not in front of one.
fn pack_block(source: &Source, index: usize, layout: &BlockLayout, out: &mut [u8]) -> Result<(), PackError> {
    let (spec, block) = (source.spec(), source.names().block(index));
    let gemvs = [layout.qkv, layout.out, layout.up, layout.down];
    for (gemv, linear) in gemvs.iter().zip(&block.linears) {
        pack_gemv(source, Piece::Block(index), gemv, linear, out)?;
    }
    if let (Some(layout), Some(names)) = (layout.qk_norm, &block.qk_norm) {
        let dims = spec.layer(index).rope.map_or(0, |rope| spec.ropes()[rope].dims);
        for (tensor, names) in [layout.q, layout.k].into_iter().zip(names) {
            let stored = gamma(source, names, spec.head_dim)?;
            let packed: Vec<f32> = (0..spec.head_dim).map(|element| stored[rotary_row(element, dims)]).collect();
            store(&packed, WeightFormat::F32, bytes_of(tensor, out));
        }
    }
    if let (Some(layouts), Some(names)) = (layout.post_norms, &block.post_norms) {
        for (layout, names) in layouts.iter().zip(names) {
            store(&gamma(source, names, spec.width)?, WeightFormat::F32, bytes_of(layout.gamma, out));
        }
    }
    Ok(())
}

/// An embedding: rows as they are.
fn pack_rows(source: &Source, matrix: &Matrix, name: &str, out: &mut [u8]) -> Result<(), PackError> {
    let view = source.weights().shaped(name, &[matrix.rows, matrix.cols])?;
    let mut row = vec![0.0; matrix.stride];
    for (index, out) in rows_mut(matrix, out).enumerate() {
        read_as_stored(&view, index * matrix.cols, matrix.format, &mut row[..matrix.cols])?;
        store(&row, matrix.format, out);
    }
    Ok(())
}

/// A product: gamma, `aux` and the matrix. A matrix that lies in another piece (a tied head's) only gives its `aux`.
fn pack_gemv(source: &Source, piece: Piece, gemv: &Gemv, linear: &Linear, out: &mut [u8]) -> Result<(), PackError> {
    let matrix = &gemv.matrix;
    let norm = match &linear.norm {
        Some(names) => {
            let beta = names.beta.as_ref().map(|beta| vector(source, beta, matrix.cols));
            Some((gamma(source, names, matrix.cols)?, beta.unwrap_or_else(|| Ok(vec![0.0; matrix.cols]))?))
        }
        None => None,
    };
    if let (Some(folded), Some((gamma, _))) = (&gemv.norm, &norm) {
        store(gamma, WeightFormat::F32, bytes_of(folded.gamma, out));
    }
    let mut fold = Fold { norm, sums: vec![[0.0; 2]; matrix.rows] };
    let own = (matrix.data.piece == piece).then_some(&mut *out);
    let shape = |rows| if linear.transposed { [matrix.cols, rows] } else { [rows, matrix.cols] };
    let views = linear.parts.iter().map(|part| source.weights().shaped(&part.weight, &shape(part.rows)));
    let views = views.collect::<Result<Vec<_>, _>>()?;
    match views.as_slice() {
        [view] if linear.transposed => pack_transposed(view, matrix, &mut fold, own)?,
        views => pack_straight(views, linear, matrix, &mut fold, own)?,
    }
    for (index, part) in linear.parts.iter().enumerate() {
        let Some(bias) = &part.bias else { continue };
        let bias = vector(source, bias, part.rows)?;
        for (row, sums) in fold.sums.iter_mut().enumerate() {
            let (part, stored) = linear.stored(row);
            sums[1] += if part == index { f64::from(bias[stored]) } else { 0.0 };
        }
    }
    store(&fold.aux(), WeightFormat::F32, bytes_of(gemv.aux, out));
    Ok(())
}

/// Matrices that are stored `[out][in]`.
fn pack_straight(
    views: &[TensorView<'_>],
    linear: &Linear,
    matrix: &Matrix,
    fold: &mut Fold,
    mut out: Option<&mut [u8]>,
) -> Result<(), PackError> {
    let mut row = vec![0.0; matrix.stride];
    for index in 0..matrix.rows {
        let (part, stored) = linear.stored(index);
        read_as_stored(&views[part], stored * matrix.cols, matrix.format, &mut row[..matrix.cols])?;
        fold.add_row(index, &row[..matrix.cols]);
        if let Some(row_out) = out.as_deref_mut().and_then(|out| rows_mut(matrix, out).nth(index)) {
            store(&row, matrix.format, row_out);
        }
    }
    Ok(())
}

/// A matrix that is stored `[in][out]`: turned tile by tile, so that reads and writes both stay within the cache.
fn pack_transposed(
    view: &TensorView<'_>,
    matrix: &Matrix,
    fold: &mut Fold,
    mut out: Option<&mut [u8]>,
) -> Result<(), PackError> {
    let mut line = [0.0; TILE];
    let mut tile = vec![[0.0; TILE]; TILE];
    let size = matrix.format.bytes();
    for row in (0..matrix.rows).step_by(TILE) {
        let rows = TILE.min(matrix.rows - row);
        for col in (0..matrix.cols).step_by(TILE) {
            let cols = TILE.min(matrix.cols - col);
            for k in 0..cols {
                let line = &mut line[..rows];
                read_as_stored(view, (col + k) * matrix.rows + row, matrix.format, line)?;
                fold.add_column(row, col + k, line);
                for (turned, value) in tile.iter_mut().zip(line) {
                    turned[k] = *value;
                }
            }
            let Some(out) = out.as_deref_mut() else { continue };
            for (out, turned) in rows_mut(matrix, out).skip(row).zip(&tile[..rows]) {
                store(&turned[..cols], matrix.format, &mut out[col * size..(col + cols) * size]);
            }
        }
    }
    Ok(())
}

/// Writes elements in storage form; `out` may be longer (padding), and stays as it is there.
pub(crate) fn store(values: &[f32], format: WeightFormat, out: &mut [u8]) {
    match format {
        WeightFormat::F32 => {
            for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
        }
        WeightFormat::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            for (values, out) in values.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (bytes, half) in out.as_chunks_mut().0.iter_mut().zip(halves) {
                    *bytes = half.to_le_bytes();
                }
            }
        }
    }
}

/// The bytes of a tensor inside its piece.
pub(crate) fn bytes_of(tensor: Tensor, piece: &mut [u8]) -> &mut [u8] {
    &mut piece[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]
}

/// The rows of a matrix inside its piece, padding included.
pub(crate) fn rows_mut<'a>(matrix: &Matrix, piece: &'a mut [u8]) -> std::slice::ChunksExactMut<'a, u8> {
    bytes_of(matrix.data, piece).chunks_exact_mut(matrix.stride * matrix.format.bytes())
}

/// Reads elements and rounds them to what `format` can hold.
fn read_as_stored(
    view: &TensorView<'_>,
    start: usize,
    format: WeightFormat,
    values: &mut [f32],
) -> Result<(), PackError> {
    view.read(start, values);
    if !all_finite(values) {
        let (tensor, file, index, value) = find_not_finite(view, start, values);
        return Err(PackError::NotFinite { tensor, file, index, value });
    }
    if format == WeightFormat::F16 {
        let mut halves = [f16::ZERO; CHUNK];
        for chunk in values.chunks_mut(CHUNK) {
            let halves = &mut halves[..chunk.len()];
            halves.convert_from_f32_slice(chunk);
            halves.convert_to_f32_slice(chunk);
        }
        if !all_finite(values) {
            let (tensor, file, index, _) = find_not_finite(view, start, values);
            let mut value = [0.0];
            view.read(index, &mut value);
            return Err(PackError::BeyondF16 { tensor, file, index, value: value[0] });
        }
    }
    Ok(())
}

fn vector(source: &Source, name: &str, elements: usize) -> Result<Vec<f32>, PackError> {
    let view = source.weights().shaped(name, &[elements])?;
    let mut values = vec![0.0; elements];
    read_as_stored(&view, 0, WeightFormat::F32, &mut values)?;
    Ok(values)
}

/// A norm's gamma.
fn gamma(source: &Source, names: &NormNames, elements: usize) -> Result<Vec<f32>, PackError> {
    let mut gamma = vector(source, &names.gamma, elements)?;
    gamma.iter_mut().for_each(|gamma| *gamma += names.offset);
    Ok(gamma)
}

/// Without a branch per element, so that it vectorises.
fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7F80_0000;
    !values.iter().fold(false, |bad, value| bad | (value.to_bits() & EXPONENT == EXPONENT))
}

/// Names and place of the first value that is not finite.
fn find_not_finite(view: &TensorView<'_>, start: usize, values: &[f32]) -> (String, String, usize, f32) {
    let place = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
    (view.name.into(), view.file.display().to_string(), start + place, values.get(place).copied().unwrap_or(f32::NAN))
}

/// Elements of a tile's side: two tiles of f32 and the rows they touch fit the first-level cache.
const TILE: usize = 64;

/// Elements converted at a time, on the stack.
const CHUNK: usize = 256;

const _: () = assert!(TILE <= CHUNK);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;
    use crate::plan::all_pieces;
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
            WeightFormat::F16 => bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect(),
        }
    }

    fn floats(piece: &PieceBytes, tensor: Tensor) -> Vec<f32> {
        bits(piece, tensor, WeightFormat::F32).into_iter().map(f32::from_bits).collect()
    }

    fn stored_bits(value: f32, format: WeightFormat) -> u32 {
        match format {
            WeightFormat::F32 => value.to_bits(),
            WeightFormat::F16 => f16::from_f32(value).to_bits().into(),
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
}
