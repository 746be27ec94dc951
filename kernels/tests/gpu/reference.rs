//! The plain forward pass in f64, written from the formulas: what the kernels are compared with.

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Gemv, Matrix, Op, Plan, Tensor, WeightFormat};
use syn1_model::spec::{NormKind, Spec};

/// A layer range's ops over its packed pieces.
pub(crate) struct Reference<'a> {
    plan: &'a Plan,
    pieces: &'a [PieceBytes],
}

impl<'a> Reference<'a> {
    pub(crate) fn new(plan: &'a Plan, pieces: &'a [PieceBytes]) -> Self {
        Self { plan, pieces }
    }

    /// The residual stream behind the range's last layer, and the logits if the range has the head, of every position of `ids`.
    pub(crate) fn forward(&self, ids: &[u32]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let spec = &self.plan.spec;
        let mut x: Vec<Vec<f64>> = Vec::new();
        let (mut qkv, mut a, mut h, mut logits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for op in &self.plan.ops {
            match op {
                Op::Embed { tokens, positions } => {
                    for (position, &id) in ids.iter().enumerate() {
                        let mut row = self.row(tokens, id as usize);
                        if let Some(positions) = positions {
                            add(&mut row, &self.row(positions, position));
                        }
                        x.push(row);
                    }
                }
                Op::Qkv { gemv, .. } => qkv = x.iter().map(|row| self.gemv(gemv, row)).collect(),
                Op::Attend { .. } => a = attend(spec, self.plan.format, &qkv),
                Op::Out { gemv } => x.iter_mut().zip(&a).for_each(|(x, a)| add(x, &self.gemv(gemv, a))),
                Op::Up { gemv, .. } => {
                    h = x.iter().map(|row| self.gemv(gemv, row).into_iter().map(gelu).collect::<Vec<_>>()).collect();
                }
                Op::Down { gemv } => x.iter_mut().zip(&h).for_each(|(x, h)| add(x, &self.gemv(gemv, h))),
                Op::Head { gemv } => logits = x.iter().map(|row| self.gemv(gemv, row)).collect(),
                Op::Step { .. } => {}
            }
        }
        (x, logits)
    }

    fn gemv(&self, gemv: &Gemv, x: &[f64]) -> Vec<f64> {
        let mut x = x.to_vec();
        if let Some(folded) = gemv.norm {
            let n = x.len() as f64;
            let mu = if folded.norm.kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
            let variance = x.iter().map(|v| (v - mu) * (v - mu)).sum::<f64>() / n;
            let rs = 1.0 / (variance + f64::from(folded.norm.eps)).sqrt();
            let gamma = self.floats(folded.gamma);
            x.iter_mut().zip(gamma).for_each(|(v, gamma)| *v = (*v - mu) * rs * f64::from(gamma));
        }
        let aux = self.floats(gemv.aux);
        (0..gemv.matrix.rows)
            .map(|row| {
                let weights = self.row(&gemv.matrix, row);
                weights.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>() + f64::from(aux[2 * row + 1])
            })
            .collect()
    }

    fn row(&self, matrix: &Matrix, row: usize) -> Vec<f64> {
        let size = matrix.format.bytes();
        let all = self.bytes(matrix.data);
        let bytes = &all[row * matrix.stride * size..][..matrix.cols * size];
        match matrix.format {
            WeightFormat::F32 => floats(bytes).map(f64::from).collect(),
            WeightFormat::F16 => {
                bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
            }
        }
    }

    fn floats(&self, tensor: Tensor) -> Vec<f32> {
        floats(self.bytes(tensor)).collect()
    }

    fn bytes(&self, tensor: Tensor) -> &[u8] {
        let index = self.plan.pieces.iter().position(|piece| *piece == tensor.piece).unwrap();
        &self.pieces[index].as_slice()[tensor.offset as usize..][..tensor.bytes as usize]
    }
}

fn attend(spec: &Spec, format: WeightFormat, qkv: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (dim, keys) = (spec.head_dim, spec.heads * spec.head_dim);
    let values = keys + spec.kv_heads * dim;
    let cached = |row: &[f64], at: usize| -> Vec<f64> {
        let part = row[at..][..dim].iter();
        match format {
            WeightFormat::F32 => part.copied().collect(),
            WeightFormat::F16 => part.map(|v| half::f16::from_f64(*v).to_f64()).collect(),
        }
    };
    let mut out = Vec::new();
    for (last, row) in qkv.iter().enumerate() {
        let mut a = Vec::new();
        for head in 0..spec.heads {
            let kv_head = head / (spec.heads / spec.kv_heads);
            let q = &row[head * dim..][..dim];
            let scores: Vec<f64> = qkv[..=last]
                .iter()
                .map(|past| {
                    let k = cached(past, keys + kv_head * dim);
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()
                })
                .collect();
            let high = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - high).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut value = vec![0.0; dim];
            for (past, weight) in qkv.iter().zip(&weights) {
                let v = cached(past, values + kv_head * dim);
                value.iter_mut().zip(v).for_each(|(value, v)| *value += weight / sum * v);
            }
            a.extend(value);
        }
        out.push(a);
    }
    out
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
