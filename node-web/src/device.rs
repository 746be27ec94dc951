//! What computes in this tab: the browser's GPU, or the CPU as WebAssembly.

use std::ops::ControlFlow;
use std::rc::{Rc, Weak};

use serde::Deserialize;
use serde_json::{Value, json};
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Slot, Step, StepResult};
use syn1_kernels::gpu::{self, GpuDevice, GpuEngine, GpuOptions};
use syn1_model::Plan;
use web_time::Instant;

use crate::selftest;
use crate::signal::Signal;
use crate::taker::{Taker, Taking};

/// What the person wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice {
    /// A GPU that is no software and computes right, else the CPU.
    #[default]
    Auto,
    /// The GPU, whatever it is.
    Gpu,
    /// The CPU.
    Cpu,
}

/// What computes. A GPU is opened anew for every use, and closed behind it: a browser gives memory back when a device goes,
/// and not when its buffers are forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// The browser's GPU, with what is known of its name.
    Gpu {
        name: String,
        options: GpuOptions,
    },
    Cpu,
}

/// What was chosen, and why.
pub(crate) struct Chosen {
    pub(crate) device: Device,
    /// One line for people.
    pub(crate) line: String,
}

/// A GPU that is open. It is closed when this goes.
pub(crate) struct Open(Rc<GpuDevice>);

impl Open {
    pub(crate) fn gpu(&self) -> &GpuDevice {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.device().destroy();
    }
}

impl Device {
    /// Opens what is wanted and tests it. `name` is what the browser says of its adapter, `no_gpu` why it gives none; software makes kernels for several
    /// rows only with `tiles`; `told` gets what a page wants to know.
    ///
    /// # Errors
    /// A sentence, where the GPU is demanded and is not there or computes garbage.
    pub(crate) async fn choose(
        choice: Choice,
        name: &str,
        no_gpu: Option<&str>,
        tiles: bool,
        told: &dyn Fn(Value),
    ) -> Result<Chosen, String> {
        let on_cpu = |why: &str| Chosen { device: Self::Cpu, line: format!("{why}computing on the CPU, 1 thread") };
        if choice == Choice::Cpu {
            return Ok(on_cpu(""));
        }
        let name = if name.is_empty() { "a GPU without a name" } else { name };
        let tried = async {
            if let Some(why) = no_gpu {
                return Err(why.to_owned());
            }
            let open = Self::open(name).await?;
            if choice == Choice::Auto && open.0.is_software() {
                return Err(format!("{name} is software, which is slower"));
            }
            let options = GpuOptions { tiles: tiles || !open.0.is_software(), ..GpuOptions::default() };
            let begun = Instant::now();
            let tested = test(&open, options).await;
            let (worst, cause) = match &tested {
                Ok(worst) if *worst <= selftest::LIMIT => (Some(*worst), None),
                Ok(worst) => (
                    Some(*worst),
                    Some(format!("{name} computes wrong: its results are {:.0} % off", (worst * 100.0).min(1e9))),
                ),
                Err(error) => (None, Some(format!("{name} failed its test: {error}"))),
            };
            told(json!({
                "event": "selftest",
                "device": name,
                "passed": cause.is_none(),
                "worst": worst,
                "ms": begun.elapsed().as_millis() as u64,
                "cause": cause,
            }));
            match cause {
                Some(cause) => Err(cause),
                None => Ok(Chosen {
                    device: Self::Gpu { name: name.to_owned(), options },
                    line: format!("computing on {name}"),
                }),
            }
        };
        match tried.await {
            Ok(chosen) => Ok(chosen),
            Err(why) if choice == Choice::Auto => Ok(on_cpu(&format!("{why}: "))),
            Err(why) => Err(why),
        }
    }

    /// Opens the browser's GPU.
    ///
    /// # Errors
    /// What the browser said.
    pub(crate) async fn open(name: &str) -> Result<Open, String> {
        GpuDevice::request(name.to_owned()).await.map(Rc::new).map(Open).map_err(|error| error.to_string())
    }

    /// The device's name in listings.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Gpu { name, .. } => format!("{name} (WebGPU)"),
            Self::Cpu => syn1_kernels::cpu::describe(),
        }
    }

    /// Bytes that the device has room for, `most` at most.
    ///
    /// # Errors
    /// A sentence, when the GPU fails.
    pub(crate) async fn memory_bytes(&self, most: u64) -> Result<u64, String> {
        match self {
            Self::Gpu { name, .. } => {
                let open = Self::open(name).await?;
                gpu::memory_bytes(&open.0, most).await.map_err(|error| error.to_string())
            }
            Self::Cpu => Ok(most.min(MOST_IN_WASM)),
        }
    }

    /// Bytes per second that the device reads; the CPU from a buffer of `bytes`.
    ///
    /// # Errors
    /// A sentence, when the device fails.
    pub(crate) async fn read_bandwidth(&self, bytes: u64) -> Result<u64, String> {
        let read = match self {
            Self::Gpu { name, .. } => gpu::read_bandwidth(&Self::open(name).await?.0).await,
            Self::Cpu => {
                let bytes = usize::try_from(bytes.min(MOST_READ)).unwrap_or(usize::MAX);
                syn1_kernels::cpu::read_bandwidth(bytes, 1).map(|read| read as u64)
            }
        };
        read.map_err(|error| error.to_string())
    }

    /// Room for the weights of `plan`.
    ///
    /// # Errors
    /// When there is none, or the GPU fails.
    pub(crate) async fn taker(&self, plan: Plan) -> Result<Taker, EngineError> {
        match self {
            Self::Cpu => Ok(Taker::in_memory(plan)),
            Self::Gpu { name, options } => {
                let lost = |what| EngineError::Device { device: name.clone(), what };
                Taker::on_gpu(Self::open(name).await.map_err(lost)?, plan, *options).await
            }
        }
    }
}

