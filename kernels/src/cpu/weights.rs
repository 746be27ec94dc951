//! A plan's ops with their weights at hand: slices of the shared pieces, found once.

use std::ops::Range;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Gemv, Matrix, Op, Piece, Plan, Tensor};
use syn1_model::spec::{Activation, Norm};

use crate::engine::{EngineError, check_pieces};

/// A tensor in memory.
pub(super) struct Weights {
    piece: PieceBytes,
    bytes: Range<usize>,
}

impl Weights {
    /// The elements, of the type that the plan gives this tensor.
    pub(super) fn elements<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.piece.as_slice()[self.bytes.clone()])
    }
}

/// A matrix in memory, as [`Matrix`].
pub(super) struct Rows {
    pub(super) data: Weights,
    pub(super) rows: usize,
    pub(super) stride: usize,
}

/// A product in memory, as [`Gemv`].
pub(super) struct Product {
    pub(super) matrix: Rows,
    /// Pairs `(c1, c2)`; the CPU norms its input first, so it needs only `c2`.
    pub(super) aux: Weights,
    pub(super) norm: Option<(Norm, Weights)>,
}

/// The embedding tables, as in [`Op::Embed`] and [`Op::Step`].
pub(super) struct Embedding {
    pub(super) tokens: Rows,
    pub(super) positions: Option<Rows>,
}

/// One op that all threads run together, as [`Op`].
pub(super) enum Stage {
    Qkv { layer: usize, product: Product },
    Attend { layer: usize },
    Out(Product),
    Up { product: Product, activation: Activation, gated: bool },
    Down(Product),
    Head(Product),
}

/// Every op of a plan.
pub(super) struct Stages {
    /// In front of all stages, for a range that embeds.
    pub(super) embedding: Option<Embedding>,
    pub(super) stages: Vec<Stage>,
    /// Whether the plan has [`Op::Step`].
    pub(super) whole: bool,
}

impl Stages {
    /// Finds every tensor of `plan` in `pieces`, which are in its order.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for a missing, superfluous, too short or too long piece, [`EngineError::Unsupported`] for
    /// rotary positions.
    pub(super) fn new(plan: &Plan, pieces: &[PieceBytes], device: &str) -> Result<Self, EngineError> {
        let finder = Finder::new(plan, pieces)?;
        let mut found = Self { embedding: None, stages: Vec::new(), whole: false };
        for op in &plan.ops {
            found.stages.push(match op {
                Op::Embed { tokens, positions } => {
                    found.embedding = Some(finder.embedding(tokens, positions.as_ref())?);
                    continue;
                }
                Op::Qkv { rope: Some(rope), .. } => {
                    let what = format!("rotary positions (RoPE, theta {}) have no kernel yet", rope.theta);
                    return Err(EngineError::Unsupported { device: device.to_owned(), what });
                }
                Op::Qkv { layer, gemv, rope: None } => Stage::Qkv { layer: *layer, product: finder.product(gemv)? },
                Op::Attend { layer } => Stage::Attend { layer: *layer },
                Op::Out { gemv } => Stage::Out(finder.product(gemv)?),
                Op::Up { gemv, activation, gated } => {
                    Stage::Up { product: finder.product(gemv)?, activation: *activation, gated: *gated }
                }
                Op::Down { gemv } => Stage::Down(finder.product(gemv)?),
                Op::Head { gemv } => Stage::Head(finder.product(gemv)?),
                Op::Step { .. } => {
                    found.whole = true;
                    continue;
                }
            });
        }
        Ok(found)
    }
}

/// Finds tensors in pieces whose lengths are checked.
struct Finder<'a> {
    names: &'a [Piece],
    pieces: &'a [PieceBytes],
}

impl<'a> Finder<'a> {
    fn new(plan: &'a Plan, pieces: &'a [PieceBytes]) -> Result<Self, EngineError> {
        check_pieces(plan, pieces)?;
        Ok(Self { names: &plan.pieces, pieces })
    }

    fn weights(&self, tensor: &Tensor) -> Result<Weights, EngineError> {
        let error =
            |got| EngineError::Piece { piece: tensor.piece.to_string(), got, want: tensor.offset + tensor.bytes };
        let index = self.names.iter().position(|&name| name == tensor.piece).ok_or_else(|| error(0))?;
        let piece = self.pieces[index].clone();
        let bytes = tensor.offset as usize..(tensor.offset + tensor.bytes) as usize;
        if bytes.end > piece.as_slice().len() {
            return Err(error(piece.as_slice().len() as u64));
        }
        Ok(Weights { piece, bytes })
    }

    fn rows(&self, matrix: &Matrix) -> Result<Rows, EngineError> {
        Ok(Rows { data: self.weights(&matrix.data)?, rows: matrix.rows, stride: matrix.stride })
    }

    fn product(&self, gemv: &Gemv) -> Result<Product, EngineError> {
        let norm = gemv.norm.map(|folded| Ok::<_, EngineError>((folded.norm, self.weights(&folded.gamma)?)));
        Ok(Product { matrix: self.rows(&gemv.matrix)?, aux: self.weights(&gemv.aux)?, norm: norm.transpose()? })
    }

    fn embedding(&self, tokens: &Matrix, positions: Option<&Matrix>) -> Result<Embedding, EngineError> {
        let positions = positions.map(|positions| self.rows(positions)).transpose()?;
        Ok(Embedding { tokens: self.rows(tokens)?, positions })
    }
}
