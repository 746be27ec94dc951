//! The boundary between a node and whatever computes: one trait, two engines.

use std::ops::{ControlFlow, Range};

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, piece_bytes};

use crate::sampling::Sampler;

/// Runs the [`Plan`] of one layer range for several requests at a time.
///
/// Every request has a [`Slot`] with a KV cache of its own. A step at position `p` first truncates that cache to `p`, so
/// rollback and replay need no call of their own. An engine computes one step at a time.
pub trait Engine {
    /// The plan it runs.
    fn plan(&self) -> &Plan;

    /// What computes, for people: `"cpu (2 threads, AVX-512)"`, `"NVIDIA H200 (Vulkan)"`.
    fn device(&self) -> &str;

    /// Reserves a KV cache, empty; the memory of a closed one is used again.
    ///
    /// # Errors
    /// [`EngineError::Slots`] when all are taken, [`EngineError::Memory`] when the device has no room for another.
    fn open(&mut self) -> Result<Slot, EngineError>;

    /// Gives a KV cache back; its memory is kept for the next request. Unknown slots are ignored.
    fn close(&mut self, slot: Slot);

    /// Runs one step and leaves its result in `out` (cleared first, never shrunk).
    ///
    /// A range without the head gives `rows * width` values: the residual stream behind its last layer. A range with the
    /// head gives `(rows - step.wanted) * vocab` logits, those of row `step.wanted` first; none when nothing is wanted.
    ///
    /// # Errors
    /// Names what was wrong with the step. A refused step leaves the KV cache as it was; a step that fails on the device
    /// leaves the positions before it.
    // No `Send` bound: a browser's device is not `Send`, and callers that spawn do so with a concrete engine.
    #[allow(async_fn_in_trait)]
    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError>;

    /// Runs steps of different slots together. `out` gets their values one behind the other, and `results` one entry for
    /// each step, in their order (both are cleared first). What [`Engine::run`] says of a step holds for each of them: one
    /// that is refused changes nothing for the others. Where the device fails, all that were to be computed with it fail.
    ///
    /// Engines that can compute rows of several slots at once read the weights once for all of them. This is for those that
    /// cannot: a loop over [`Engine::run`], which gives the same and takes as long as that. Two steps of one slot are one
    /// behind the other here; an engine with a way of its own may refuse the second with [`EngineError::Twice`].
    #[allow(async_fn_in_trait)]
    async fn run_many(&mut self, steps: &[Step<'_>], out: &mut Vec<f32>, results: &mut Vec<StepResult>) {
        out.clear();
        results.clear();
        let mut values = Vec::new();
        for step in steps {
            let ran = self.run(*step, &mut values).await;
            let begin = out.len();
            if ran.is_ok() {
                out.extend_from_slice(&values);
            }
            results.push(ran.map(|()| begin..out.len()));
        }
    }

    /// Runs the token loop on the device: feeds `decode.token` at `decode.position`, chooses the next token, feeds that, and
    /// so on. `sink` gets each chosen id, in order and as soon as it is known; the loop ends behind the first of
    /// `decode.stop`, when the sink breaks, or with `decode.count` ids. Afterwards the KV cache holds `decode.position`
    /// positions and one more for each id handed over, the last of which is chosen and not fed. A `count` of 0 leaves it
    /// as it was.
    ///
    /// # Errors
    /// [`EngineError::NotWhole`] unless the plan holds the whole model, [`EngineError::Sampler`]; otherwise as
    /// [`Engine::run`]. What was handed over before the device failed is right and stays in the KV cache.
    #[allow(async_fn_in_trait)]
    async fn decode(
        &mut self,
        decode: Decode<'_>,
        sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError>;
}

/// A request's KV cache inside an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub usize);

/// One forward pass over consecutive positions of one request.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Whose KV cache.
    pub slot: Slot,
    /// Position of the first row.
    pub position: usize,
    /// The rows.
    pub input: Input<'a>,
    /// With a head: logits are computed for rows from this index on. `rows` or more: for none.
    pub wanted: usize,
}

/// What became of one step of several: where its values are, or why it has none.
pub type StepResult = Result<Range<usize>, EngineError>;

/// The rows that enter a layer range.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids, one a row: for a range that embeds.
    Tokens(&'a [u32]),
    /// `rows * width` values of the residual stream: for every other range.
    Rows(&'a [f32]),
}

/// A run of the token loop: where it begins, how it goes on and when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Decode<'a> {
    /// Whose KV cache.
    pub slot: Slot,
    /// Position of the first token.
    pub position: usize,
    /// The first token, which is fed and not handed over.
    pub token: u32,
    /// Ids to choose at most.
    pub count: usize,
    /// Ids that end the loop; the one that does is handed over.
    pub stop: &'a [u32],
    /// How each is chosen.
    pub sampler: Sampler,
}

/// What an engine is sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Positions a KV cache holds; at most the model's.
    pub max_positions: usize,
    /// KV caches at most. Memory for one is taken when it is opened.
    pub slots: usize,
    /// Rows of one step at most; longer prompts are fed in chunks.
    pub max_rows: usize,
}

