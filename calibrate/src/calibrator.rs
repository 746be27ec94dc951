//! A text's way through a model, block by block.

use pollster::block_on;
use syn1_kernels::cpu::{CpuEngine, Product};
use syn1_kernels::engine::{Engine, EngineConfig, Input, Step};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::Spec;
use syn1_model::{BlockFeedback, Feedback, Moments, Source, pack_piece};

use crate::{CalibrateError, Text};

/// Gives what a block's products see of a text. It holds the text's residual stream in front of the next block, and one
/// block's weights at a time.
pub struct Calibrator<'a> {
    source: &'a Source,
    text: Text,
    /// The residual stream of every sequence in front of block `next`; nothing in front of the first.
    rows: Vec<Vec<f32>>,
    next: usize,
}

impl<'a> Calibrator<'a> {
    /// In front of the first block.
    pub fn new(source: &'a Source, text: Text) -> Self {
        let rows = text.sequences.iter().map(|_| Vec::new()).collect();
        Self { source, text, rows, next: 0 }
    }

    /// The feedback for rounding the products of block `index`; blocks are asked for in order, but some may be left out.
    ///
    /// # Errors
    /// Those of packing and running the blocks up to it.
    pub fn block(&mut self, index: usize) -> Result<BlockFeedback, CalibrateError> {
        if index < self.next {
            return Err(CalibrateError::Order { block: index, next: self.next });
        }
        while self.next < index {
            self.pass(None)?;
        }
        let spec = self.source.spec();
        let inputs = [spec.width, spec.attention_width(), spec.width, spec.ffn];
        let mut moments = Vec::new();
        for cols in inputs {
            moments.push(Moments::new(cols).map_err(|_| CalibrateError::Memory(cols))?);
        }
        self.pass(Some(&mut moments))?;
        let mut moments = moments.into_iter().map(Feedback::new);
        Ok([(); 4].map(|()| moments.next()))
    }

    /// Takes the text through the next block.
    fn pass(&mut self, mut moments: Option<&mut Vec<Moments>>) -> Result<(), CalibrateError> {
        let (spec, index) = (self.source.spec(), self.next);
        // One block more than there are: so the plan of the last one ends with its rows, not with the head.
        let spec = Spec { layers: spec.layers + 1, ..spec.clone() };
        let plan = Plan::new(&spec, FORMAT, index..index + 1);
        let pieces = plan.pieces.iter().map(|piece| pack_piece(self.source, *piece, FORMAT));
        let pieces = pieces.collect::<Result<Vec<PieceBytes>, _>>()?;
        let longest = self.text.sequences.iter().map(Vec::len).max().unwrap_or(1);
        let config = EngineConfig { max_positions: longest, slots: 1, max_rows: longest };
        let mut engine = CpuEngine::new(plan, &pieces, config, None)?;
        let slot = engine.open()?;
        let mut finite = true;
        for (ids, rows) in self.text.sequences.iter().zip(&mut self.rows) {
            let input = if index == 0 { Input::Tokens(ids) } else { Input::Rows(rows) };
            let mut out = Vec::new();
            let step = Step { slot, position: 0, input, wanted: 0 };
            match &mut moments {
                None => block_on(engine.run(step, &mut out))?,
                Some(moments) => engine.observe(step, &mut out, &mut |product, inputs| {
                    finite &= inputs.iter().all(|input| input.is_finite());
                    let place = match product {
                        Product::Qkv => 0,
                        Product::Out => 1,
                        Product::Up => 2,
                        Product::Down => 3,
                    };
                    moments[place].add(inputs);
                })?,
            }
            *rows = out;
        }
        if !finite {
            return Err(CalibrateError::NotFinite(index));
        }
        self.next += 1;
        Ok(())
    }
}

/// How the blocks that the text goes through are stored: exact for f16 models, and what int4 can hold it can.
const FORMAT: WeightFormat = WeightFormat::F16;
