//! What computes on this machine: a GPU through wgpu, or the CPU.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;

use pollster::block_on;
use syn1_kernels::TokenTimes;
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Slot, Step, StepResult};
use syn1_kernels::gpu::{self, GpuDevice, GpuEngine, GpuOptions, LoopTimes, OpenError, Persistence, RoundTrip};
use syn1_model::{PieceBytes, Plan};

use crate::tuned::with_tuning;

pub use syn1_kernels::gpu::AdapterLine;

/// Which device a person wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best real GPU, else the CPU.
    #[default]
    Auto,
    /// The best GPU; an error where there is none.
    Gpu,
    /// The CPU.
    Cpu,
    /// The adapter with this number in [`adapters`], or with this in its name.
    Adapter(String),
}

impl FromStr for DeviceChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "gpu" => Self::Gpu,
            "cpu" => Self::Cpu,
            other => Self::Adapter(other.to_owned()),
        })
    }
}

impl std::fmt::Display for DeviceChoice {
    /// What [`FromStr`] reads back.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
            Self::Adapter(adapter) => adapter,
        })
    }
}

/// An opened device, ready to build engines. Clones share it.
#[derive(Clone, Debug)]
pub struct Device {
    kind: Kind,
    name: String,
    line: String,
    /// Whether a GPU's kernels are chosen by measuring; where what is measured is kept.
    tuning: Option<Option<PathBuf>>,
}

#[derive(Clone, Debug)]
enum Kind {
    Cpu { threads: usize },
    Gpu(Box<GpuDevice>),
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such GPU, or it does not open.
    #[error("{0}; `--device cpu` computes on the CPU")]
    Gpu(#[from] OpenError),
}

/// Either engine.
pub enum AnyEngine {
    /// On the CPU.
    Cpu(Box<CpuEngine>),
    /// On a GPU.
    Gpu(Box<GpuEngine>),
}

impl Device {
    /// Opens what is wanted. `threads` is for the CPU: nothing means one a core.
    ///
    /// # Errors
    /// When a GPU is demanded that is not there. `auto` never fails.
    pub fn open(choice: &DeviceChoice, threads: Option<usize>) -> Result<Self, DeviceError> {
        let selector = match choice {
            DeviceChoice::Cpu => return Ok(Self::cpu(threads, "")),
            DeviceChoice::Auto => "auto",
            DeviceChoice::Gpu => "gpu",
            DeviceChoice::Adapter(selector) => selector,
        };
        match GpuDevice::open(selector) {
            Ok(gpu) => {
                let name = gpu.name().to_owned();
                Ok(Self { line: format!("computing on {name}"), name, kind: Kind::Gpu(Box::new(gpu)), tuning: None })
            }
            Err(cause) if *choice == DeviceChoice::Auto => Ok(Self::cpu(threads, &why_not(&cause))),
            Err(err) => Err(err.into()),
        }
    }

    fn cpu(threads: Option<usize>, why: &str) -> Self {
        let all = || std::thread::available_parallelism().map_or(1, |count| count.get());
        let threads = threads.unwrap_or_else(all).max(1);
        let all = syn1_kernels::cpu::describe();
        // The engine's own name, `cpu (2 threads, AVX-512)`, with this number of threads.
        let name = all.split_once(", ").map(|(_, rest)| format!("cpu ({}, {rest}", count(threads)));
        let line = format!("{why}computing on the CPU, {}", count(threads));
        Self { kind: Kind::Cpu { threads }, name: name.unwrap_or(all), line, tuning: None }
    }

    /// One line for people: `no GPU adapter: computing on the CPU, 2 threads`.
    pub fn describe(&self) -> &str {
        &self.line
    }

    /// The device's name in listings, which its engines bear as well: `cpu (2 threads, AVX-512)`, `NVIDIA H200 (Vulkan)`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of weights and KV caches that fit, `most` at most, found by allocating.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn memory_bytes(&self, most: u64) -> Result<u64, EngineError> {
        let machine = || syn1_kernels::cpu::memory_bytes().min(most);
        match &self.kind {
            Kind::Cpu { .. } => Ok(machine()),
            // A software adapter allocates from the machine's memory, and gets more than there is.
            Kind::Gpu(gpu) if gpu.is_software() => block_on(gpu::memory_bytes(gpu, machine())),
            Kind::Gpu(gpu) => block_on(gpu::memory_bytes(gpu, most)),
        }
    }

    /// Bytes of this machine's memory that are free for pieces on their way to the device; nothing for the CPU, which
    /// keeps them where they are.
    pub(crate) fn staging_bytes(&self) -> Option<u64> {
        matches!(self.kind, Kind::Gpu(_)).then(syn1_kernels::cpu::memory_bytes)
    }

    /// Rows of a prompt that it takes at a time while nobody else waits for it: as many as its matrix units want, few enough
    /// on a CPU that whoever gives up waiting is soon heard.
    pub fn prompt_rows(&self) -> usize {
        match &self.kind {
            Kind::Gpu(gpu) if !gpu.is_software() => 512,
            Kind::Gpu(_) | Kind::Cpu { .. } => 64,
        }
    }

