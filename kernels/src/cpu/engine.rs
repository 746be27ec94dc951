//! The engine: what a step is checked against, its buffers, and its KV caches.

use std::ops::ControlFlow;

use syn1_model::Lines;
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, WeightFormat, padded};
use web_time::Instant;

use super::digits::{self, Digits};
use super::kernels::{Compiled, Kernels};
use super::observe::{self, Product};
use super::pool::Pool;
use super::rotate::Rotations;
use super::share::{Dealer, Parts};
use super::step::{PHASES_PER_STAGE, Pass, Scratch, longest_row};
use super::weights::{Embedding, Rows, Stages};
use crate::engine::{Decode, Engine, EngineConfig, EngineError, Input, Slot, Step, StepResult};
use crate::group::Group;
use crate::sampling::Chooser;

/// Runs a layer range on the CPU, straight from the pieces' bytes.
///
/// A result's bits depend on the tokens, the weights and the instruction set alone: not on the number of threads, nor
/// on how the tokens were cut into steps, nor on whose steps run together. Steps allocate nothing (but [`Engine::open`] does, and an output vector that
/// is too small grows once).
pub struct CpuEngine {
    pub(super) plan: Plan,
    pub(super) config: EngineConfig,
    device: String,
    kernels: &'static Kernels,
    pub(super) stages: Stages,
    /// Those of [`syn1_model::Spec::ropes`].
    rotations: Vec<Rotations>,
    pool: Pool,
    dealer: Dealer,
    pub(super) buffers: Buffers,
    slots: Vec<Option<Cache>>,
    /// KV caches of closed slots: the next request takes one without waiting for fresh memory.
    spare: Vec<Cache>,
    pub(super) chooser: Chooser,
    /// When the embedding was done, and then every stage; empty where nobody wants to know.
    pub(super) ends: Vec<Instant>,
    /// The steps of a pass: kept to be filled again.
    pub(super) group: Group,
    /// A thread panicked in a step: nothing is known about the buffers and caches any more.
    broken: Option<String>,
}

/// A request's keys and values.
struct Cache {
    /// Positions that it holds.
    have: usize,
    /// `[layer][K|V][kv_head][max_positions][padded(head_dim)]`, see
    /// [`WeightFormat::kv`].
    kv: Lines,
}

/// Rows between the ops, as [`Pass`] describes them.
pub(super) struct Buffers {
    pub(super) x: Lines,
    pub(super) normed: Lines,
    digits: Lines,
    q: Lines,
    projected: Lines,
    pub(super) a: Lines,
    pub(super) h: Lines,
    scratch: Vec<Scratch>,
    /// One row, for the token loop of a whole model.
    pub(super) logits: Vec<f32>,
}

impl CpuEngine {
    /// An engine for `plan`, whose `pieces` are in the order of `plan.pieces` and are kept, not copied. `threads`
    /// (the calling one included) defaults to what the system says can run at once.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for bytes that do not fit the plan, [`EngineError::Unsupported`] for heads of an odd number
    /// of elements that are to be rotated, [`EngineError::Context`] for no positions or more than the model's,
    /// [`EngineError::Rows`] for steps of no rows, [`EngineError::Memory`] without room for the buffers,
    /// [`EngineError::Device`] when the system refuses a thread.
    pub fn new(
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
        threads: Option<usize>,
    ) -> Result<Self, EngineError> {
        let threads = threads.unwrap_or_else(default_threads).max(1);
        let kernels = Kernels::best();
        let device = describe_with(threads, kernels);
        let stages = Stages::new(&plan, pieces)?;
        let (end, max) = (config.max_positions, plan.spec.max_positions);
        if end == 0 || end > max {
            return Err(EngineError::Context { end, max });
        }
        if config.max_rows == 0 {
            return Err(EngineError::Rows { got: 0, max });
        }
        let rotations = rotations(&plan, end, &device)?;
        let buffers = Buffers::new(&plan, kernels, &config, threads, &device)?;
        let pool = Pool::new(threads)
            .map_err(|error| EngineError::Device { device: device.clone(), what: format!("no thread: {error}") })?;
        let dealer = Dealer::new(PHASES_PER_STAGE * stages.stages.len(), pool.threads());
        let slots = (0..config.slots).map(|_| None).collect();
        Ok(Self {
            plan,
            config,
            device,
            kernels,
            stages,
            rotations,
            pool,
            dealer,
            buffers,
            slots,
            spare: Vec::new(),
            chooser: Chooser::default(),
            ends: Vec::new(),
            group: Group::new(&config),
            broken: None,
        })
    }

