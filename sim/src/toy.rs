//! A model of hashes: what a layer makes of a row follows from every row before it, so that one row that is lost, repeated or
//! another request's changes every token behind it.
//!
//! Rows hold whole numbers up to 255 and are rounded on their way in: every form of the wire carries them unharmed, whatever it
//! rounds, so that the same tokens must come out wherever the layers lie.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;

use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Input, Slot, Step};
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::Spec;

use crate::world::World;

/// The model's shape.
pub(crate) fn spec(layers: usize) -> Spec {
    Spec {
        layers,
        width: WIDTH,
        heads: 1,
        kv_heads: 1,
        head_dim: WIDTH,
        ffn: 16,
        vocab: VOCAB,
        max_positions: MAX_POSITIONS,
        eos: vec![0],
        ..Spec::gpt2_124m()
    }
}

/// The state of some layers for one request: each layer's hash of all rows that it has seen, position by position.
#[derive(Clone, Debug)]
pub(crate) struct Kv {
    first: usize,
    seen: Vec<Vec<u64>>,
}

impl Kv {
    /// Nothing seen.
    pub(crate) fn new(layers: Range<usize>) -> Self {
        Self { first: layers.start, seen: vec![Vec::new(); layers.len()] }
    }

    fn positions(&self) -> usize {
        self.seen[0].len()
    }

    /// Takes a row through the layers.
    pub(crate) fn row(&mut self, position: usize, row: Row) -> Row {
        let mut row = row;
        for (index, seen) in self.seen.iter_mut().enumerate() {
            seen.truncate(position);
            let before = seen.last().copied().unwrap_or(7);
            let values = row.iter().fold(before, |hash, value| mix(hash, u64::from(*value)));
            let hash = mix(values, (self.first + index) as u64);
            seen.push(hash);
            row = hash.to_le_bytes();
        }
        row
    }
}

/// A token's row.
pub(crate) fn embed(id: u32, position: usize) -> Row {
    mix(u64::from(id) << 32, position as u64).to_le_bytes()
}

/// What the head makes of a row.
pub(crate) fn logits(row: Row) -> Vec<f32> {
    (0..VOCAB as u64).map(|id| (mix(u64::from_le_bytes(row), id) % 4096) as f32 / 512.0).collect()
}

fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 29) ^ (mixed >> 47)
}

/// What a machine computes that does not compute what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Nothing wrong.
    None,
    /// Something is added now and then, to so many rows of a hundred.
    Noise(u64),
    /// Its first layer is left out.
    Skip,
    /// Its weights are those of another model.
    Weights,
}

/// An engine for some layers of it, which takes its time.
#[derive(Debug)]
pub(crate) struct Toy {
    lie: Lie,
    world: WorldRef,
    plan: Plan,
    config: EngineConfig,
    slots: BTreeMap<usize, Kv>,
    row_us: u64,
    open: Rc<Cell<usize>>,
}

struct WorldRef(World);

impl std::fmt::Debug for WorldRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl Toy {
    /// An engine that takes `row_us` microseconds a row and layer. `open` counts the KV caches in use.
    pub(crate) fn new(
        world: &World,
        layers: usize,
        range: Range<usize>,
        config: EngineConfig,
        (row_us, lie): (u64, Lie),
        open: Rc<Cell<usize>>,
    ) -> Self {
        let plan = Plan::new(&spec(layers), WeightFormat::F32, range);
        open.set(0);
        Self { lie, world: WorldRef(world.clone()), plan, config, slots: BTreeMap::new(), row_us, open }
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.open.set(0);
    }
}

impl Engine for Toy {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn device(&self) -> &str {
        "hashes"
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        let free = (0..self.config.slots).find(|slot| !self.slots.contains_key(slot));
        let slot = free.ok_or(EngineError::Slots(self.config.slots))?;
        self.slots.insert(slot, Kv::new(self.plan.layers.clone()));
        self.open.set(self.slots.len());
        Ok(Slot(slot))
    }

    fn close(&mut self, slot: Slot) {
        self.slots.remove(&slot.0);
        self.open.set(self.slots.len());
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        out.clear();
        let kv = self.slots.get_mut(&step.slot.0).ok_or(EngineError::NoSlot(step.slot.0))?;
        let rows = step.check(&self.plan, &self.config, kv.positions())?;
        let takes = self.row_us * (rows * self.plan.layers.len()) as u64;
        self.world.0.sleep_until(self.world.0.now_us() + takes).await;
        for index in 0..rows {
            let position = step.position + index;
            let row = match step.input {
                Input::Tokens(ids) => embed(ids[index], position),
                Input::Rows(values) => {
                    let values = &values[index * WIDTH..][..WIDTH];
                    std::array::from_fn(|column| values[column].round() as u8)
                }
            };
            let row = match self.lie {
                Lie::Skip => kv.row(position, row.map(|value| value.wrapping_add(1))),
                Lie::Weights => kv.row(position, row).map(|value| !value),
                Lie::Noise(percent) if self.world.0.happens(percent) => kv.row(position, row).map(|value| value ^ 64),
                Lie::None | Lie::Noise(_) => kv.row(position, row),
            };
            if !self.plan.heads() {
                out.extend(row.map(f32::from));
            } else if index >= step.wanted {
                out.extend(logits(row));
            }
        }
        Ok(())
    }

    async fn decode(&mut self, _: Decode<'_>, _: impl FnMut(u32) -> ControlFlow<()> + Send) -> Result<(), EngineError> {
        Err(EngineError::NotWhole(self.plan.layers.clone()))
    }
}

/// A row of the residual stream.
pub(crate) type Row = [u8; WIDTH];

/// Columns: as many as the forms that round keep exactly, beside the body.
pub(crate) const WIDTH: usize = 8;
/// Tokens.
pub(crate) const VOCAB: usize = 48;
/// The context.
pub(crate) const MAX_POSITIONS: usize = 96;
