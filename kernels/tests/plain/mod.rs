//! The whole computation once more, as plainly as can be, written from the formulas: f64, every position from scratch.
//! What both engines are compared with, and models and weights for it.

mod models;
mod pieces;

use std::ops::Range;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{FoldedNorm, GROUP, Gemv, Matrix, Op, Plan, QkNorm, Tensor, WeightFormat};
use syn1_model::spec::{Activation, Norm, NormKind};

pub(crate) use models::kinds;
pub(crate) use pieces::arbitrary_pieces;

/// A layer range's ops over its packed pieces.
pub(crate) struct Reference<'a> {
    plan: &'a Plan,
    pieces: &'a [PieceBytes],
}

/// The rows of every position.
type Rows = Vec<Vec<f64>>;

impl<'a> Reference<'a> {
    pub(crate) fn new(plan: &'a Plan, pieces: &'a [PieceBytes]) -> Self {
        Self { plan, pieces }
    }

    /// The residual stream behind the range's last layer, and the logits if the range has the head, of every position
    /// of `ids`. Of the engines' roundings it has one: that of keys and values beside f16 weights.
    pub(crate) fn forward(&self, ids: &[u32]) -> (Rows, Rows) {
        let (mut x, mut qkv, mut a) = (Rows::new(), Rows::new(), Rows::new());
        let (mut h, mut logits) = (Rows::new(), Rows::new());
        let each = |rows: &Rows, f: &dyn Fn(&[f64]) -> Vec<f64>| -> Rows { rows.iter().map(|row| f(row)).collect() };
        for op in &self.plan.ops {
            match op {
                Op::Embed { tokens, positions, scale } => x = self.embed(tokens, positions.as_ref(), *scale, ids),
                Op::Qkv { gemv, qk_norm, rope, .. } => {
                    qkv = each(&x, &|row| self.gemv(gemv, row));
                    let rows = qkv.iter_mut().enumerate();
                    rows.for_each(|(position, row)| self.heads(row, position, qk_norm.as_ref(), *rope));
                }
                Op::Attend { scale, softcap, window, .. } => {
                    let seen = |last: usize| window.map_or(0, |window| (last + 1).saturating_sub(window))..last + 1;
                    let score = |dot: f64| capped(dot * f64::from(*scale), *softcap);
                    a = (0..qkv.len()).map(|last| self.attend(&qkv, last, seen(last), &score)).collect();
                }
                Op::Out { gemv, post } => self.add_product(&mut x, gemv, post.as_ref(), &a),
                Op::Up { gemv, activation, gated } => {
                    h = each(&x, &|row| hidden(&self.gemv(gemv, row), *activation, *gated));
                }
                Op::Down { gemv, post } => self.add_product(&mut x, gemv, post.as_ref(), &h),
                Op::Head { gemv, softcap } => {
                    logits = each(&x, &|row| self.gemv(gemv, row).into_iter().map(|l| capped(l, *softcap)).collect());
                }
                Op::Step { .. } => {}
            }
        }
        (x, logits)
    }

    fn embed(&self, tokens: &Matrix, positions: Option<&Matrix>, scale: f32, ids: &[u32]) -> Rows {
        let row = |(position, &id): (usize, &u32)| {
            let mut row: Vec<f64> = self.row(tokens, id as usize).iter().map(|v| v * f64::from(scale)).collect();
            if let Some(positions) = positions {
                add(&mut row, &self.row(positions, position));
            }
            row
        };
        ids.iter().enumerate().map(row).collect()
    }

    /// Norms and rotates the query and key heads of a row.
    fn heads(&self, row: &mut [f64], position: usize, norms: Option<&QkNorm>, rope: Option<usize>) {
        let spec = &self.plan.spec;
        let heads = row.chunks_exact_mut(spec.head_dim).take(spec.heads + spec.kv_heads);
        for (index, head) in heads.enumerate() {
            if let Some(norms) = norms {
                let gamma = if index < spec.heads { norms.q } else { norms.k };
                self.normalise(head, norms.norm, gamma);
            }
            let frequencies = rope.map_or(Vec::new(), |rope| spec.ropes()[rope].frequencies());
            for (pair, frequency) in head.chunks_exact_mut(2).zip(frequencies) {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (first, second) = (pair[0], pair[1]);
                pair[0] = first * cos - second * sin;
                pair[1] = second * cos + first * sin;
            }
        }
    }

