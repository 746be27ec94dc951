//! The text that a model is calibrated with.

use pollster::block_on;
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Step};
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::{Source, pack_piece};

use crate::CalibrateError;

/// Sequences of tokens, each of which begins without a past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub(crate) sequences: Vec<Vec<u32>>,
}

impl Text {
    /// `positions` tokens (or one more) that the model writes itself: sequences from random first tokens on, every next
    /// token drawn from what the model expects. The same model, instruction set and seed give the same text; `written` is
    /// called for each token behind a first one.
    ///
    /// What a model writes has the statistics of what it was trained on, as far as it knows them, and every model has it
    /// with it (LLM-QAT, Liu et al. 2023).
    ///
    /// # Errors
    /// Those of packing the model and of running it.
    pub fn written(
        source: &Source,
        positions: usize,
        seed: u64,
        written: &mut dyn FnMut(),
    ) -> Result<Self, CalibrateError> {
        let spec = source.spec();
        let length = window(source);
        let format = WRITER;
        let plan = Plan::new(spec, format, 0..spec.layers);
        let pieces = plan.pieces.iter().map(|piece| pack_piece(source, *piece, format));
        let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        let config = EngineConfig { max_positions: length, slots: 1, max_rows: 1 };
        let mut engine = CpuEngine::new(plan, &pieces, config, None)?;
        let slot = engine.open()?;
        let (mut random, mut logits) = (Random(seed), Vec::new());
        let mut sequences = Vec::new();
        for begun in (0..positions).step_by(length) {
            let length = length.min(positions - begun).max(2);
            let mut ids = vec![(random.unit() * spec.vocab as f64) as u32];
            for position in 0..length - 1 {
                let step = Step { slot, position, input: Input::Tokens(&ids[position..]), wanted: 0 };
                block_on(engine.run(step, &mut logits))?;
                ids.push(random.draw(&logits));
                written();
            }
            sequences.push(ids);
        }
        Ok(Self { sequences })
    }

    /// A text that there is, cut into sequences.
    ///
    /// # Errors
    /// [`CalibrateError::Short`].
    pub fn of_ids(source: &Source, ids: &[u32]) -> Result<Self, CalibrateError> {
        let sequences: Vec<Vec<u32>> =
            ids.chunks(window(source)).filter(|ids| ids.len() > 1).map(<[u32]>::to_vec).collect();
        if sequences.is_empty() {
            return Err(CalibrateError::Short { found: ids.len(), least: 2 });
        }
        Ok(Self { sequences })
    }

    /// Its tokens.
    pub fn positions(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

/// Tokens of a sequence.
fn window(source: &Source) -> usize {
    source.spec().max_positions.min(WINDOW)
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) as f64 / (u64::MAX as f64 + 1.0)
    }

    /// A token with the probability that its logit gives it.
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: &f32| f64::from(logit - top).exp();
        let mut left = self.unit() * logits.iter().map(weight).sum::<f64>();
        let drawn = logits.iter().position(|logit| {
            left -= weight(logit);
            left < 0.0
        });
        drawn.unwrap_or(logits.len() - 1) as u32
    }
}

/// Tokens of a sequence, if the model has room for them.
const WINDOW: usize = 256;

/// What the model writes with: its matrices are read once for every token, and the text need not be exact.
const WRITER: WeightFormat = WeightFormat::Int8;
