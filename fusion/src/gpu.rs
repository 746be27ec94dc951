//! The device, and what runs on it: lists of submissions.

use std::num::NonZeroU64;

use wgpu::util::DeviceExt;
use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferUsages};

use crate::shader::Kernel;
use crate::shape::TOKENS;
use crate::signal::Signal;

/// A GPU that was opened by somebody else, who keeps it open.
#[derive(Clone, Copy, Debug)]
pub struct Gpu<'a> {
    pub(crate) device: &'a wgpu::Device,
    pub(crate) queue: &'a wgpu::Queue,
    /// Threads of a subgroup, where kernels may use subgroups.
    pub(crate) lanes: Option<usize>,
}

/// What went wrong on the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FusionError {
    /// The device reported an error.
    #[error("the GPU reported: {0}")]
    Device(String),
    /// What was computed is not what the f64 forward pass says.
    #[error("the GPU computed {0}; nothing was timed")]
    Wrong(String),
}

/// Work of an arm for all tokens: what is submitted, in order.
pub(crate) struct Program {
    pub(crate) submits: Vec<Vec<Command>>,
    /// Whether each submit is waited for before the next; if not, only the last is.
    pub(crate) waits: bool,
    /// `[TOKENS][width]`, behind the last layer.
    pub(crate) results: Buffer,
    /// A word that is not 0 if the workgroups of a dispatch did not run at the same time.
    pub(crate) gave_up: Option<Buffer>,
}

/// One command.
pub(crate) enum Command {
    /// A dispatch, with the offset of its token's uniform.
    Dispatch { pipeline: wgpu::ComputePipeline, binds: BindGroup, offset: u32, workgroups: u32 },
    /// Fills a buffer with zeros.
    Clear(Buffer),
}

impl Program {
    pub(crate) fn dispatches(&self) -> usize {
        self.submits.iter().flatten().filter(|command| matches!(command, Command::Dispatch { .. })).count()
    }
}

impl Command {
    /// A dispatch for a token.
    pub(crate) fn token(kernel: &Kernel, binds: &BindGroup, token: usize, workgroups: usize) -> Self {
        let (pipeline, binds) = (kernel.pipeline.clone(), binds.clone());
        Self::Dispatch { pipeline, binds, offset: token as u32 * SLOT as u32, workgroups: workgroups as u32 }
    }
}

impl<'a> Gpu<'a> {
    /// Kernels use subgroup operations where the device was opened with them and all its subgroups have one size.
    pub fn new(device: &'a wgpu::Device, queue: &'a wgpu::Queue) -> Self {
        let info = device.adapter_info();
        let lanes = (device.features().contains(wgpu::Features::SUBGROUP)
            && info.subgroup_min_size == info.subgroup_max_size)
            .then_some(info.subgroup_max_size as usize)
            .filter(|lanes| lanes.is_power_of_two() && (4..=64).contains(lanes));
        Self { device, queue, lanes }
    }

    /// The same GPU with kernels that use no subgroup operations, as in a browser.
    pub fn without_subgroups(self) -> Self {
        Self { lanes: None, ..self }
    }

    /// Whether kernels use subgroup operations.
    pub fn has_subgroups(&self) -> bool {
        self.lanes.is_some()
    }

