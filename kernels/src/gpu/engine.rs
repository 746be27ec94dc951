//! The engine: steps and the token loop as submits.

use std::ops::ControlFlow;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::Plan;
use wgpu::{BindGroup, Buffer, CommandBuffer, CommandEncoder, ComputePass};

use super::activations::{Activations, StepState, Strides};
use super::bank::{Bank, Layout};
use super::carry::Carry;
use super::device::GpuDevice;
use super::inbox::{Inbox, Mail};
use super::launch::{Extent, Launch};
use super::logits::Logits;
use super::patience::Patience;
use super::persist::{self, Persist, Work};
use super::prepared::{Prepared, Shape, StepTimes, Stopwatch};
use super::program::{Program, kv_layer_bytes};
use super::readback::Readback;
use super::teardown::{Begin, End};
use super::together::Place;
use super::token_loop::Loop;
use super::tune::tune;
use super::tuning::Tuning;
use super::upload::Upload;
use super::weights::Weights;
use crate::engine::{Decode, Engine, EngineConfig, EngineError, Input, Slot, Step, StepResult};
use crate::group::Group;

/// Runs a [`Plan`] on a GPU.
pub struct GpuEngine {
    _begin: Begin,
    pub(super) device: GpuDevice,
    pub(super) plan: Plan,
    pub(super) config: EngineConfig,
    pub(super) program: Program,
    /// Whole tokens in one dispatch, where that is possible and faster.
    pub(super) persist: Option<Persist>,
    /// The layers of a step of one token row in one dispatch, likewise.
    pub(super) steps: Option<Persist>,
    pub(super) activations: Activations,
    inbox: Inbox,
    carry: Carry,
    banks: Vec<Bank>,
    slots: Vec<Option<Request>>,
    /// KV caches of closed slots: the next request takes one without waiting for fresh memory.
    spare: Vec<Request>,
    /// The head with room for the most rows wanted so far, and where they are read back.
    logits: Option<(Logits, Readback)>,
    /// Where rows of the residual stream are read back, in a range without the head.
    rows: Option<Readback>,
    /// What the token loop needs beside the program.
    pub(super) token_loop: Loop,
    /// The loop's state as words: kept to be filled again.
    words: Vec<u32>,
    /// The steps of a pass, where their rows stand and what enters: kept to be filled again.
    group: Group,
    places: Vec<Place>,
    ids: Vec<u32>,
    values: Vec<f32>,
    patience: Patience,
    last_step: StepTimes,
    /// Keeps the buffers that the bind groups name.
    _weights: Weights,
    _end: End,
}

/// How the kernels are made. The default is right for the device; tests choose the other forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Sums by subgroup operations, where the device has them; else by trees in workgroup memory.
    pub subgroups: bool,
    /// Kernels fetch a step's rows from memory that the CPU writes, and put its result where the CPU reads it, where the
    /// device allows that; else copies do.
    pub carried: bool,
    /// Many token rows go through matrix units, where the device has them: inputs are rounded to f16 there.
    pub cooperative: bool,
    /// Several token rows go by kernels of their own; else by those of one row, so that there are fewer to make: a browser's
    /// software adapter takes a second for each.
    pub tiles: bool,
    /// Bytes of one binding of weights or logits at most: larger matrices are bound in windows of rows.
    pub window_bytes: u64,
    /// Whether the token loop may run as one dispatch for many tokens.
    pub persist: Persistence,
    /// Whether the layers of a step of one token row may run as one dispatch.
    pub steps: Persistence,
}

/// Whether something runs as one dispatch, whose workgroups wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Where the device keeps all workgroups at a time, gives the same as without, and is faster by 15 %: measured when the
    /// engine is made, which takes a second or two.
    Measured,
    /// With this many workgroups of this many threads, unmeasured.
    Sized {
        /// Workgroups.
        groups: u32,
        /// Threads of each.
        threads: u32,
    },
    /// Never.
    #[default]
    Off,
}

/// The weights that an engine is made of.
enum Brought<'a> {
    Pieces(&'a [PieceBytes]),
    Uploaded(Weights),
}