/// Why a step was refused or failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// All KV caches are in use.
    #[error("all {0} KV caches of this node are in use: wait for a request to end")]
    Slots(usize),
    /// The slot was never opened or is closed.
    #[error("KV cache {0} is not open")]
    NoSlot(usize),
    /// The step begins behind the positions seen so far.
    #[error("step begins at position {got}, but the KV cache holds {have} positions: feed those between first")]
    Gap {
        /// Positions in the KV cache.
        have: usize,
        /// The step's first position.
        got: usize,
    },
    /// The step reaches beyond the KV cache.
    #[error("position {end} is beyond the context of {max} positions")]
    Context {
        /// One behind the step's last position.
        end: usize,
        /// The KV cache's size.
        max: usize,
    },
    /// Two steps that are to be computed together have the same slot.
    #[error("KV cache {0} is in two steps of one group: run them one behind the other")]
    Twice(usize),
    /// No rows, or more than the engine is sized for.
    #[error("a step of {got} rows: 1 to {max} are possible")]
    Rows {
        /// The step's rows.
        got: usize,
        /// The engine's limit.
        max: usize,
    },
    /// Tokens for a range that takes rows, or the other way round, or a ragged row.
    #[error("this layer range takes {want}, got {got}")]
    Input {
        /// What the range takes.
        want: &'static str,
        /// What came.
        got: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        id: u32,
        /// The vocabulary.
        vocab: usize,
    },
    /// A sampler's number is out of its range.
    #[error("{name} is {value}: the token loop on the device takes {low} to {high}")]
    Sampler {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: f32,
        /// The lowest it may be.
        low: f32,
        /// The highest.
        high: f32,
    },
    /// [`Engine::decode`] on a part of a model.
    #[error("the token loop on the device needs the whole model, this range is {0:?}")]
    NotWhole(std::ops::Range<usize>),
    /// The device has no room.
    #[error("{device} has no room for {what} of {bytes} bytes")]
    Memory {
        /// The device.
        device: String,
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: u64,
    },
    /// A piece's length does not fit the plan.
    #[error("piece {piece} has {got} bytes, the plan says {want}")]
    Piece {
        /// Its name.
        piece: String,
        /// Its length.
        got: u64,
        /// The length that follows from the model.
        want: u64,
    },
    /// The plan uses something that this engine's kernels cannot do.
    #[error("{device} cannot run this model: {what}")]
    Unsupported {
        /// The device.
        device: String,
        /// The feature, by name.
        what: String,
    },
    /// The device failed or went away.
    #[error("{device} failed: {what}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        what: String,
    },
}

/// Whether `pieces` are those of `plan`, in its order and with the lengths that it says.
///
/// # Errors
/// [`EngineError::Piece`] for the first that is missing, superfluous, too short or too long.
pub(crate) fn check_pieces(plan: &Plan, pieces: &[PieceBytes]) -> Result<(), EngineError> {
    let bytes = |index: usize| pieces.get(index).map_or(0, |piece| piece.as_slice().len() as u64);
    for (index, &piece) in plan.pieces.iter().enumerate() {
        let (got, want) = (bytes(index), piece_bytes(&plan.spec, plan.format, piece));
        if got != want {
            return Err(EngineError::Piece { piece: piece.to_string(), got, want });
        }
    }
    let planned = plan.pieces.len();
    if pieces.len() > planned {
        let piece = format!("{planned} (behind the plan's last)");
        return Err(EngineError::Piece { piece, got: bytes(planned), want: 0 });
    }
    Ok(())
}

impl Step<'_> {
    /// Rows of the step.
    ///
    /// # Errors
    /// As [`Step::check`].
    pub fn rows(&self, plan: &Plan) -> Result<usize, EngineError> {
        match self.input {
            Input::Tokens(ids) if plan.embeds() => Ok(ids.len()),
            Input::Rows(rows) if !plan.embeds() && rows.len() % plan.spec.width == 0 => {
                Ok(rows.len() / plan.spec.width)
            }
            Input::Tokens(_) => Err(EngineError::Input { want: "rows of the residual stream", got: "token ids" }),
            Input::Rows(_) if plan.embeds() => Err(EngineError::Input { want: "token ids", got: "rows" }),
            Input::Rows(_) => Err(EngineError::Input { want: "whole rows", got: "a torn row" }),
        }
    }

    /// Checks the step against the plan, the engine's size and the `have` positions in the KV cache; gives its rows.
    ///
    /// # Errors
    /// The first rule that the step breaks.
    pub fn check(&self, plan: &Plan, config: &EngineConfig, have: usize) -> Result<usize, EngineError> {
        let rows = self.rows(plan)?;
        if rows == 0 || rows > config.max_rows {
            return Err(EngineError::Rows { got: rows, max: config.max_rows });
        }
        if self.position > have {
            return Err(EngineError::Gap { have, got: self.position });
        }
        let end = self.position.saturating_add(rows);
        if end > config.max_positions {
            return Err(EngineError::Context { end, max: config.max_positions });
        }
        if let Input::Tokens(ids) = self.input {
            let vocab = plan.spec.vocab;
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
                return Err(EngineError::Token { id, vocab });
            }
        }
        Ok(rows)
    }
}

impl Decode<'_> {
    /// A greedy loop of `count` ids.
    pub fn greedy(slot: Slot, position: usize, token: u32, count: usize) -> Self {
        Self { slot, position, token, count, stop: &[], sampler: Sampler::Greedy }
    }

    /// Checks the loop as [`Step::check`] does; gives one behind its last position.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, plan: &Plan, config: &EngineConfig, have: usize) -> Result<usize, EngineError> {
        if !(plan.embeds() && plan.heads()) {
            return Err(EngineError::NotWhole(plan.layers.clone()));
        }
        self.sampler.check()?;
        let first = Step { slot: self.slot, position: self.position, input: Input::Tokens(&[self.token]), wanted: 0 };
        first.check(plan, config, have)?;
        let end = self.position.saturating_add(self.count);
        if end > config.max_positions {
            return Err(EngineError::Context { end, max: config.max_positions });
        }
        Ok(end)
    }
}