    /// Bytes per second that the device reads; the CPU from a buffer of `bytes`, whose size decides which cache it is in.
    ///
    /// # Errors
    /// When the GPU fails, or the machine has no room for the buffer or no thread.
    pub fn read_bandwidth(&self, bytes: u64) -> Result<u64, EngineError> {
        match &self.kind {
            Kind::Cpu { threads } => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Ok(syn1_kernels::cpu::read_bandwidth(bytes, *threads)? as u64)
            }
            Kind::Gpu(gpu) => block_on(gpu::read_bandwidth(gpu)),
        }
    }

    /// What it costs to have a GPU do something, however little; nothing for the CPU.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn round_trip(&self, times: usize) -> Result<Option<RoundTrip>, EngineError> {
        match &self.kind {
            Kind::Cpu { .. } => Ok(None),
            Kind::Gpu(gpu) => block_on(gpu::round_trip(gpu, times)).map(Some),
        }
    }

    /// The same device, whose engines take the kernels that are the fastest on it: those that `folder` has on record, and for
    /// other shapes of products what a measurement of some tenths of a second finds, which `folder` then keeps. Without it all
    /// engines take the usual kernels and measure nothing.
    #[must_use]
    pub fn tuned(self, folder: Option<PathBuf>) -> Self {
        Self { tuning: Some(folder), ..self }
    }

    /// Builds the engine of a layer range from its pieces, in the order of `plan.pieces`.
    ///
    /// # Errors
    /// Those of the engine: no memory, a piece that does not fit, a model that its kernels cannot do.
    pub fn engine(&self, plan: Plan, pieces: &[PieceBytes], config: EngineConfig) -> Result<AnyEngine, EngineError> {
        self.engine_with(plan, pieces, config, GpuOptions::default())
    }

    /// As [`Device::engine`], for a node, which has one token row again and again: a tuned GPU also measures whether that goes
    /// through the layers faster in one dispatch, which can take a second or two.
    ///
    /// # Errors
    /// As [`Device::engine`].
    pub fn step_engine(
        &self,
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
    ) -> Result<AnyEngine, EngineError> {
        let options = GpuOptions { steps: Persistence::Measured, ..GpuOptions::default() };
        self.engine_with(plan, pieces, config, options)
    }

    /// As [`Device::engine`], for a token loop that runs for long: a tuned GPU also measures whether that goes faster in one
    /// dispatch, which can take a second or two.
    ///
    /// # Errors
    /// As [`Device::engine`].
    pub fn loop_engine(
        &self,
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
    ) -> Result<AnyEngine, EngineError> {
        let options = GpuOptions { persist: Persistence::Measured, ..GpuOptions::default() };
        self.engine_with(plan, pieces, config, options)
    }

    fn engine_with(
        &self,
        plan: Plan,
        pieces: &[PieceBytes],
        config: EngineConfig,
        options: GpuOptions,
    ) -> Result<AnyEngine, EngineError> {
        let gpu = match &self.kind {
            Kind::Cpu { threads } => {
                let engine = CpuEngine::new(plan, pieces, config, Some(*threads))?;
                return Ok(AnyEngine::Cpu(Box::new(engine)));
            }
            Kind::Gpu(gpu) => gpu,
        };
        let engine = match &self.tuning {
            None => GpuEngine::new(gpu, plan, pieces, config)?,
            Some(folder) => {
                let tuned = |tuning: &mut _| GpuEngine::tuned(gpu, plan, pieces, config, options, tuning);
                with_tuning(gpu, folder.as_deref(), tuned)?
            }
        };
        Ok(AnyEngine::Gpu(Box::new(engine)))
    }
}

impl AnyEngine {
    /// Where the time goes for a token at `position`, op by op: see [`GpuEngine::op_times`] and [`CpuEngine::op_times`].
    ///
    /// # Errors
    /// As there.
    pub fn op_times(&mut self, position: usize, samples: usize) -> Result<TokenTimes, EngineError> {
        match self {
            Self::Cpu(engine) => engine.op_times(position, samples),
            Self::Gpu(engine) => engine.op_times(position, samples),
        }
    }

    /// Where the time of the loop in one dispatch goes for tokens from `position` on: see [`GpuEngine::loop_times`]. Nothing
    /// where the loop is no single dispatch.
    ///
    /// # Errors
    /// As [`GpuEngine::loop_times`].
    pub fn loop_times(&mut self, position: usize, samples: usize) -> Result<Option<LoopTimes>, EngineError> {
        match self {
            Self::Cpu(_) => Ok(None),
            Self::Gpu(engine) => engine.loop_times(position, samples),
        }
    }

    /// Whether the token loop runs many tokens in one dispatch.
    pub fn in_one_dispatch(&self) -> bool {
        match self {
            Self::Cpu(_) => false,
            Self::Gpu(engine) => engine.in_one_dispatch(),
        }
    }
}

