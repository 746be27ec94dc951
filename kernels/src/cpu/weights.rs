//! A plan's ops with their weights at hand: slices of the shared pieces, found once.

use std::ops::Range;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{FoldedNorm, Gemv, Matrix, Op, Piece, Plan, QkNorm, Tensor, WeightFormat};
use syn1_model::spec::{Activation, Norm};

use super::attend::Score;
use crate::engine::{EngineError, check_pieces};

/// A tensor in memory.
pub(super) struct Weights {
    piece: PieceBytes,
    bytes: Range<usize>,
}

impl Weights {
    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.piece.as_slice()[self.bytes.clone()]
    }

    /// The elements, of the type that the plan gives this tensor.
    pub(super) fn elements<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes())
    }
}

/// A matrix in memory, as [`Matrix`].
pub(super) struct Rows {
    data: Weights,
    /// How many there are.
    pub(super) count: usize,
    pub(super) stride: usize,
    pub(super) format: WeightFormat,
}

impl Rows {
    /// The bytes of some rows.
    pub(super) fn bytes(&self, rows: Range<usize>) -> &[u8] {
        let row_bytes = self.row_bytes();
        &self.data.bytes()[rows.start * row_bytes..rows.end * row_bytes]
    }

    /// Bytes from one row to the next.
    pub(super) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.stride)
    }
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
    /// Factor of the token's row.
    pub(super) scale: f32,
}

/// The norms of query and key heads, as [`QkNorm`].
pub(super) struct HeadNorms {
    pub(super) norm: Norm,
    pub(super) q: Weights,
    pub(super) k: Weights,
}

/// One op that all threads run together, as [`Op`].
pub(super) enum Stage {
    /// `rope` is the number of a rotation.
    Qkv {
        layer: usize,
        product: Product,
        norms: Option<HeadNorms>,
        rope: Option<usize>,
    },
    Attend {
        layer: usize,
        score: Score,
        window: Option<usize>,
    },
    Out {
        product: Product,
        post: Option<(Norm, Weights)>,
    },
    Up {
        product: Product,
        activation: Activation,
        gated: bool,
    },
    Down {
        product: Product,
        post: Option<(Norm, Weights)>,
    },
    Head {
        product: Product,
        cap: Option<f32>,
    },
}

/// Every op of a plan.
pub(super) struct Stages {
    /// In front of all stages, for a range that embeds.
    pub(super) embedding: Option<Embedding>,
    pub(super) stages: Vec<Stage>,
}

impl Stages {
    /// Finds every tensor of `plan` in `pieces`, which are in its order.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for a missing, superfluous, too short or too long piece.
    pub(super) fn new(plan: &Plan, pieces: &[PieceBytes]) -> Result<Self, EngineError> {
        let finder = Finder::new(plan, pieces)?;
        let mut found = Self { embedding: None, stages: Vec::new() };
        for op in &plan.ops {
            found.stages.push(match op {
                Op::Embed { tokens, positions, scale } => {
                    found.embedding = Some(finder.embedding(tokens, positions.as_ref(), *scale)?);
                    continue;
                }
                Op::Qkv { layer, gemv, qk_norm, rope } => Stage::Qkv {
                    layer: *layer,
                    product: finder.product(gemv)?,
                    norms: qk_norm.as_ref().map(|norms| finder.head_norms(norms)).transpose()?,
                    rope: *rope,
                },
                Op::Attend { layer, scale, softcap, window } => {
                    Stage::Attend { layer: *layer, score: Score { scale: *scale, cap: *softcap }, window: *window }
                }
                Op::Out { gemv, post } => {
                    Stage::Out { product: finder.product(gemv)?, post: finder.norm(post.as_ref())? }
                }
                Op::Up { gemv, activation, gated } => {
                    Stage::Up { product: finder.product(gemv)?, activation: *activation, gated: *gated }
                }
                Op::Down { gemv, post } => {
                    Stage::Down { product: finder.product(gemv)?, post: finder.norm(post.as_ref())? }
                }
                Op::Head { gemv, softcap } => Stage::Head { product: finder.product(gemv)?, cap: *softcap },
                // The token loop's turn is the embedding's tensors and no stage.
                Op::Step { .. } => continue,
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
        let Matrix { data, rows, stride, format, .. } = matrix;
        Ok(Rows { data: self.weights(data)?, count: *rows, stride: *stride, format: *format })
    }

    fn product(&self, gemv: &Gemv) -> Result<Product, EngineError> {
        let norm = self.norm(gemv.norm.as_ref())?;
        Ok(Product { matrix: self.rows(&gemv.matrix)?, aux: self.weights(&gemv.aux)?, norm })
    }

    fn norm(&self, norm: Option<&FoldedNorm>) -> Result<Option<(Norm, Weights)>, EngineError> {
        norm.map(|folded| Ok((folded.norm, self.weights(&folded.gamma)?))).transpose()
    }

    fn head_norms(&self, norms: &QkNorm) -> Result<HeadNorms, EngineError> {
        Ok(HeadNorms { norm: norms.norm, q: self.weights(&norms.q)?, k: self.weights(&norms.k)? })
    }

    fn embedding(&self, tokens: &Matrix, positions: Option<&Matrix>, scale: f32) -> Result<Embedding, EngineError> {
        let positions = positions.map(|positions| self.rows(positions)).transpose()?;
        Ok(Embedding { tokens: self.rows(tokens)?, positions, scale })
    }
}
