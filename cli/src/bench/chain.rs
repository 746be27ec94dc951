//! The model as one engine per layer, so that a form can sit at any boundary.

use anyhow::Result;
use syn1_calibrate::Calibrator;
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Slot, Step};
use syn1_model::folder::ModelFolder;
use syn1_model::pack_block;
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Piece, Plan, WeightFormat};

/// The layers. Each pass begins without a past.
pub(super) struct Chain {
    engines: Vec<(CpuEngine, Slot)>,
    pub(super) width: usize,
    vocab: usize,
    /// Positions of a pass.
    pub(super) window: usize,
}

/// One pass with exact activations.
pub(super) struct Window {
    /// The activations in front of layer 1, 2, and so on.
    boundaries: Vec<Vec<f32>>,
    /// The logits of every position.
    pub(super) logits: Vec<f32>,
    pub(super) vocab: usize,
}

impl Window {
    /// The activations that go to `layer`, which is not the first.
    pub(super) fn before(&self, layer: usize) -> &[f32] {
        &self.boundaries[layer - 1]
    }
}

impl Chain {
    /// The model of `folder`, its weights in `format`, rounded to the nearest.
    pub(super) fn new(folder: &ModelFolder, format: WeightFormat) -> Result<Self> {
        Self::with(folder, format, None)
    }

    /// The model of `folder`, its weights in `format`; blocks in int4 are rounded as `calibrator` says.
    pub(super) fn with(
        folder: &ModelFolder,
        format: WeightFormat,
        mut calibrator: Option<Calibrator<'_>>,
    ) -> Result<Self> {
        let spec = folder.spec();
        let window = spec.max_positions.min(WINDOW);
        let config = EngineConfig { max_positions: window, slots: 1, max_rows: window };
        // A tied head's matrix is the embedding: both ends share it.
        let mut kept: Option<(Piece, PieceBytes)> = None;
        let mut engines = Vec::new();
        for layer in 0..spec.layers {
            let plan = Plan::new(spec, format, layer..layer + 1);
            let pieces = plan.pieces.iter().map(|piece| match (&kept, &mut calibrator, folder.source()) {
                (Some((same, bytes)), ..) if same == piece => Ok(bytes.clone()),
                (_, Some(calibrator), Some(source)) if *piece == Piece::Block(layer) => {
                    Ok(pack_block(source, layer, &calibrator.block(layer)?)?)
                }
                _ => Ok(folder.piece(*piece, format)?),
            });
            let pieces = pieces.collect::<Result<Vec<_>>>()?;
            if let (0, Some(Piece::Tokens)) = (layer, plan.pieces.first()) {
                kept = Some((Piece::Tokens, pieces[0].clone()));
            }
            let mut engine = CpuEngine::new(plan, &pieces, config, None)?;
            let slot = engine.open()?;
            engines.push((engine, slot));
        }
        Ok(Self { engines, width: spec.width, vocab: spec.vocab, window })
    }

    /// The pass that others are compared with.
    pub(super) async fn exact(&mut self, ids: &[u32]) -> Result<Window> {
        let mut boundaries = vec![self.layer(0, Input::Tokens(ids)).await?];
        for layer in 1..self.engines.len() {
            let rows = self.layer(layer, Input::Rows(&boundaries[layer - 1])).await?;
            boundaries.push(rows);
        }
        let logits = boundaries.pop().unwrap_or_default();
        Ok(Window { boundaries, logits, vocab: self.vocab })
    }

    /// The logits that follow from `rows` in front of `layer`.
    pub(super) async fn from(&mut self, layer: usize, rows: Vec<f32>) -> Result<Vec<f32>> {
        self.between(layer, self.engines.len(), rows).await
    }

    /// What comes out before layer `end` of `rows` in front of layer `begin`.
    pub(super) async fn between(&mut self, begin: usize, end: usize, mut rows: Vec<f32>) -> Result<Vec<f32>> {
        for layer in begin..end {
            rows = self.layer(layer, Input::Rows(&rows)).await?;
        }
        Ok(rows)
    }

    async fn layer(&mut self, layer: usize, input: Input<'_>) -> Result<Vec<f32>> {
        let (engine, slot) = &mut self.engines[layer];
        let mut out = Vec::new();
        engine.run(Step { slot: *slot, position: 0, input, wanted: 0 }, &mut out).await?;
        Ok(out)
    }
}

/// Positions fed at once.
const WINDOW: usize = 256;