/// The engine of a layer range, whose weights have all come.
///
/// # Errors
/// When there is no room or the kernels cannot run the model.
pub(crate) async fn engine(taker: Taker, config: EngineConfig, trouble: &Trouble) -> Result<TabEngine, EngineError> {
    let trouble = trouble.clone();
    match taker.end() {
        Taking::Memory(plan, pieces) => {
            let engine = CpuEngine::new(plan, &pieces, config, Some(1))?;
            Ok(TabEngine { kind: Kind::Cpu(Box::new(engine)), trouble })
        }
        Taking::Gpu(open, upload, options) => {
            let engine = GpuEngine::uploaded(upload, config, options)?;
            engine.settled().await?;
            Ok(TabEngine { kind: Kind::Gpu(Box::new(engine), open), trouble })
        }
    }
}

/// What an engine at work tells of its device.
#[derive(Clone, Default)]
pub(crate) struct Trouble {
    /// It will not compute again.
    pub(crate) failed: Signal,
    /// It has less room than was thought.
    pub(crate) short: Signal,
}

impl Trouble {
    /// Hears of an error.
    pub(crate) fn hear(&self, error: &EngineError) {
        match error {
            EngineError::Device { .. } => self.failed.raise(),
            EngineError::Memory { .. } => self.short.raise(),
            _ => {}
        }
    }
}

/// The worst case.
async fn test(open: &Open, options: GpuOptions) -> Result<f64, EngineError> {
    let mut worst: f64 = 0.0;
    for case in selftest::cases() {
        let mut gpu = GpuEngine::with_options(&open.0, case.plan.clone(), &case.pieces, case.config, options)?;
        gpu.settled().await?;
        let mut cpu = CpuEngine::new(case.plan, &case.pieces, case.config, Some(1))?;
        let right = selftest::logits(&mut cpu).await?;
        worst = worst.max(selftest::worst(&selftest::logits(&mut gpu).await?, &right));
    }
    Ok(worst)
}

/// Either engine.
pub(crate) struct TabEngine {
    kind: Kind,
    trouble: Trouble,
}

enum Kind {
    Cpu(Box<CpuEngine>),
    /// And its device, which goes last.
    Gpu(Box<GpuEngine>, Open),
}

impl TabEngine {
    fn seen<T>(&self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        done.inspect_err(|error| self.trouble.hear(error))
    }

    /// The GPU for as long as this engine has it; nothing on the CPU.
    pub(crate) fn gpu(&self) -> Weak<GpuDevice> {
        match &self.kind {
            Kind::Gpu(_, open) => Rc::downgrade(&open.0),
            Kind::Cpu(_) => Weak::new(),
        }
    }
}

impl Engine for TabEngine {
    fn plan(&self) -> &Plan {
        match &self.kind {
            Kind::Cpu(engine) => engine.plan(),
            Kind::Gpu(engine, _) => engine.plan(),
        }
    }

    fn device(&self) -> &str {
        match &self.kind {
            Kind::Cpu(engine) => engine.device(),
            Kind::Gpu(engine, _) => engine.device(),
        }
    }

    fn open(&mut self) -> Result<Slot, EngineError> {
        let opened = match &mut self.kind {
            Kind::Cpu(engine) => engine.open(),
            Kind::Gpu(engine, _) => engine.open(),
        };
        self.seen(opened)
    }

    fn close(&mut self, slot: Slot) {
        match &mut self.kind {
            Kind::Cpu(engine) => engine.close(slot),
            Kind::Gpu(engine, _) => engine.close(slot),
        }
    }

    async fn run(&mut self, step: Step<'_>, out: &mut Vec<f32>) -> Result<(), EngineError> {
        let done = match &mut self.kind {
            Kind::Cpu(engine) => engine.run(step, out).await,
            Kind::Gpu(engine, _) => engine.run(step, out).await,
        };
        self.seen(done)
    }

    async fn run_many(&mut self, steps: &[Step<'_>], out: &mut Vec<f32>, results: &mut Vec<StepResult>) {
        match &mut self.kind {
            Kind::Cpu(engine) => engine.run_many(steps, out, results).await,
            Kind::Gpu(engine, _) => engine.run_many(steps, out, results).await,
        }
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            self.trouble.hear(error);
        }
    }

    async fn decode(
        &mut self,
        decode: Decode<'_>,
        sink: impl FnMut(u32) -> ControlFlow<()> + Send,
    ) -> Result<(), EngineError> {
        let done = match &mut self.kind {
            Kind::Cpu(engine) => engine.decode(decode, sink).await,
            Kind::Gpu(engine, _) => engine.decode(decode, sink).await,
        };
        self.seen(done)
    }
}

/// Bytes of weights and KV caches that the CPU engine takes: WebAssembly addresses 4 GiB, and browsers on phones give less.
const MOST_IN_WASM: u64 = 1 << 30;

/// Bytes that the CPU's speed of reading is measured with at most: beyond a browser's share of the caches.
const MOST_READ: u64 = 64 << 20;