    /// The attention output of position `last`, which sees the positions `seen`.
    fn attend(&self, qkv: &Rows, last: usize, seen: Range<usize>, score: &dyn Fn(f64) -> f64) -> Vec<f64> {
        let spec = &self.plan.spec;
        let dim = spec.head_dim;
        let cached = |past: &[f64], head: usize| -> Vec<f64> {
            let part = past[head * dim..(head + 1) * dim].iter();
            match self.plan.format.kv() {
                WeightFormat::F32 => part.copied().collect(),
                _ => part.map(|v| half::f16::from_f64(*v).to_f64()).collect(),
            }
        };
        let mut a = Vec::new();
        for head in 0..spec.heads {
            let key = spec.heads + head / (spec.heads / spec.kv_heads);
            let q = &qkv[last][head * dim..(head + 1) * dim];
            let scores: Vec<f64> = qkv[seen.clone()].iter().map(|past| score(dot(q, &cached(past, key)))).collect();
            let high = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - high).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut value = vec![0.0; dim];
            for (past, weight) in qkv[seen.clone()].iter().zip(&weights) {
                let v = cached(past, key + spec.kv_heads);
                value.iter_mut().zip(v).for_each(|(value, v)| *value += weight / sum * v);
            }
            a.extend(value);
        }
        a
    }

    fn add_product(&self, x: &mut Rows, gemv: &Gemv, post: Option<&FoldedNorm>, from: &Rows) {
        for (x, from) in x.iter_mut().zip(from) {
            let mut y = self.gemv(gemv, from);
            if let Some(post) = post {
                self.normalise(&mut y, post.norm, post.gamma);
            }
            add(x, &y);
        }
    }

    fn gemv(&self, gemv: &Gemv, x: &[f64]) -> Vec<f64> {
        let mut x = x.to_vec();
        if let Some(folded) = gemv.norm {
            self.normalise(&mut x, folded.norm, folded.gamma);
        }
        let aux = self.floats(gemv.aux);
        let product = |row| dot(&self.row(&gemv.matrix, row), &x) + f64::from(aux[2 * row + 1]);
        (0..gemv.matrix.rows).map(product).collect()
    }

    fn normalise(&self, x: &mut [f64], norm: Norm, gamma: Tensor) {
        let n = x.len() as f64;
        let mu = if norm.kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let variance = x.iter().map(|v| (v - mu) * (v - mu)).sum::<f64>() / n;
        let rs = 1.0 / (variance + f64::from(norm.eps)).sqrt();
        x.iter_mut().zip(self.floats(gamma)).for_each(|(v, gamma)| *v = (*v - mu) * rs * f64::from(gamma));
    }

    fn row(&self, matrix: &Matrix, row: usize) -> Vec<f64> {
        let bytes = &self.bytes(matrix.data)[row * matrix.row_bytes()..][..matrix.row_bytes()];
        let half = |at: usize| half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64();
        let stride = matrix.stride;
        let element = |k: usize| match matrix.format {
            WeightFormat::F32 => f32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[4 * k + i])).into(),
            WeightFormat::F16 => half(2 * k),
            WeightFormat::Int8 => f64::from(bytes[k] as i8) * half(stride + k / GROUP * 2),
            WeightFormat::Int4 => {
                let (byte, line) = (bytes[k / 8 * 4 + k % 4], stride / 2 + k / GROUP * 4);
                f64::from(if k % 8 < 4 { byte % 16 } else { byte / 16 }) * half(line) + half(line + 2)
            }
        };
        (0..matrix.cols).map(element).collect()
    }

    fn floats(&self, tensor: Tensor) -> Vec<f32> {
        floats(self.bytes(tensor)).collect()
    }

    fn bytes(&self, tensor: Tensor) -> &[u8] {
        let index = self.plan.pieces.iter().position(|piece| *piece == tensor.piece).unwrap();
        &self.pieces[index].as_slice()[tensor.offset as usize..][..tensor.bytes as usize]
    }
}

fn hidden(row: &[f64], activation: Activation, gated: bool) -> Vec<f64> {
    let activate = |x: f64| match activation {
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    };
    match gated {
        true => row.chunks_exact(2).map(|pair| activate(pair[0]) * pair[1]).collect(),
        false => row.iter().map(|value| activate(*value)).collect(),
    }
}

fn capped(value: f64, cap: Option<f32>) -> f64 {
    cap.map(f64::from).map_or(value, |cap| cap * (value / cap).tanh())
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