/// An open request.
pub(super) struct Request {
    pub(super) binds: Vec<BindGroup>,
    /// That of the loop in one dispatch.
    pub(super) persist: Option<BindGroup>,
    /// That of a step's layers in one dispatch.
    step: Option<BindGroup>,
    /// Positions in its KV cache.
    pub(super) have: usize,
    /// Commands of the step that most likely comes next.
    prepared: Option<Prepared>,
    /// The bank that its KV cache is in, and the cache's number there.
    bank: usize,
    place: usize,
}

/// Whose rows a step has.
#[derive(Clone, Copy)]
enum Whose {
    /// One request's.
    One(Slot),
    /// Those of several requests with caches in this bank.
    Several(usize),
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            subgroups: true,
            carried: true,
            cooperative: true,
            tiles: true,
            window_bytes: WINDOW,
            persist: Persistence::Off,
            steps: Persistence::Off,
        }
    }
}

impl GpuEngine {
    /// Uploads `pieces` (those of `plan.pieces`, in that order) and makes everything that steps need.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for a piece of the wrong length, [`EngineError::Unsupported`] for a model that the kernels
    /// cannot run, [`EngineError::Memory`] where the device has no room, and [`EngineError::Context`] or
    /// [`EngineError::Rows`] for a `config` that the model or the device cannot have.
    pub fn new(
        device: &GpuDevice,
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        Self::with_options(device, plan, pieces, config, GpuOptions::default())
    }

    /// As [`GpuEngine::new`], with a choice of kernels.
    ///
    /// # Errors
    /// As [`GpuEngine::new`].
    pub fn with_options(
        device: &GpuDevice,
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
        options: GpuOptions,
    ) -> Result<Self, EngineError> {
        Self::made(device, plan, Brought::Pieces(pieces), config, options, &mut Tuning::new(device), false)
    }

    /// As [`GpuEngine::with_options`], of weights that are on the device already.
    ///
    /// # Errors
    /// As [`GpuEngine::new`]; [`EngineError::Piece`] for a piece that has not come whole.
    pub fn uploaded(upload: Upload, config: EngineConfig, options: GpuOptions) -> Result<Self, EngineError> {
        let (device, plan, weights) = upload.end()?;
        let options = GpuOptions { persist: Persistence::Off, steps: Persistence::Off, ..options };
        Self::made(&device, plan, Brought::Uploaded(weights), config, options, &mut Tuning::new(&device), false)
    }

    /// As [`GpuEngine::with_options`], its products divided as `tuning` has it. What is missing there is measured, which takes
    /// some tenths of a second, and added; nothing is measured on software adapters.
    ///
    /// # Errors
    /// As [`GpuEngine::new`].
    pub fn tuned(
        device: &GpuDevice,
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
        options: GpuOptions,
        tuning: &mut Tuning,
    ) -> Result<Self, EngineError> {
        Self::made(device, plan, Brought::Pieces(pieces), config, options, tuning, !device.is_software())
    }