    /// Elements of one KV cache.
    fn cache_len(&self) -> usize {
        let spec = &self.plan.spec;
        2 * self.plan.layers.len() * spec.kv_heads * self.config.max_positions * padded(spec.head_dim)
    }

    /// The open cache of `slot`, unless nothing is known about it any more.
    fn cache(&self, slot: Slot) -> Result<&Cache, EngineError> {
        if let Some(what) = &self.broken {
            return Err(EngineError::Device { device: self.device.clone(), what: what.clone() });
        }
        self.slots.get(slot.0).and_then(Option::as_ref).ok_or(EngineError::NoSlot(slot.0))
    }

    /// As [`Engine::run`], of a step of two rows or more; `see` gets each product of the range's layers with its input
    /// rows, one behind the other, as soon as it is done. For models to be studied: it copies and waits between ops.
    ///
    /// # Errors
    /// As [`Engine::run`]; [`EngineError::Rows`] for a single row.
    pub fn observe(
        &mut self,
        step: Step<'_>,
        out: &mut Vec<f32>,
        see: &mut dyn FnMut(Product, &[f32]),
    ) -> Result<(), EngineError> {
        let rows = step.rows(&self.plan)?;
        if rows == 1 {
            return Err(EngineError::Rows { got: 1, max: self.config.max_rows });
        }
        self.run_and_see(&step, out, Some(see))
    }

    /// Runs a step and leaves its result in `out`.
    fn run_and_see(
        &mut self,
        step: &Step<'_>,
        out: &mut Vec<f32>,
        see: Option<&mut See<'_>>,
    ) -> Result<(), EngineError> {
        out.clear();
        let rows = step.check(&self.plan, &self.config, self.cache(step.slot)?.have)?;
        let mut group = std::mem::take(&mut self.group);
        group.alone(&self.plan, step, rows);
        let ran = self.append(&group, std::slice::from_ref(step), out, see);
        self.group = group;
        ran
    }