    pub(crate) fn twin(&self) -> &'static str {
        if self.lanes.is_some() { "SG" } else { "NOSG" }
    }

    /// A buffer of zeros.
    pub(crate) fn room(&self, bytes: usize) -> Buffer {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(16).max(16) as u64;
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    /// A buffer that holds `contents`.
    pub(crate) fn filled<T: bytemuck::NoUninit>(&self, contents: &[T], usage: BufferUsages) -> Buffer {
        let contents = bytemuck::cast_slice(contents);
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
    }

    /// A uniform slot for every token: its position, and the tokens of a dispatch that begins with it.
    pub(crate) fn tokens(&self) -> Buffer {
        let words = SLOT as usize / size_of::<u32>();
        let mut slots = vec![0_u32; TOKENS * words];
        for (slot, position) in slots.chunks_exact_mut(words).zip(0..) {
            slot[..2].copy_from_slice(&[position, self.tokens_per_dispatch() as u32]);
        }
        self.filled(&slots, BufferUsages::UNIFORM)
    }

    /// Commands that run `kernel` for all tokens: one dispatch. Software gets one per token, for llvmpipe leaves a kernel's
    /// loops when they have made 65,535 turns in all.
    pub(crate) fn all_tokens(&self, kernel: &Kernel, binds: &BindGroup, workgroups: usize) -> Vec<Command> {
        let tokens = (0..TOKENS).step_by(self.tokens_per_dispatch());
        tokens.map(|token| Command::token(kernel, binds, token, workgroups)).collect()
    }

    fn tokens_per_dispatch(&self) -> usize {
        if self.is_software() { 1 } else { TOKENS }
    }

    /// Whether the CPU does the work.
    pub(crate) fn is_software(&self) -> bool {
        self.device.adapter_info().device_type == wgpu::DeviceType::Cpu
    }

    /// The bind group of `kernel`, with whole storage buffers.
    pub(crate) fn bind(&self, kernel: &Kernel, buffers: &[(u32, &Buffer)]) -> BindGroup {
        let entries: Vec<BindGroupEntry<'_>> = buffers
            .iter()
            .map(|(binding, buffer)| {
                // A uniform is a slot of the buffer, chosen by each dispatch.
                let size = buffer.usage().contains(BufferUsages::UNIFORM).then_some(SLOT).and_then(NonZeroU64::new);
                let resource = BindingResource::Buffer(BufferBinding { buffer, offset: 0, size });
                BindGroupEntry { binding: *binding, resource }
            })
            .collect();
        self.device.create_bind_group(&BindGroupDescriptor { label: None, layout: &kernel.layout, entries: &entries })
    }

    /// Runs a program to its end.
    pub(crate) async fn run(&self, program: &Program) {
        self.run_while(program, &|| true).await;
    }

    /// Submits of a program that were made before `go_on` said no; it is asked in front of each.
    pub(crate) async fn run_while(&self, program: &Program, go_on: &dyn Fn() -> bool) -> usize {
        let mut done = 0;
        for submit in program.submits.iter().take_while(|_| go_on()) {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            record(&mut encoder, submit);
            self.queue.submit([encoder.finish()]);
            if program.waits {
                self.idle().await;
            }
            done += 1;
        }
        if !program.waits {
            self.idle().await;
        }
        done
    }

    /// Waits for everything that was submitted.
    async fn idle(&self) {
        let done = Signal::new();
        let tell = done.teller();
        self.queue.on_submitted_work_done(move || tell(()));
        self.poll();
        done.wait().await;
    }

    /// Waits for the device. In a browser this does nothing, and the event loop calls back.
    fn poll(&self) {
        // A lost device says so in the callbacks, too.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    /// The words of a buffer.
    pub(crate) async fn read(&self, buffer: &Buffer) -> Result<Vec<u32>, FusionError> {
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        let size = buffer.size();
        let copy =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, size);
        self.queue.submit([encoder.finish()]);
        let mapped = Signal::new();
        copy.map_async(wgpu::MapMode::Read, .., mapped.teller());
        self.poll();
        let failed = |error: &dyn std::fmt::Display| FusionError::Device(error.to_string());
        mapped.wait().await.map_err(|error| failed(&error))?;
        let view = copy.get_mapped_range(..).map_err(|error| failed(&error))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    /// What `work` makes, or what the device reports about it.
    pub(crate) async fn guarded<T>(&self, work: impl AsyncFnOnce() -> T) -> Result<T, FusionError> {
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
        let [internal, validation, memory] = filters.map(|filter| self.device.push_error_scope(filter));
        let made = work().await;
        let (memory, validation, internal) = (memory.pop().await, validation.pop().await, internal.pop().await);
        match memory.or(validation).or(internal) {
            Some(error) => Err(FusionError::Device(error.to_string())),
            None => Ok(made),
        }
    }
}

fn record(encoder: &mut wgpu::CommandEncoder, commands: &[Command]) {
    let mut left = commands;
    while let Some((first, rest)) = left.split_first() {
        if let Command::Clear(buffer) = first {
            encoder.clear_buffer(buffer, 0, None);
            left = rest;
            continue;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        while let Some((Command::Dispatch { pipeline, binds, offset, workgroups }, rest)) = left.split_first() {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, binds, &[*offset]);
            pass.dispatch_workgroups(*workgroups, 1, 1);
            left = rest;
        }
    }
}

/// Bytes from one token's uniform to the next: the largest offset alignment that WebGPU allows a device to ask for.
const SLOT: u64 = 256;