    fn made(
        device: &GpuDevice,
        plan: Plan,
        weights: Brought<'_>,
        config: EngineConfig,
        options: GpuOptions,
        tuning: &mut Tuning,
        measures: bool,
    ) -> Result<Self, EngineError> {
        check(&plan, &config)?;
        let most = device.limits.max_storage_buffer_binding_size;
        let largest = Activations::largest(&plan, config.max_rows);
        if largest > most {
            return Err(device.unsupported(format!("rows of {largest} bytes, the largest binding is {most}")));
        }
        let options = GpuOptions { window_bytes: options.window_bytes.min(most), ..options };
        let caches = layout(device, &plan, &config, options);
        let size = |work, wished| persist::size(device, &plan, &caches, work, wished);
        let sizes = [(Work::Loop, size(Work::Loop, options.persist)?), (Work::Step, size(Work::Step, options.steps)?)];
        let in_one = sizes.iter().any(|(_, size)| size.is_some());
        let weights = match weights {
            Brought::Pieces(pieces) => Weights::upload(device, &plan, pieces, in_one)?,
            Brought::Uploaded(weights) => weights,
        };
        let rows = config.max_rows;
        let bytes = Activations::bytes(&plan, rows);
        let activations = device.guarded("activations", bytes, || Activations::new(device, &plan, rows))?;
        if measures {
            let subgroups = device.subgroup_sizes().filter(|_| options.subgroups);
            tune(device, &plan, &weights, subgroups, options.window_bytes, tuning)?;
        }
        let program = Program::new(device, &plan, &weights, &activations, &config, options, tuning)?;
        let one_dispatch = |(work, size): (Work, Option<_>)| match size.zip(weights.arena.as_ref()) {
            Some((size, arena)) => {
                Persist::new(device, &plan, (&weights, arena), &program, &config, (work, size)).map(Some)
            }
            None => Ok(None),
        };
        let [persist, steps] = sizes.map(one_dispatch);
        let (persist, steps) = (persist?, steps?);
        let (inbox, rows, carry, token_loop) = device.guarded("inbox and readback", 0, || {
            let stride = Strides::of(&plan).x;
            let inbox = Inbox::new(device, config.max_rows * if plan.embeds() { 1 } else { stride });
            let row_bytes = 4 * (config.max_rows * stride) as u64;
            let rows = (!plan.heads()).then(|| Readback::new(device, row_bytes));
            let carried = options.carried && device.maps();
            let carry = carried.then(|| Carry::new(device, &plan, &activations, &inbox, rows.as_ref()));
            (inbox, rows, carry.unwrap_or_default(), Loop::new(device, plan.heads() && plan.embeds()))
        })?;
        let mut engine = Self {
            _begin: Begin,
            device: device.clone(),
            plan,
            config,
            program,
            persist,
            steps,
            activations,
            inbox,
            carry,
            banks: Vec::new(),
            slots: Vec::new(),
            spare: Vec::new(),
            logits: None,
            rows,
            token_loop,
            words: Vec::new(),
            group: Group::new(&config),
            places: Vec::new(),
            ids: Vec::new(),
            values: Vec::new(),
            patience: Patience::new(device.is_software()),
            last_step: StepTimes::default(),
            _weights: weights,
            _end: End,
        };
        if options.persist == Persistence::Measured && engine.persist.is_some() {
            engine.admit()?;
        }
        if options.steps == Persistence::Measured && engine.steps.is_some() {
            engine.admit_steps()?;
        }
        Ok(engine)
    }

    /// Whether the token loop runs many tokens in one dispatch.
    pub fn in_one_dispatch(&self) -> bool {
        self.persist.is_some()
    }

    /// Whether a step of one token row runs its layers in one dispatch.
    pub fn steps_in_one_dispatch(&self) -> bool {
        self.steps.is_some()
    }

    /// Waits until all that the engine is made of is known to be there. A browser's GPU says only then what went wrong;
    /// elsewhere this is nothing to wait for.
    ///
    /// # Errors
    /// [`EngineError::Memory`] where the device has no room, or [`EngineError::Device`].
    pub async fn settled(&self) -> Result<(), EngineError> {
        self.device.settled().await
    }

    /// Where the time of the last step went.
    pub fn last_step(&self) -> StepTimes {
        self.last_step
    }

    pub(super) fn request(&self, slot: Slot) -> Result<&Request, EngineError> {
        self.slots.get(slot.0).and_then(Option::as_ref).ok_or(EngineError::NoSlot(slot.0))
    }

    /// Remembers that the request's KV cache holds `have` positions.
    pub(super) fn set_have(&mut self, slot: Slot, have: usize) {
        if let Some(Some(request)) = self.slots.get_mut(slot.0) {
            request.have = have;
        }
    }

    /// Writes what the kernels know of the loop, and its first id.
    pub(super) fn write_state(&mut self, state: StepState, ids: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(bytemuck::cast_slice(&[state]));
        self.words.extend_from_slice(ids);
        self.device.queue.write_buffer(&self.activations.state, 0, bytemuck::cast_slice(&self.words));
    }