    /// Runs the steps of `group` and appends their results to `out`.
    fn append(
        &mut self,
        group: &Group,
        steps: &[Step<'_>],
        out: &mut Vec<f32>,
        see: Option<&mut See<'_>>,
    ) -> Result<(), EngineError> {
        let (begin, rows) = (out.len(), group.rows().len());
        if self.plan.heads() {
            out.resize(begin + (rows - group.unwanted()) * self.plan.spec.vocab, 0.0);
            return self.compute(group, steps, &mut out[begin..], see);
        }
        self.compute(group, steps, &mut [], see)?;
        let width = self.plan.spec.width;
        let x = self.buffers.x.of::<f32>().chunks_exact(padded(width)).take(rows);
        out.reserve(rows * width);
        x.for_each(|row| out.extend_from_slice(&row[..width]));
        Ok(())
    }

    /// Runs the checked steps of a group; `logits` holds those of the wanted rows.
    pub(super) fn compute(
        &mut self,
        group: &Group,
        steps: &[Step<'_>],
        logits: &mut [f32],
        see: Option<&mut See<'_>>,
    ) -> Result<(), EngineError> {
        match self.plan.format.kv() {
            WeightFormat::F32 => self.compute_as::<f32>(group, steps, logits, see),
            _ => self.compute_as::<u16>(group, steps, logits, see),
        }
    }

    fn compute_as<W: Compiled>(
        &mut self,
        group: &Group,
        steps: &[Step<'_>],
        logits: &mut [f32],
        mut see: Option<&mut See<'_>>,
    ) -> Result<(), EngineError> {
        self.buffers.enter(self.kernels, &self.plan, &self.stages, group, steps)?;
        let Self { plan, buffers, stages, rotations, pool, dealer, kernels, slots, ends, .. } = self;
        if let Some(end) = ends.first_mut() {
            *end = Instant::now();
        }
        // The usual single step needs no list.
        let (one, many);
        let caches = match group.members() {
            [member] => {
                let cache = slots.get_mut(member.slot.0).and_then(Option::as_mut);
                one = [Parts::new(cache.ok_or(EngineError::NoSlot(member.slot.0))?.kv.of_mut::<W>())];
                &one[..]
            }
            members => {
                let mut found: Vec<_> = Vec::with_capacity(members.len());
                for (slot, cache) in slots.iter_mut().enumerate() {
                    let number = members.iter().position(|member| member.slot == Slot(slot));
                    found.extend(number.zip(cache.as_mut()));
                }
                if let Some(member) = members.get(found.len()) {
                    return Err(EngineError::NoSlot(member.slot.0));
                }
                found.sort_unstable_by_key(|(number, _)| *number);
                many = found.into_iter().map(|(_, cache)| Parts::new(cache.kv.of_mut::<W>())).collect::<Vec<_>>();
                &many[..]
            }
        };
        // Whoever looks on gets every stage on its own.
        let stretch = if see.is_some() { 1 } else { stages.stages.len().max(1) };
        for some in stages.stages.chunks(stretch) {
            dealer.reset();
            let pass = Pass {
                spec: &plan.spec,
                kernels,
                stages: some,
                rotations,
                dealer,
                places: group.rows(),
                wanted: group.unwanted(),
                threads: pool.threads(),
                max_positions: self.config.max_positions,
                caches,
                x: Parts::new(buffers.x.of_mut()),
                normed: Parts::new(buffers.normed.of_mut()),
                digits: Parts::new(buffers.digits.of_mut()),
                q: Parts::new(buffers.q.of_mut()),
                projected: Parts::new(buffers.projected.of_mut()),
                a: Parts::new(buffers.a.of_mut()),
                h: Parts::new(buffers.h.of_mut()),
                logits: Parts::new(&mut *logits),
                scratch: Parts::new(&mut buffers.scratch),
                ends: ends.get_mut(1..).map(Parts::new),
            };
            let ran = pool.run(&|worker| {
                // A thread that leaves early does so because another one panicked, which the pool reports.
                // SAFETY: the pool lets each worker in once; the dealer was reset, and all parts are borrowed for this run.
                let _ = unsafe { pass.walk(worker) };
            });
            if let Err(panic) = ran {
                let what = format!("a thread panicked ({panic}): build the engine anew");
                self.broken = Some(what.clone());
                return Err(EngineError::Device { device: self.device.clone(), what });
            }
            if let (Some(see), [stage]) = (&mut see, some)
                && let Some((product, inputs)) = observe::inputs(stage, &plan.spec, buffers, group.rows().len())
            {
                see(product, &inputs);
            }
        }
        for member in group.members() {
            if let Some(Some(cache)) = self.slots.get_mut(member.slot.0) {
                cache.have = member.end;
            }
        }
        Ok(())
    }
}

impl Engine for CpuEngine {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        let free = self.slots.iter().position(Option::is_none).ok_or(EngineError::Slots(self.config.slots))?;
        if let Some(spare) = self.spare.pop() {
            self.slots[free] = Some(spare);
            return Ok(Slot(free));
        }
        let len = self.cache_len();
        let (kv, element) = match self.plan.format.kv() {
            WeightFormat::F32 => (Lines::zeroed::<f32>(len), 4),
            _ => (Lines::zeroed::<u16>(len), 2),
        };
        let bytes = len as u64 * element;
        let kv = kv.ok_or_else(|| EngineError::Memory { device: self.device.clone(), what: "a KV cache", bytes })?;
        self.slots[free] = Some(Cache { have: 0, kv });
        Ok(Slot(free))
    }

    fn close(&mut self, slot: Slot) {
        if let Some(mut cache) = self.slots.get_mut(slot.0).and_then(Option::take) {
            cache.have = 0;
            self.spare.push(cache);
        }
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        self.run_and_see(&step, out, None)
    }

    /// All rows go through the same products, up to the engine's rows at a time.
    async fn run_many(&mut self, steps: &[Step<'_>], out: &mut Vec<f32>, results: &mut Vec<StepResult>) {
        out.clear();
        results.clear();
        let row = if self.plan.heads() { self.plan.spec.vocab } else { self.plan.spec.width };
        let mut group = std::mem::take(&mut self.group);
        while results.len() < steps.len() {
            let have = |slot| self.cache(slot).map(|cache| (cache.have, 0));
            let most = self.config.max_rows;
            group.gather((&self.plan, &self.config), steps, most, have, results);
            if !group.rows().is_empty() {
                let begin = out.len();
                let ran = self.append(&group, steps, out, None);
                group.settle(ran, begin, row, results);
            }
        }
        self.group = group;
    }

    async fn decode(
        &mut self,
        decode: Decode<'_>,
        mut sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        let Decode { slot, position, mut token, stop, sampler, .. } = decode;
        let end = decode.check(&self.plan, &self.config, self.cache(slot)?.have)?;
        let mut logits = std::mem::take(&mut self.buffers.logits);
        let mut group = std::mem::take(&mut self.group);
        let mut turns = || {
            for position in position..end {
                let step = Step { slot, position, input: Input::Tokens(&[token]), wanted: 0 };
                group.alone(&self.plan, &step, 1);
                self.compute(&group, &[step], &mut logits, None)?;
                token = self.chooser.choose(&logits, &sampler, position);
                if sink(token).is_break() || stop.contains(&token) {
                    break;
                }
            }
            Ok(())
        };
        let result = turns();
        self.buffers.logits = logits;
        self.group = group;
        result
    }
}

/// Gets a product and its input rows.
type See<'a> = dyn FnMut(Product, &[f32]) + 'a;

impl Buffers {
    fn new(
        plan: &Plan,
        kernels: &Kernels,
        config: &EngineConfig,
        threads: usize,
        device: &str,
    ) -> Result<Self, EngineError> {
        let (spec, rows) = (&plan.spec, config.max_rows);
        let digits = [plan.format, plan.format.tables()].into_iter().any(|format| kernels.digits(format).is_some());
        // A single row is cut by every thread for itself.
        let digit_lines = if digits && rows > 1 { rows * digits::lines(longest_row(spec)) } else { 0 };
        let memory = |elements: usize| EngineError::Memory {
            device: device.to_owned(),
            what: "the rows of a step",
            bytes: 4 * elements as u64,
        };
        let buffer = |stride: usize| Lines::zeroed::<f32>(rows * stride).ok_or_else(|| memory(rows * stride));
        let scratch = || {
            Scratch::new(spec, digits, rows, config.max_positions)
                .ok_or_else(|| memory(rows * spec.width.max(spec.ffn)))
        };
        Ok(Self {
            x: buffer(padded(spec.width))?,
            normed: buffer(padded(spec.width))?,
            digits: Lines::zeroed::<Digits>(digit_lines).ok_or_else(|| memory(rows * longest_row(spec)))?,
            q: buffer(spec.heads * padded(spec.head_dim))?,
            projected: buffer(if spec.attention.qk_norm { padded(spec.qkv_rows()) } else { 0 })?,
            a: buffer(padded(spec.attention_width()))?,
            h: buffer(padded(spec.ffn))?,
            scratch: (0..threads).map(|_| scratch()).collect::<Result<_, _>>()?,
            logits: if plan.embeds() && plan.heads() { vec![0.0; spec.vocab] } else { Vec::new() },
        })
    }

    /// Fills `x` with what enters the range: rows as they are, or the embeddings of tokens,
    /// `scale * tokens[id] (+ positions[position])`.
    fn enter(
        &mut self,
        kernels: &Kernels,
        plan: &Plan,
        stages: &Stages,
        group: &Group,
        steps: &[Step<'_>],
    ) -> Result<(), EngineError> {
        let width = plan.spec.width;
        let stride = padded(width);
        let read = |table: &Rows, row: usize, out: &mut [f32]| {
            kernels.read(table.format, table.bytes(row..row + 1), table.stride, out);
        };
        let learned = self.scratch[0].row.of_mut::<f32>();
        for (x, at) in self.x.of_mut::<f32>().chunks_exact_mut(stride).zip(group.rows()) {
            match (steps[group.members()[at.member].step].input, &stages.embedding) {
                (Input::Rows(values), _) => x[..width].copy_from_slice(&values[at.row * width..][..width]),
                (Input::Tokens(ids), Some(Embedding { tokens, positions, scale })) => {
                    read(tokens, ids[at.row] as usize, x);
                    x.iter_mut().for_each(|x| *x *= scale);
                    if let Some(positions) = positions {
                        read(positions, at.position, learned);
                        x.iter_mut().zip(learned.iter()).for_each(|(x, learned)| *x += learned);
                    }
                }
                (Input::Tokens(_), None) => {
                    return Err(EngineError::Input { want: "rows of the residual stream", got: "token ids" });
                }
            }
        }
        Ok(())
    }
}

/// The rotations of the plan's model for `positions` positions.
fn rotations(plan: &Plan, positions: usize, device: &str) -> Result<Vec<Rotations>, EngineError> {
    let (ropes, dim) = (plan.spec.ropes(), plan.spec.head_dim);
    if !ropes.is_empty() && !dim.is_multiple_of(2) {
        let what = format!("rotated heads of {dim} elements (only even numbers)");
        return Err(EngineError::Unsupported { device: device.to_owned(), what });
    }
    Ok(ropes.iter().map(|rope| Rotations::new(rope.dims / 2, &rope.table(0..positions))).collect())
}

/// What an engine with the default number of threads calls itself: `"cpu (2 threads, AVX-512)"`.
pub fn describe() -> String {
    describe_with(default_threads(), Kernels::best())
}

fn describe_with(threads: usize, kernels: &Kernels) -> String {
    format!("cpu ({threads} thread{}, {})", if threads == 1 { "" } else { "s" }, kernels.name)
}

/// What the system says can run at once.
pub(super) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}
