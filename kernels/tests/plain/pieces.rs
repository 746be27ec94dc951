//! Pieces of plausible but arbitrary weights, much larger than trained ones so that no op hides behind another.

use half::f16;
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Gemv, Matrix, Op, Piece, Plan, Tensor, WeightFormat, piece_bytes};

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
            self.put(gemv.aux, 2 * row, WeightFormat::F32, if gamma.is_some() { sum as f32 } else { 0.0 });
            self.put(gemv.aux, 2 * row + 1, WeightFormat::F32, c2);
        }
    }

    /// Gives each row's sum, its elements multiplied with `gamma`.
    fn matrix(&mut self, matrix: &Matrix, gamma: Option<&[f32]>) -> Vec<f64> {
        let scale = 1.5 / (matrix.cols as f32).sqrt();
        let mut sums = vec![0.0; matrix.rows];
        for (row, sum) in sums.iter_mut().enumerate() {
            for col in 0..matrix.cols {
                // Exact in both formats.
                let value = f16::from_f32(self.between(-scale, scale)).to_f32();
                self.put(matrix.data, row * matrix.stride + col, matrix.format, value);
                *sum += f64::from(value) * gamma.map_or(1.0, |gamma| f64::from(gamma[col]));
            }
        }
        sums
    }

    fn gamma(&mut self, tensor: Tensor, elements: usize) -> Vec<f32> {
        let gamma: Vec<f32> = (0..elements).map(|_| self.between(0.6, 1.4)).collect();
        gamma.iter().enumerate().for_each(|(index, value)| self.put(tensor, index, WeightFormat::F32, *value));
        gamma
    }

    fn put(&mut self, tensor: Tensor, index: usize, format: WeightFormat, value: f32) {
        if tensor.piece == self.piece {
            let at = tensor.offset as usize + index * format.bytes();
            match format {
                WeightFormat::F16 => self.bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                WeightFormat::F32 => self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
            }
        }
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + (high - low) * (self.state >> 8) as f32 / 16_777_216.0
    }
}