    /// A request with a cache that none had before.
    fn fresh(&mut self) -> Result<Request, EngineError> {
        let layout = self.program.layout;
        if self.banks.last().is_none_or(|bank| bank.is_full(&layout)) {
            let bytes = layout.bytes();
            if bytes > self.device.limits.max_buffer_size {
                return Err(EngineError::Memory { device: self.device.name().to_owned(), what: "a KV cache", bytes });
            }
            let together = self.program.together.as_ref().map_or(&[][..], |together| &together.per_bank);
            let bank = self.device.guarded("a KV cache", bytes, || Bank::new(&self.device, &layout, together))?;
            self.banks.push(bank);
        }
        let number = self.banks.len() - 1;
        let bank = &mut self.banks[number];
        let place = bank.used();
        let request = self.device.guarded("bind groups", 0, || {
            let cache = bank.cache(&layout, place);
            Request {
                binds: self.program.bind_slot(&self.device, &cache),
                persist: self.persist.as_ref().map(|persist| persist.bind(&self.activations, &cache)),
                step: self.steps.as_ref().map(|steps| steps.bind(&self.activations, &cache)),
                have: 0,
                prepared: None,
                bank: number,
                place,
            }
        })?;
        bank.take();
        Ok(request)
    }

    /// Makes room for the logits of `wanted` rows.
    fn room_for(&mut self, wanted: usize) -> Result<(), EngineError> {
        if wanted == 0 || self.logits.as_ref().is_some_and(|(logits, _)| logits.rows >= wanted) {
            return Ok(());
        }
        let Some(head) = &mut self.program.head else { return Ok(()) };
        self.logits = None;
        let rows = wanted.next_power_of_two().min(self.config.max_rows);
        let logits = head.logits(&self.device, rows)?;
        let bytes = logits.buffer.size();
        let readback = self.device.guarded("readback", bytes, || Readback::new(&self.device, bytes))?;
        self.logits = Some((logits, readback));
        Ok(())
    }

    pub(super) fn encoder(&self) -> CommandEncoder {
        self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") })
    }

    /// What a step of `rows` rows from `position` on needs, which wants the logits of the last `wanted`.
    fn shape(&self, position: usize, rows: usize, wanted: usize) -> Shape {
        let room = self.logits.as_ref().map_or(0, |(logits, _)| logits.rows);
        Shape { extent: Extent::new(position, rows), rows, wanted, room }
    }

    /// Records a step: its input, its dispatches, and the copy of its result.
    fn record(&self, whose: Whose, shape: Shape) -> Result<CommandBuffer, EngineError> {
        let mut encoder = self.encoder();
        let Carry { arrive, depart } = &self.carry;
        if arrive.is_none() {
            let stride = (!self.plan.embeds()).then_some(Strides::of(&self.plan).x);
            self.inbox.copy(&mut encoder, &self.activations, shape.rows, stride);
        }
        let mut pass = pass(&mut encoder);
        let mut record = |launch: &Launch, binds: &[BindGroup]| launch.record(&mut pass, binds, shape.extent);
        arrive.iter().for_each(|launch| record(launch, &[]));
        match whose {
            Whose::One(slot) => {
                let request = self.request(slot)?;
                self.program.embed.iter().for_each(|launch| record(launch, &request.binds));
                match (self.step_in_one(shape), &request.step) {
                    (Some(steps), Some(binds)) => steps.record_step(&mut pass, binds),
                    _ => self.program.body.iter().for_each(|launch| record(launch, &request.binds)),
                }
            }
            Whose::Several(bank) => {
                let binds = self.banks.get(bank).map_or(&[][..], |bank| &bank.binds);
                let together = self.program.together.iter();
                together.flat_map(|together| together.launches(&self.program)).for_each(|launch| record(launch, binds));
            }
        }
        depart.iter().for_each(|launch| launch.record(&mut pass, &[], shape.extent));
        if let Some((logits, _)) = self.logits.as_ref().filter(|_| shape.wanted > 0) {
            logits.record(&mut pass, shape.wanted);
        }
        drop(pass);
        if let Some(Outcome { source, readback, bytes }) = self.outcome(shape).filter(|_| depart.is_none()) {
            readback.copy(&mut encoder, source, bytes);
        }
        Ok(encoder.finish())
    }

