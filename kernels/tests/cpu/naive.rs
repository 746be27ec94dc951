//! The whole computation once more, as plainly as can be: f64, no KV cache, no blocks, every position from scratch.

use half::f16;
use syn1_model::plan::{Gemv, Matrix, Op, Piece, Plan, Tensor, WeightFormat, piece_bytes};
use syn1_model::spec::{Activation, NormKind, Spec};
use syn1_model::{PieceBytes, spec};

/// Pieces of plausible but arbitrary weights, much larger than trained ones so that no op hides behind another.
pub(crate) fn arbitrary_pieces(plan: &Plan) -> Vec<PieceBytes> {
    plan.pieces.iter().map(|&piece| arbitrary_piece(plan, piece)).collect()
}

fn arbitrary_piece(plan: &Plan, piece: Piece) -> PieceBytes {
    let mut bytes = vec![0; piece_bytes(&plan.spec, plan.format, piece) as usize];
    let mut state = 0x2545_F491u32;
    let mut uniform = |low: f32, high: f32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + (high - low) * (state >> 8) as f32 / 16_777_216.0
    };
    let mut put = |tensor: Tensor, index: usize, format: WeightFormat, value: f32| {
        if tensor.piece == piece {
            let at = tensor.offset as usize + index * format.bytes();
            match format {
                WeightFormat::F16 => bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                WeightFormat::F32 => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
            }
        }
    };
    for op in &plan.ops {
        let (gemv, tables) = parts(op);
        for matrix in gemv.iter().map(|gemv| gemv.matrix).chain(tables) {
            let scale = 1.5 / (matrix.cols as f32).sqrt();
            for row in 0..matrix.rows {
                for col in 0..matrix.cols {
                    // Exact in both formats.
                    let value = f16::from_f32(uniform(-scale, scale)).to_f32();
                    put(matrix.data, row * matrix.stride + col, matrix.format, value);
                }
            }
        }
        let Some(gemv) = gemv else { continue };
        for row in 0..gemv.matrix.rows {
            put(gemv.aux, 2 * row + 1, WeightFormat::F32, uniform(-0.3, 0.3));
        }
        if let Some(folded) = gemv.norm {
            (0..gemv.matrix.cols).for_each(|col| put(folded.gamma, col, WeightFormat::F32, uniform(0.6, 1.4)));
        }
    }
    PieceBytes::copy_of(&bytes)
}

fn parts(op: &Op) -> (Option<Gemv>, Vec<Matrix>) {
    match *op {
        Op::Qkv { gemv, .. } | Op::Out { gemv } | Op::Up { gemv, .. } | Op::Down { gemv } | Op::Head { gemv } => {
            (Some(gemv), Vec::new())
        }
        Op::Embed { tokens, positions } => (None, std::iter::once(tokens).chain(positions).collect()),
        Op::Attend { .. } | Op::Step { .. } => (None, Vec::new()),
    }
}

/// The logits behind every token of a whole model.
pub(crate) fn logits(plan: &Plan, pieces: &[PieceBytes], ids: &[u32]) -> Vec<Vec<f64>> {
    let read = Reader { plan, pieces };
    let spec = &plan.spec;
    let (mut x, mut qkv, mut a, mut h) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for op in &plan.ops {
        match *op {
            Op::Embed { tokens, positions } => {
                x = (0..ids.len())
                    .map(|row| {
                        let learned = positions.map_or(vec![0.0; spec.width], |matrix| read.row(&matrix, row));
                        add(&read.row(&tokens, ids[row] as usize), &learned)
                    })
                    .collect();
            }
            Op::Qkv { gemv, .. } => qkv = read.gemv(&gemv, &x),
            Op::Attend { .. } => a = attend(spec, &qkv),
            Op::Out { gemv } => x = x.iter().zip(read.gemv(&gemv, &a)).map(|(x, y)| add(x, &y)).collect(),
            Op::Up { gemv, activation, gated } => {
                let hidden = |row: Vec<f64>| match gated {
                    true => row.chunks(2).map(|pair| activate(pair[0], activation) * pair[1]).collect(),
                    false => row.into_iter().map(|value| activate(value, activation)).collect(),
                };
                h = read.gemv(&gemv, &x).into_iter().map(hidden).collect::<Vec<Vec<f64>>>();
            }
            Op::Down { gemv } => x = x.iter().zip(read.gemv(&gemv, &h)).map(|(x, y)| add(x, &y)).collect(),
            Op::Head { gemv } => return read.gemv(&gemv, &x),
            Op::Step { .. } => {}
        }
    }
    x
}

fn attend(spec: &Spec, qkv: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dim = spec.head_dim;
    let part = |row: usize, head: usize| &qkv[row][head * dim..(head + 1) * dim];
    let row = |row: usize| {
        let mut out = Vec::new();
        for head in 0..spec.heads {
            let key = spec.heads + head / (spec.heads / spec.kv_heads);
            let weights: Vec<f64> =
                (0..=row).map(|past| (dot(part(row, head), part(past, key)) / (dim as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let sum: f64 = (0..=row).map(|past| weights[past] * part(past, key + spec.kv_heads)[d]).sum();
                out.push(sum / total);
            }
        }
        out
    };
    (0..qkv.len()).map(row).collect()
}

fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

struct Reader<'a> {
    plan: &'a Plan,
    pieces: &'a [PieceBytes],
}

impl Reader<'_> {
    fn gemv(&self, gemv: &Gemv, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let normed: Vec<Vec<f64>> = rows.iter().map(|x| self.norm(gemv, x)).collect();
        let matrix: Vec<Vec<f64>> = (0..gemv.matrix.rows).map(|row| self.row(&gemv.matrix, row)).collect();
        let offset = |row: usize| self.element(gemv.aux, 2 * row + 1, WeightFormat::F32);
        let product = |x: &Vec<f64>| matrix.iter().enumerate().map(|(row, w)| dot(w, x) + offset(row)).collect();
        normed.iter().map(product).collect()
    }

    fn norm(&self, gemv: &Gemv, x: &[f64]) -> Vec<f64> {
        let Some(folded) = gemv.norm else { return x.to_vec() };
        let spec::Norm { kind, eps } = folded.norm;
        let mean = if kind == NormKind::Layer { x.iter().sum::<f64>() / x.len() as f64 } else { 0.0 };
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let gamma = |col| self.element(folded.gamma, col, WeightFormat::F32);
        x.iter().enumerate().map(|(col, x)| (x - mean) * scale * gamma(col)).collect()
    }

    fn row(&self, matrix: &Matrix, row: usize) -> Vec<f64> {
        (0..matrix.cols).map(|col| self.element(matrix.data, row * matrix.stride + col, matrix.format)).collect()
    }

    fn element(&self, tensor: Tensor, index: usize, format: WeightFormat) -> f64 {
        let piece = self.plan.pieces.iter().position(|&piece| piece == tensor.piece).unwrap();
        let at = tensor.offset as usize + index * format.bytes();
        let bytes = &self.pieces[piece].as_slice()[at..at + format.bytes()];
        match format {
            WeightFormat::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
            WeightFormat::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        }
    }
}
