//! The engine: steps and the token loop as submits.

use std::collections::VecDeque;
use std::ops::Range;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::Plan;
use wgpu::{BindGroup, Buffer, BufferUsages, CommandEncoder, ComputePass};

use super::activations::{Activations, RING, StepState, Strides};
use super::device::GpuDevice;
use super::launch::Extent;
use super::logits::Logits;
use super::memory::buffer;
use super::program::Program;
use super::readback::{Pending, Readback};
use super::teardown::{Begin, End};
use super::weights::Weights;
use crate::engine::{Engine, EngineConfig, EngineError, Input, Slot, Step};

/// Runs a [`Plan`] on a GPU.
pub struct GpuEngine {
    _begin: Begin,
    device: GpuDevice,
    plan: Plan,
    config: EngineConfig,
    program: Program,
    activations: Activations,
    slots: Vec<Option<Request>>,
    /// KV caches of closed slots: the next request takes one without waiting for fresh memory.
    spare: Vec<Request>,
    /// The head with room for the most rows wanted so far, and where they are read back.
    logits: Option<(Logits, Readback)>,
    /// Where rows of the residual stream are read back, in a range without the head.
    rows: Option<Readback>,
    /// Where the token loop's ids are read back: of the submit that runs and of the one that is read.
    ids: Vec<Readback>,
    /// The step's state as words, or its rows padded to the stride: kept to be filled again.
    words: Vec<u32>,
    padded: Vec<f32>,
    /// Keeps the buffers that the bind groups name.
    _weights: Weights,
    _end: End,
}

/// How the kernels are made. The default is right for the device; tests choose the other forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Sums by subgroup operations, where the device has them; else by trees in workgroup memory.
    pub subgroups: bool,
    /// Many token rows go through matrix units, where the device has them: inputs are rounded to f16 there.
    pub cooperative: bool,
    /// Bytes of one binding of weights or logits at most: larger matrices are bound in windows of rows.
    pub window_bytes: u64,
}