    /// The kernel that runs the layers of one request's step of `shape` in one dispatch, where there is one: a step without a
    /// result would not say where it failed.
    fn step_in_one(&self, shape: Shape) -> Option<&Persist> {
        self.steps.as_ref().filter(|_| shape.rows == 1 && self.outcome(shape).is_some())
    }

    /// What a step leaves: logits, or, in a range without the head, rows; nothing where none are wanted.
    fn outcome(&self, shape: Shape) -> Option<Outcome<'_>> {
        let logits = self.logits.as_ref().filter(|_| shape.wanted > 0);
        let (source, readback, values) = match (logits, &self.rows) {
            (Some((logits, readback)), _) => (&logits.buffer, readback, shape.wanted * logits.stride),
            (None, Some(readback)) => (&self.activations.x, readback, shape.rows * Strides::of(&self.plan).x),
            (None, None) => return None,
        };
        Some(Outcome { source, readback, bytes: 4 * values as u64 })
    }

    /// Where the commands of the next step are kept.
    fn prepared(&mut self, whose: Whose) -> Option<&mut Option<Prepared>> {
        match whose {
            Whose::One(slot) => self.slots.get_mut(slot.0)?.as_mut().map(|request| &mut request.prepared),
            Whose::Several(bank) => self.banks.get_mut(bank).map(|bank| &mut bank.prepared),
        }
    }

    /// Takes the commands of a step of `shape` from those that were prepared, or records them; says which.
    fn commands(&mut self, whose: Whose, shape: Shape) -> Result<(CommandBuffer, bool), EngineError> {
        let prepared = self.prepared(whose).and_then(Option::take);
        match prepared.and_then(|prepared| prepared.take(shape)) {
            Some(commands) => Ok((commands, true)),
            None => Ok((self.record(whose, shape)?, false)),
        }
    }

    /// Records the step that most likely follows one of `shape` that ends in front of `end`: another one like it.
    fn record_ahead(&mut self, whose: Whose, end: usize, shape: Shape) -> Result<(), EngineError> {
        let next = self.shape(end, shape.rows, shape.wanted);
        let fits = end + shape.rows <= self.config.max_positions;
        let commands = if fits { Some(self.record(whose, next)?) } else { None };
        if let Some(prepared) = self.prepared(whose) {
            *prepared = commands.map(|commands| Prepared::new(next, commands));
        }
        Ok(())
    }

    /// Drops the commands that were recorded ahead for requests: they name the kernels that steps had then.
    pub(super) fn forget_prepared(&mut self) {
        self.slots.iter_mut().flatten().for_each(|request| request.prepared = None);
    }

    /// Runs a checked step and appends its result to `out`.
    async fn run_one(&mut self, step: &Step<'_>, rows: usize, out: &mut Vec<f32>) -> Result<(), EngineError> {
        self.device.check()?;
        let wanted = if self.plan.heads() { rows.saturating_sub(step.wanted) } else { 0 };
        self.room_for(wanted)?;
        let state =
            StepState { position: step.position as u32, rows: rows as u32, wanted: (rows - wanted) as u32, made: 0 };
        let mail = match step.input {
            Input::Tokens(ids) => Mail::Ids(ids),
            Input::Rows(values) => {
                Mail::Rows { values, width: self.plan.spec.width, stride: Strides::of(&self.plan).x }
            }
        };
        let width = if self.plan.heads() { 1 } else { self.plan.spec.width };
        let mut watch = Stopwatch::start();
        self.inbox.fill(&self.device, state, mail).await?;
        let upload = watch.lap();
        // From here on the positions behind are overwritten, also by a step that fails.
        self.set_have(step.slot, step.position);
        let shape = self.shape(step.position, rows, wanted);
        let (end, begin) = (step.position + rows, out.len());
        let in_one = self.step_in_one(shape).is_some();
        self.turn(Whose::One(step.slot), shape, end, StepTimes { upload, ..StepTimes::default() }, out).await?;
        if in_one && out[begin..].iter().take(width).any(|value| value.is_nan()) {
            tracing::warn!("{}: a workgroup waited too long for the others: going on without", self.device.name());
            self.steps = None;
            self.forget_prepared();
            out.truncate(begin);
            self.inbox.fill(&self.device, state, mail).await?;
            self.turn(Whose::One(step.slot), shape, end, StepTimes { upload, ..StepTimes::default() }, out).await?;
        }
        self.set_have(step.slot, end);
        Ok(())
    }

    /// Runs the checked steps of a group, whose KV caches are in one bank, and appends their results to `out`.
    async fn run_together(&mut self, group: &Group, steps: &[Step<'_>], out: &mut Vec<f32>) -> Result<(), EngineError> {
        self.device.check()?;
        let (rows, width) = (group.rows().len(), self.plan.spec.width);
        let wanted = if self.plan.heads() { rows - group.unwanted() } else { 0 };
        self.room_for(wanted)?;
        self.ids.clear();
        self.values.clear();
        self.places.clear();
        let mut bank = 0;
        for at in group.rows() {
            let member = group.members()[at.member];
            match steps[member.step].input {
                Input::Tokens(ids) => self.ids.push(ids[at.row]),
                Input::Rows(values) => self.values.extend_from_slice(&values[at.row * width..][..width]),
            }
            let request = self.request(member.slot)?;
            bank = request.bank;
            let eights = self.program.layout.eights(request.place);
            self.places.push(Place { position: at.position as u32, eights });
        }
        let mut watch = Stopwatch::start();
        let state = StepState { position: 0, rows: rows as u32, wanted: (rows - wanted) as u32, made: 0 };
        let mail = match self.plan.embeds() {
            true => Mail::Ids(&self.ids),
            false => Mail::Rows { values: &self.values, width, stride: Strides::of(&self.plan).x },
        };
        self.inbox.fill(&self.device, state, mail).await?;
        if let Some(together) = &self.program.together {
            self.device.queue.write_buffer(&together.places, 0, bytemuck::cast_slice(&self.places));
        }
        let upload = watch.lap();
        for member in group.members() {
            self.set_have(member.slot, member.end - member.rows);
        }
        let shape = self.shape(0, rows, wanted);
        self.turn(Whose::Several(bank), shape, 0, StepTimes { upload, ..StepTimes::default() }, out).await?;
        for member in group.members() {
            self.set_have(member.slot, member.end);
        }
        Ok(())
    }

    /// Submits a step of `shape`, whose input was brought, and appends its result to `out`; meanwhile the step that most likely
    /// follows, from `end` on, is recorded.
    async fn turn(
        &mut self,
        whose: Whose,
        shape: Shape,
        end: usize,
        mut times: StepTimes,
        out: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        let mut watch = Stopwatch::start();
        let commands;
        (commands, times.prepared) = self.commands(whose, shape)?;
        if let Some(steps) = self.step_in_one(shape).filter(|_| matches!(whose, Whose::One(_))) {
            steps.step();
        }
        times.record = watch.lap();
        let submission = self.device.queue.submit([commands]);
        let pending = self.outcome(shape).map(|outcome| outcome.readback.start(outcome.bytes, submission));
        self.inbox.reopen();
        times.submit = watch.lap();
        self.record_ahead(whose, end, shape)?;
        times.ahead = watch.lap();
        if let Some((pending, Outcome { readback, .. })) = pending.zip(self.outcome(shape)) {
            let waited = pending.wait(&self.device, &self.patience).await;
            times.wait = watch.lap();
            let (width, stride) = match &self.logits {
                Some((logits, _)) => (self.plan.spec.vocab, logits.stride),
                None => (self.plan.spec.width, Strides::of(&self.plan).x),
            };
            let unpad = |bytes: &[u8]| {
                for row in bytemuck::cast_slice::<u8, f32>(bytes).chunks_exact(stride) {
                    out.extend_from_slice(&row[..width]);
                }
            };
            readback.take(&self.device, pending, waited, unpad)?;
            times.read = watch.lap();
            self.patience.came(times.ahead + times.wait);
        } else {
            self.device.idle().await?;
            times.wait = watch.lap();
        }
        self.last_step = times;
        Ok(())
    }
}