impl Engine for AnyEngine {
    fn plan(&self) -> &Plan {
        match self {
            Self::Cpu(engine) => engine.plan(),
            Self::Gpu(engine) => engine.plan(),
        }
    }

    fn device(&self) -> &str {
        match self {
            Self::Cpu(engine) => engine.device(),
            Self::Gpu(engine) => engine.device(),
        }
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        match self {
            Self::Cpu(engine) => engine.open(),
            Self::Gpu(engine) => engine.open(),
        }
    }

    fn close(&mut self, slot: Slot) {
        match self {
            Self::Cpu(engine) => engine.close(slot),
            Self::Gpu(engine) => engine.close(slot),
        }
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        match self {
            Self::Cpu(engine) => engine.run(step, out).await,
            Self::Gpu(engine) => engine.run(step, out).await,
        }
    }

    async fn run_many(&mut self, steps: &[Step<'_>], out: &mut Vec<f32>, results: &mut Vec<StepResult>) {
        match self {
            Self::Cpu(engine) => engine.run_many(steps, out, results).await,
            Self::Gpu(engine) => engine.run_many(steps, out, results).await,
        }
    }

    async fn decode(
        &mut self,
        decode: Decode<'_>,
        sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        match self {
            Self::Cpu(engine) => engine.decode(decode, sink).await,
            Self::Gpu(engine) => engine.decode(decode, sink).await,
        }
    }
}

/// The GPU adapters of this machine, software adapters among them.
pub fn adapters() -> Vec<AdapterLine> {
    GpuDevice::list()
}

fn count(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// Why `auto` takes the CPU, in front of the rest of the line.
fn why_not(cause: &OpenError) -> String {
    match cause {
        OpenError::NoAdapter => "no GPU adapter: ".to_owned(),
        OpenError::OnlySoftware(_) => "no GPU adapter but software ones, which are slower: ".to_owned(),
        // The driver's own words, which may be several lines.
        other => format!("{}: ", other.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use syn1_model::{Piece, Spec, WeightFormat, random_piece};

    use super::*;

    #[test]
    fn words_choose_kinds_and_anything_else_an_adapter() {
        let parse = |text: &str| text.parse::<DeviceChoice>().unwrap();
        assert_eq!(parse("auto"), DeviceChoice::Auto);
        assert_eq!(parse("gpu"), DeviceChoice::Gpu);
        assert_eq!(parse("cpu"), DeviceChoice::Cpu);
        assert_eq!(parse("1"), DeviceChoice::Adapter("1".to_owned()));
        assert_eq!(parse("H200"), DeviceChoice::Adapter("H200".to_owned()));
    }

    #[test]
    fn an_adapter_that_is_not_there_is_named_with_the_way_out() {
        let err = Device::open(&DeviceChoice::Adapter("Voodoo 2".to_owned()), None).unwrap_err().to_string();
        assert!(err.contains("Voodoo 2") || err.contains("no GPU adapter"), "{err}");
        assert!(err.contains("--device cpu"), "{err}");
    }

    #[test]
    fn the_cpu_needs_no_adapter_and_says_how_many_threads() {
        let device = Device::open(&DeviceChoice::Cpu, Some(2)).unwrap();
        assert_eq!(device.describe(), "computing on the CPU, 2 threads");
        assert_eq!(Device::open(&DeviceChoice::Cpu, Some(1)).unwrap().describe(), "computing on the CPU, 1 thread");
    }

    #[test]
    fn auto_always_finds_something() {
        assert!(Device::open(&DeviceChoice::Auto, None).unwrap().describe().contains("computing on"));
    }

    #[test]
    fn the_line_says_in_the_drivers_words_why_the_gpu_is_not_used() {
        let what = "no driver for this\n  kernel".to_owned();
        let cause = OpenError::Refused { adapter: "Voodoo 2".to_owned(), what };
        let line = Device::cpu(Some(2), &why_not(&cause)).line;
        assert_eq!(line, "Voodoo 2 could not be opened: no driver for this kernel: computing on the CPU, 2 threads");
    }

    #[test]
    fn the_cpu_bears_the_name_of_its_engines_with_any_number_of_threads() {
        let spec = Spec { layers: 3, ..Spec::gpt2_124m() };
        let spec = Spec { width: 32, heads: 2, kv_heads: 2, head_dim: 16, ffn: 64, ..spec };
        for threads in [None, Some(1), Some(3)] {
            let device = Device::open(&DeviceChoice::Cpu, threads).unwrap();
            let plan = Plan::new(&spec, WeightFormat::F16, 1..2);
            let piece = random_piece(&spec, WeightFormat::F16, Piece::Block(1), 1);
            let config = EngineConfig { max_positions: 8, slots: 1, max_rows: 1 };
            assert_eq!(device.engine(plan, &[piece], config).unwrap().device(), device.name());
        }
    }
}