/// An open request.
struct Request {
    binds: Vec<BindGroup>,
    /// Positions in its KV cache.
    have: usize,
    /// Keeps the KV cache.
    _kv: Buffer,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { subgroups: true, cooperative: true, window_bytes: WINDOW }
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
        check(&plan, &config)?;
        let most = device.limits.max_storage_buffer_binding_size;
        let largest = Activations::largest(&plan, config.max_rows);
        if largest > most {
            return Err(device.unsupported(format!("rows of {largest} bytes, the largest binding is {most}")));
        }
        let options = GpuOptions { window_bytes: options.window_bytes.min(most), ..options };
        let weights = Weights::upload(device, &plan, pieces)?;
        let rows = config.max_rows;
        let bytes = Activations::bytes(&plan, rows);
        let activations = device.guarded("activations", bytes, || Activations::new(device, &plan, rows))?;
        let program = Program::new(device, &plan, &weights, &activations, &config, options)?;
        let (rows, ids) = device.guarded("readback", 0, || {
            let row_bytes = 4 * (config.max_rows * Strides::of(&plan).x) as u64;
            let rows = (!plan.heads()).then(|| Readback::new(device, row_bytes));
            let loops = if plan.heads() && plan.embeds() { IN_FLIGHT } else { 0 };
            (rows, (0..loops).map(|_| Readback::new(device, 4 * RING as u64)).collect())
        })?;
        Ok(Self {
            _begin: Begin,
            device: device.clone(),
            plan,
            config,
            program,
            activations,
            slots: Vec::new(),
            spare: Vec::new(),
            logits: None,
            rows,
            ids,
            words: Vec::new(),
            padded: Vec::new(),
            _weights: weights,
            _end: End,
        })
    }

    fn request(&self, slot: Slot) -> Result<&Request, EngineError> {
        self.slots.get(slot.0).and_then(Option::as_ref).ok_or(EngineError::NoSlot(slot.0))
    }

    /// Remembers that the request's KV cache holds `have` positions.
    fn set_have(&mut self, slot: Slot, have: usize) {
        if let Some(Some(request)) = self.slots.get_mut(slot.0) {
            request.have = have;
        }
    }

    /// Writes what the kernels know of the step, and its ids.
    fn write_state(&mut self, state: StepState, ids: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(bytemuck::cast_slice(&[state]));
        self.words.extend_from_slice(ids);
        self.device.queue.write_buffer(&self.activations.state, 0, bytemuck::cast_slice(&self.words));
    }

    /// Writes rows of the residual stream, padded to the stride.
    fn write_rows(&mut self, rows: &[f32]) {
        let (width, stride) = (self.plan.spec.width, Strides::of(&self.plan).x);
        let rows = if width == stride {
            rows
        } else {
            self.padded.clear();
            for row in rows.chunks_exact(width) {
                self.padded.extend_from_slice(row);
                self.padded.resize(self.padded.len().next_multiple_of(stride), 0.0);
            }
            &self.padded
        };
        self.device.queue.write_buffer(&self.activations.x, 0, bytemuck::cast_slice(rows));
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

    fn encoder(&self) -> CommandEncoder {
        self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") })
    }

    /// Records and submits the turns of the token loop at `positions`, and asks for their ids.
    fn submit_turns(&self, request: &Request, positions: Range<usize>, embed: bool, into: &Readback) -> Pending {
        let mut encoder = self.encoder();
        let mut pass = pass(&mut encoder);
        let first = if embed { &self.program.embed[..] } else { &[] };
        for launch in first {
            launch.record(&mut pass, &request.binds, Extent::new(positions.start, 1));
        }
        let bytes = 4 * positions.len() as u64;
        for position in positions {
            let extent = Extent::new(position, 1);
            for launch in self.program.body.iter().chain(&self.program.best).chain(&self.program.turn) {
                launch.record(&mut pass, &request.binds, extent);
            }
        }
        drop(pass);
        into.copy(&mut encoder, &self.activations.chosen, bytes);
        into.start(bytes, self.device.queue.submit([encoder.finish()]))
    }

    /// Records and submits a step of `rows` rows from `position` on; asks for the logits of the last `wanted` rows, or,
    /// in a range without the head, for the rows.
    fn submit_step(
        &self,
        request: &Request,
        position: usize,
        rows: usize,
        wanted: usize,
    ) -> Option<(Pending, &Readback)> {
        let mut encoder = self.encoder();
        let mut pass = pass(&mut encoder);
        let extent = Extent::new(position, rows);
        for launch in self.program.embed.iter().chain(&self.program.body) {
            launch.record(&mut pass, &request.binds, extent);
        }
        let logits = self.logits.as_ref().filter(|_| wanted > 0);
        if let Some((logits, _)) = logits {
            logits.record(&mut pass, wanted);
        }
        drop(pass);
        let result = match (logits, &self.rows) {
            (Some((logits, readback)), _) => Some((&logits.buffer, readback, wanted * logits.stride)),
            (None, Some(readback)) => Some((&self.activations.x, readback, rows * Strides::of(&self.plan).x)),
            (None, None) => None,
        };
        let Some((source, readback, values)) = result else {
            self.device.queue.submit([encoder.finish()]);
            return None;
        };
        let bytes = 4 * values as u64;
        readback.copy(&mut encoder, source, bytes);
        Some((readback.start(bytes, self.device.queue.submit([encoder.finish()])), readback))
    }
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
        let bytes = self.program.kv_bytes(&self.plan);
        if bytes > self.device.limits.max_buffer_size {
            return Err(EngineError::Memory { device: self.device.name().to_owned(), what: "a KV cache", bytes });
        }
        let request = match self.spare.pop() {
            Some(spare) => spare,
            None => self.device.guarded("a KV cache", bytes, || {
                let kv = buffer(&self.device, "KV cache", bytes, BufferUsages::STORAGE);
                Request { binds: self.program.bind_slot(&self.device, &kv), have: 0, _kv: kv }
            })?,
        };
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(request);
        Ok(Slot(free))
    }

    fn close(&mut self, slot: Slot) {
        if let Some(mut request) = self.slots.get_mut(slot.0).and_then(Option::take) {
            request.have = 0;
            self.spare.push(request);
        }
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        out.clear();
        let have = self.request(step.slot)?.have;
        let rows = step.check(&self.plan, &self.config, have)?;
        self.device.check()?;
        let wanted = if self.plan.heads() { rows.saturating_sub(step.wanted) } else { 0 };
        self.room_for(wanted)?;
        let state =
            StepState { position: step.position as u32, rows: rows as u32, wanted: (rows - wanted) as u32, made: 0 };
        match step.input {
            Input::Tokens(ids) => self.write_state(state, ids),
            Input::Rows(values) => {
                self.write_state(state, &[]);
                self.write_rows(values);
            }
        }
        let (width, stride) = match &self.logits {
            Some((logits, _)) => (self.plan.spec.vocab, logits.stride),
            None => (self.plan.spec.width, Strides::of(&self.plan).x),
        };
        // From here on the positions behind are overwritten, also by a step that fails.
        self.set_have(step.slot, step.position);
        match self.submit_step(self.request(step.slot)?, step.position, rows, wanted) {
            None => self.device.wait(None)?,
            Some((pending, readback)) => {
                let unpad = |bytes: &[u8]| {
                    for row in bytemuck::cast_slice::<u8, f32>(bytes).chunks_exact(stride) {
                        out.extend_from_slice(&row[..width]);
                    }
                };
                readback.finish(&self.device, pending, unpad).await?;
            }
        }
        self.set_have(step.slot, step.position + rows);
        Ok(())
    }

    async fn greedy(
        &mut self,
        slot: Slot,
        position: usize,
        token: u32,
        count: usize,
        ids: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        if !(self.plan.embeds() && self.plan.heads()) {
            return Err(EngineError::NotWhole(self.plan.layers.clone()));
        }
        let have = self.request(slot)?.have;
        let first = Step { slot, position, input: Input::Tokens(&[token]), wanted: 0 };
        first.check(&self.plan, &self.config, have)?;
        let end = position.saturating_add(count);
        if end > self.config.max_positions {
            return Err(EngineError::Context { end, max: self.config.max_positions });
        }
        self.device.check()?;
        if count == 0 {
            return Ok(());
        }
        self.write_state(StepState { position: position as u32, rows: 1, wanted: 0, made: 0 }, &[token]);
        // From here on the positions behind are overwritten, also by a loop that fails.
        self.set_have(slot, position);

        let before = ids.len();
        let request = self.request(slot)?;
        let mut in_flight = VecDeque::new();
        let mut submits =
            (position..end).step_by(RING).map(|start| start..end.min(start + RING)).enumerate().peekable();
        let looped = async {
            loop {
                let room = in_flight.len() < self.ids.len();
                if let Some((number, positions)) = submits.next_if(|_| room) {
                    let readback = &self.ids[number % self.ids.len()];
                    in_flight.push_back((self.submit_turns(request, positions, number == 0, readback), readback));
                    continue;
                }
                let Some((pending, readback)) = in_flight.pop_front() else { return Ok(()) };
                let append = |bytes: &[u8]| ids.extend_from_slice(bytemuck::cast_slice(bytes));
                Readback::finish(readback, &self.device, pending, append).await?;
            }
        };
        let done: Result<(), EngineError> = looped.await;
        match done {
            Ok(()) => self.set_have(slot, end),
            Err(_) => {
                ids.truncate(before);
                // The first error is the one to report; these only give their buffers back.
                for (pending, readback) in in_flight {
                    let _ = readback.finish(&self.device, pending, |_| ()).await;
                }
            }
        }
        done
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

fn pass(encoder: &mut CommandEncoder) -> ComputePass<'_> {
    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: None })
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

