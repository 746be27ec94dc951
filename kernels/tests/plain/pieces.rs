//! Pieces of plausible but arbitrary weights, much larger than trained ones so that no op hides behind another.

use half::f16;
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{GROUP, Gemv, Matrix, Op, Piece, Plan, Tensor, WeightFormat, piece_bytes};

/// The pieces of `plan`, always the same whatever the range.
pub(crate) fn arbitrary_pieces(plan: &Plan) -> Vec<PieceBytes> {
    let whole = Plan::new(&plan.spec, plan.format, 0..plan.spec.layers);
    plan.pieces.iter().map(|&piece| arbitrary_piece(&whole, piece)).collect()
}

fn arbitrary_piece(whole: &Plan, piece: Piece) -> PieceBytes {
    let (spec, format) = (&whole.spec, whole.format);
    let bytes = vec![0; piece_bytes(spec, format, piece) as usize];
    let mut writer = Writer { piece, bytes, state: 0x2545_F491 };
    for op in &whole.ops {
        match op {
            Op::Embed { tokens, positions, .. } => {
                writer.matrix(tokens, None);
                positions.iter().for_each(|positions| drop(writer.matrix(positions, None)));
            }
            Op::Qkv { gemv, qk_norm, .. } => {
                writer.gemv(gemv);
                let gammas = qk_norm.iter().flat_map(|norms| [norms.q, norms.k]);
                gammas.for_each(|gamma| drop(writer.gamma(gamma, spec.head_dim)));
            }
            Op::Out { gemv, post } | Op::Down { gemv, post } => {
                writer.gemv(gemv);
                post.iter().for_each(|post| drop(writer.gamma(post.gamma, spec.width)));
            }
            Op::Up { gemv, .. } | Op::Head { gemv, .. } => writer.gemv(gemv),
            Op::Attend { .. } | Op::Step { .. } => {}
        }
    }
    PieceBytes::copy_of(&writer.bytes)
}

/// Draws the numbers of all pieces, and writes those of one.
struct Writer {
    piece: Piece,
    bytes: Vec<u8>,
    state: u32,
}

impl Writer {
    fn gemv(&mut self, gemv: &Gemv) {
        let gamma = gemv.norm.map(|folded| self.gamma(folded.gamma, gemv.matrix.cols));
        let sums = self.matrix(&gemv.matrix, gamma.as_deref());
        for (row, sum) in sums.into_iter().enumerate() {
            let c2 = self.between(-0.3, 0.3);
            self.put(gemv.aux, 2 * row, if gamma.is_some() { sum as f32 } else { 0.0 });
            self.put(gemv.aux, 2 * row + 1, c2);
        }
    }

    /// Gives each row's sum, its elements multiplied with `gamma`.
    fn matrix(&mut self, matrix: &Matrix, gamma: Option<&[f32]>) -> Vec<f64> {
        let largest = 1.5 / (matrix.cols as f32).sqrt();
        let mut sums = vec![0.0; matrix.rows];
        for (row, sum) in sums.iter_mut().enumerate() {
            let begin = matrix.data.offset as usize + row * matrix.row_bytes();
            let mut line = (f16::ZERO, f16::ZERO);
            for col in 0..matrix.cols {
                if col % GROUP == 0 {
                    line = self.line(matrix, begin, col, largest);
                }
                let value = self.between(-largest, largest);
                let value = self.element(matrix, begin, col, value, line);
                *sum += f64::from(value) * gamma.map_or(1.0, |gamma| f64::from(gamma[col]));
            }
        }
        sums
    }

    /// Draws and writes scale and low of the group of `col` in the row that begins at byte `begin`.
    fn line(&mut self, matrix: &Matrix, begin: usize, col: usize, largest: f32) -> (f16, f16) {
        let range = largest * self.between(0.5, 1.0);
        let (scale, low, at, bytes) = match matrix.format {
            WeightFormat::F32 | WeightFormat::F16 => return (f16::ONE, f16::ZERO),
            WeightFormat::Int8 => (range / 127.0, 0.0, matrix.stride + 2 * (col / GROUP), 2),
            WeightFormat::Int4 => (range / 7.0, -range, matrix.stride / 2 + 4 * (col / GROUP), 4),
        };
        let (scale, low) = (f16::from_f32(scale), f16::from_f32(low));
        let line = [scale.to_le_bytes(), low.to_le_bytes()].concat();
        self.write(matrix.data, begin + at, &line[..bytes]);
        (scale, low)
    }

    /// Writes what is nearest to `value`; gives it.
    fn element(&mut self, matrix: &Matrix, begin: usize, col: usize, value: f32, (scale, low): (f16, f16)) -> f32 {
        let (scale, low) = (scale.to_f32(), low.to_f32());
        match matrix.format {
            // Exact in both formats.
            WeightFormat::F32 => {
                let value = f16::from_f32(value).to_f32();
                self.write(matrix.data, begin + 4 * col, &value.to_le_bytes());
                value
            }
            WeightFormat::F16 => {
                self.write(matrix.data, begin + 2 * col, &f16::from_f32(value).to_le_bytes());
                f16::from_f32(value).to_f32()
            }
            WeightFormat::Int8 => {
                let step = (value / scale).round().clamp(-127.0, 127.0);
                self.write(matrix.data, begin + col, &(step as i8).to_le_bytes());
                step * scale
            }
            WeightFormat::Int4 => {
                let step = ((value - low) / scale).round().clamp(0.0, 15.0);
                let at = begin + col / 8 * 4 + col % 4;
                if matrix.data.piece == self.piece {
                    self.bytes[at] |= if col % 8 < 4 { step as u8 } else { (step as u8) << 4 };
                }
                step * scale + low
            }
        }
    }

    fn gamma(&mut self, tensor: Tensor, elements: usize) -> Vec<f32> {
        let gamma: Vec<f32> = (0..elements).map(|_| self.between(0.6, 1.4)).collect();
        gamma.iter().enumerate().for_each(|(index, value)| self.put(tensor, index, *value));
        gamma
    }

    fn put(&mut self, tensor: Tensor, index: usize, value: f32) {
        self.write(tensor, tensor.offset as usize + 4 * index, &value.to_le_bytes());
    }

    fn write(&mut self, tensor: Tensor, at: usize, bytes: &[u8]) {
        if tensor.piece == self.piece {
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + (high - low) * (self.state >> 8) as f32 / 16_777_216.0
    }
}