/// What is read back of a step.
struct Outcome<'a> {
    source: &'a Buffer,
    readback: &'a Readback,
    bytes: u64,
}

impl Engine for GpuEngine {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn device(&self) -> &str {
        self.device.name()
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= self.config.slots {
            return Err(EngineError::Slots(self.config.slots));
        }
        let request = match self.spare.pop() {
            Some(spare) => spare,
            None => self.fresh()?,
        };
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(request);
        Ok(Slot(free))
    }

    fn close(&mut self, slot: Slot) {
        if let Some(mut request) = self.slots.get_mut(slot.0).and_then(Option::take) {
            (request.have, request.prepared) = (0, None);
            self.spare.push(request);
        }
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        out.clear();
        let have = self.request(step.slot)?.have;
        let rows = step.check(&self.plan, &self.config, have)?;
        self.run_one(&step, rows, out).await
    }

    /// Up to 32 rows of requests whose KV caches are neighbours go through the same dispatches; a longer step goes alone.
    async fn run_many(&mut self, steps: &[Step<'_>], out: &mut Vec<f32>, results: &mut Vec<StepResult>) {
        out.clear();
        results.clear();
        let row = if self.plan.heads() { self.plan.spec.vocab } else { self.plan.spec.width };
        let most = self.program.together.as_ref().map_or(0, |together| together.rows);
        let mut group = std::mem::take(&mut self.group);
        while results.len() < steps.len() {
            let have = |slot| self.request(slot).map(|request| (request.have, request.bank));
            group.gather((&self.plan, &self.config), steps, most, have, results);
            let begin = out.len();
            let ran = match group.members() {
                [] => continue,
                [member] => self.run_one(&steps[member.step], member.rows, out).await,
                _ => self.run_together(&group, steps, out).await,
            };
            group.settle(ran, begin, row, results);
        }
        self.group = group;
    }

    async fn decode(
        &mut self,
        decode: Decode<'_>,
        sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        self.token_loop(decode, sink).await
    }
}

impl std::fmt::Debug for GpuEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuEngine")
            .field("device", &self.device)
            .field("layers", &self.plan.layers)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

pub(super) fn pass(encoder: &mut CommandEncoder) -> ComputePass<'_> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None })
}

