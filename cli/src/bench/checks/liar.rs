//! An engine that may compute something else than it should.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Slot, Step};
use syn1_model::plan::{Piece, Plan};
use syn1_node_host::{AnyEngine, Device};

use crate::model::Prepared;

/// What is wrong with what a node computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lie {
    None,
    /// Noise of this share of the row's usual size.
    Noise(f32),
    /// Its last layer is left out, or its first where it has the head.
    SkippedLayer,
    /// One of its layers has another one's weights.
    OtherWeights,
}

impl Lie {
    pub(super) fn name(self) -> String {
        match self {
            Self::None => "nothing".into(),
            Self::Noise(share) => format!("noise of {:.0} %", share * 100.0),
            Self::SkippedLayer => "a skipped layer".into(),
            Self::OtherWeights => "other weights".into(),
        }
    }
}

/// An engine, what it really computes, and how long it takes.
pub(super) struct Liar {
    plan: Plan,
    engine: AnyEngine,
    noise: f32,
    random: Pcg64Mcg,
    compute: Rc<Cell<Duration>>,
}

impl Liar {
    /// An engine for `layers` that computes something else by `lie`.
    ///
    /// # Errors
    /// The pieces are not there, the device has no room, or the range is too short for the lie.
    pub(super) fn new(
        prepared: &Prepared,
        device: &Device,
        layers: std::ops::Range<usize>,
        config: EngineConfig,
        (lie, seed): (Lie, u64),
        compute: Rc<Cell<Duration>>,
    ) -> Result<Self> {
        let plan = Plan::new(&prepared.spec, prepared.format, layers.clone());
        let really = match lie {
            Lie::SkippedLayer => {
                ensure!(layers.len() > 1, "a node with one layer has none to leave out");
                if plan.embeds() { layers.start..layers.end - 1 } else { layers.start + 1..layers.end }
            }
            _ => layers.clone(),
        };
        let (own, mut pieces) = prepared.part(really)?;
        if lie == Lie::OtherWeights {
            let other = if layers.start > 0 { layers.start - 1 } else { layers.end % prepared.spec.layers };
            let (foreign, weights) = prepared.part(other..other + 1)?;
            let block = |plan: &Plan| plan.pieces.iter().position(|piece| matches!(piece, Piece::Block(_)));
            if let (Some(at), Some(from)) = (block(&own), block(&foreign)) {
                pieces[at] = weights[from].clone();
            }
        }
        let noise = if let Lie::Noise(share) = lie { share } else { 0.0 };
        let engine = device.engine(own, &pieces, config)?;
        Ok(Self { plan, engine, noise, random: Pcg64Mcg::seed_from_u64(seed), compute })
    }

    /// Nearly normal: the sum of four even ones.
    fn normal(&mut self) -> f32 {
        let even = |random: &mut Pcg64Mcg| (random.next_u64() >> 40) as f32 / 16_777_216.0 - 0.5;
        (0..4).map(|_| even(&mut self.random)).sum::<f32>() * 1.732
    }
}

impl Engine for Liar {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn device(&self) -> &str {
        self.engine.device()
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        self.engine.open()
    }

    fn close(&mut self, slot: Slot) {
        self.engine.close(slot);
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        let begun = Instant::now();
        self.engine.run(step, out).await?;
        self.compute.set(self.compute.get() + begun.elapsed());
        let width = if self.plan.heads() { self.plan.spec.vocab } else { self.plan.spec.width };
        if self.noise > 0.0 {
            for row in 0..out.len() / width {
                let range = row * width..(row + 1) * width;
                let mut sizes: Vec<f32> = out[range.clone()].iter().map(|value| value.abs()).collect();
                let (_, usual, _) = sizes.select_nth_unstable_by(width / 2, f32::total_cmp);
                let usual = *usual;
                for at in range {
                    out[at] += self.noise * usual * self.normal();
                }
            }
        }
        Ok(())
    }

    async fn decode(&mut self, _: Decode<'_>, _: impl FnMut(u32) -> ControlFlow<()> + Send) -> Result<(), EngineError> {
        Err(EngineError::NotWhole(self.plan.layers.clone()))
    }
}