/// Submits of the token loop that the device has at a time: it works on one while the other is read.
const IN_FLIGHT: usize = 2;

#[cfg(test)]
mod tests {
    use syn1_model::plan::WeightFormat;
    use syn1_model::{Spec, random_piece};

    use super::*;

    #[test]
    fn the_futures_can_be_spawned() {
        fn spawnable<T: Send>(_: T) {}
        fn check(engine: &mut GpuEngine, step: Step<'_>, out: &mut Vec<f32>, ids: &mut Vec<u32>) {
            spawnable(engine.run(step, out));
            spawnable(engine.greedy(Slot(0), 0, 0, 1, ids));
        }
        // That it compiles is the property.
        let _: fn(&mut GpuEngine, Step<'_>, &mut Vec<f32>, &mut Vec<u32>) = check;
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
        let mut ids = vec![42];
        // More turns than one submit has, so that several are under way.
        let failed = pollster::block_on(engine.greedy(slot, 1, 6, 50, &mut ids));
        assert!(matches!(failed, Err(EngineError::Device { .. })), "{failed:?}");
        assert_eq!((engine.request(slot).unwrap().have, &ids[..]), (1, &[42][..]));
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
        engine.device.device.destroy();
        for _ in 0..2 {
            let got = run(&mut engine, 1);
            assert!(matches!(got, Err(EngineError::Device { .. })), "{got:?}");
        }
        let got = pollster::block_on(engine.greedy(slot, 1, 3, 4, &mut Vec::new()));
        assert!(matches!(got, Err(EngineError::Device { .. })), "{got:?}");
        let got = engine.open();
        assert!(matches!(got, Err(EngineError::Device { .. })), "{got:?}");
    }
}