/// How the KV caches of an engine lie.
pub(super) fn layout(device: &GpuDevice, plan: &Plan, config: &EngineConfig, options: GpuOptions) -> Layout {
    let layout = Layout::new(device, plan, config, kv_layer_bytes(plan, config), options.window_bytes);
    // The kernel that runs the loop in one dispatch knows of one cache.
    if options.persist == Persistence::Off { layout } else { layout.apart() }
}

/// Whether the model can have `config`.
fn check(plan: &Plan, config: &EngineConfig) -> Result<(), EngineError> {
    let (end, max) = (config.max_positions, plan.spec.max_positions);
    if end == 0 || end > max {
        return Err(EngineError::Context { end, max });
    }
    if config.max_rows == 0 || config.max_rows > MOST_ROWS {
        return Err(EngineError::Rows { got: config.max_rows, max: MOST_ROWS });
    }
    Ok(())
}

/// Rows are a dispatch dimension, of which WebGPU allows this many.
const MOST_ROWS: usize = 65_535;

/// WebGPU's default limit of a storage binding; the same everywhere, so that one path is tested everywhere.
const WINDOW: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use syn1_model::plan::WeightFormat;
    use syn1_model::{Spec, random_piece};

    use super::*;

    #[test]
    fn the_futures_can_be_spawned() {
        fn spawnable<T: Send>(_: T) {}
        fn check(engine: &mut GpuEngine, step: Step<'_>, out: &mut Vec<f32>) {
            spawnable(engine.run(step, out));
            spawnable(engine.decode(Decode::greedy(Slot(0), 0, 0, 1), |_| ControlFlow::Break(())));
        }
        // That it compiles is the property.
        let _: fn(&mut GpuEngine, Step<'_>, &mut Vec<f32>) = check;
    }

    /// A small engine on a device of its own.
    fn small() -> GpuEngine {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let spec = Spec {
            layers: 1,
            width: 64,
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
            ffn: 64,
            vocab: 100,
            ..Spec::gpt2_124m()
        };
        let plan = Plan::new(&spec, WeightFormat::F16, 0..1);
        let pieces: Vec<PieceBytes> =
            plan.pieces.iter().map(|piece| random_piece(&spec, plan.format, *piece, 1)).collect();
        let config = EngineConfig { max_positions: 64, slots: 2, max_rows: 8 };
        GpuEngine::new(&device, plan, &pieces, config).unwrap()
    }

    #[test]
    fn a_step_that_fails_on_the_device_leaves_the_positions_before_it_and_no_ids() {
        let mut engine = small();
        let slot = engine.open().unwrap();
        let run = |engine: &mut GpuEngine, position, ids: &[u32]| {
            let step = Step { slot, position, input: Input::Tokens(ids), wanted: 0 };
            pollster::block_on(engine.run(step, &mut Vec::new()))
        };
        run(&mut engine, 0, &[1, 2, 3, 4, 5]).unwrap();
        // No submit that uses this buffer is accepted any more.
        engine.activations.x.destroy();
        let failed = run(&mut engine, 3, &[6, 7]);
        assert!(matches!(failed, Err(EngineError::Device { .. })), "{failed:?}");
        assert_eq!(engine.request(slot).unwrap().have, 3);
        let mut ids = Vec::new();
        let failed = decode(&mut engine, Decode::greedy(slot, 1, 6, 50), |id| ids.push(id));
        assert!(matches!(failed, Err(EngineError::Device { .. })), "{failed:?}");
        assert_eq!((engine.request(slot).unwrap().have, ids), (1, vec![]));
    }

    fn decode(engine: &mut GpuEngine, decode: Decode<'_>, mut each: impl FnMut(u32) + Send) -> Result<(), EngineError> {
        let sink = |id| {
            each(id);
            ControlFlow::Continue(())
        };
        pollster::block_on(engine.decode(decode, sink))
    }

    #[test]
    fn a_device_lost_in_the_loop_ends_it_with_what_was_handed_over_before() {
        let mut engine = small();
        let slot = engine.open().unwrap();
        let mut want = Vec::new();
        decode(&mut engine, Decode::greedy(slot, 0, 6, 60), |id| want.push(id)).unwrap();
        let (device, mut ids) = (engine.device.device.clone(), Vec::new());
        let lost = decode(&mut engine, Decode::greedy(slot, 0, 6, 60), |id| {
            ids.push(id);
            if ids.len() == 3 {
                device.destroy();
            }
        });
        assert!(matches!(lost, Err(EngineError::Device { .. })), "{lost:?}");
        assert!(ids.len() >= 3 && ids.len() < 60, "{}", ids.len());
        assert_eq!((&ids[..], engine.request(slot).unwrap().have), (&want[..ids.len()], ids.len()));
    }

    #[test]
    fn a_lost_device_gives_errors_and_no_panic() {
        let mut engine = small();
        let slot = engine.open().unwrap();
        let run = |engine: &mut GpuEngine, position| {
            let step = Step { slot, position, input: Input::Tokens(&[3]), wanted: 0 };
            pollster::block_on(engine.run(step, &mut Vec::new()))
        };
        run(&mut engine, 0).unwrap();
        assert!(engine.request(slot).unwrap().prepared.is_some(), "the next step is recorded when the device goes");
        engine.device.device.destroy();
        for _ in 0..2 {
            let got = run(&mut engine, 1);
            assert!(matches!(got, Err(EngineError::Device { .. })), "{got:?}");
        }
        let got = decode(&mut engine, Decode::greedy(slot, 1, 3, 4), |_| ());
        assert!(matches!(got, Err(EngineError::Device { .. })), "{got:?}");
        let got = engine.open();
        assert!(matches!(got, Err(EngineError::Device { .. })), "{got:?}");
    }
}
