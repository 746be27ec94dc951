//! The machine under a tab's node: its clock, its device, its pieces.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::Value;
use syn1_core::{Identity, Millis};
use syn1_identity::Keys;
use syn1_kernels::engine::{EngineConfig, EngineError};
use syn1_kernels::gpu::GpuDevice;
use syn1_kernels::measure::layer_ns;
use syn1_model::{Digest, Manifest, Piece, Plan, Spec, random_piece};
use syn1_node::{Assignment, Host, Loaded, ModelInfo, NodeEvent, ProfileFigures, Progress, room};
use web_time::Instant;

use crate::cache::Cache;
use crate::device::{Device, TabEngine};
use crate::js;
use crate::pieces::{Gathered, Source};
use crate::signal::Signal;
use crate::timer::sleep;

/// What outlives the connections of a node.
pub(crate) struct Machine<'a> {
    pub(crate) device: Device,
    pub(crate) keys: Keys,
    /// `https://host:port/shards`.
    pub(crate) shards: String,
    pub(crate) cache: Option<Cache>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) events: &'a dyn Fn(Value),
    /// The conversation is to end: the page said so, or the device has failed.
    pub(crate) leave: Signal,
    /// Raised by the engine.
    pub(crate) failed: Signal,
    /// The GPU of the engine at work.
    pub(crate) gpu: RefCell<Weak<GpuDevice>>,
    pub(crate) profiled: Cell<bool>,
    /// The manifest that was fetched last, and the digest it was asked for by.
    pub(crate) manifest: RefCell<Option<(Digest, Rc<Manifest>)>>,
    /// What was measured, for a model of this shape.
    pub(crate) known: RefCell<Option<(String, ProfileFigures)>>,
    pub(crate) offered_bytes: Cell<u64>,
    pub(crate) begin: Instant,
}

impl Host for Machine<'_> {
    type Engine = TabEngine;

    fn now(&self) -> Millis {
        Millis(self.begin.elapsed().as_millis() as u64)
    }

    fn elapsed_us(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }

    async fn sleep_until(&self, time: Millis) {
        // Also for a time that is over: the browser looks first at what came meanwhile.
        sleep(time.0.saturating_sub(self.now().0)).await;
    }

    async fn stopped(&self) {
        self.leave.wait().await;
    }

    fn identity(&self) -> &dyn Identity {
        &self.keys
    }

    fn nonce(&self) -> Result<[u8; 32], String> {
        random_bytes()
    }

    async fn profile(&self, model: &ModelInfo) -> Result<ProfileFigures, String> {
        let manifest = self.manifest(model).await?;
        let shape = format!("{:?} {:?}", Spec { layers: 1, ..manifest.spec.clone() }, manifest.format);
        let known = self.known.borrow().as_ref().filter(|(known, _)| *known == shape).map(|(_, known)| known.clone());
        let figures = match known {
            Some(figures) => figures,
            None => self.measure(&manifest).await?,
        };
        self.offered_bytes.set(figures.memory_bytes);
        *self.known.borrow_mut() = Some((shape, figures.clone()));
        Ok(figures)
    }

    async fn load(
        &self,
        model: &ModelInfo,
        assignment: &Assignment,
        progress: &dyn Fn(Progress),
    ) -> Result<Loaded<TabEngine>, String> {
        let manifest = self.manifest(model).await?;
        let plan = room::plan(&manifest, assignment, self.offered_bytes.get())?;
        let last = Cell::new(None::<Instant>);
        let told = |at: Progress| {
            progress(at);
            let soon = last.get().is_some_and(|last| last.elapsed() < TOLD_EVERY);
            if !soon || at.done_bytes == at.total_bytes {
                last.set(Some(Instant::now()));
                (self.events)(NodeEvent::Loading(at).json());
            }
        };
        let Gathered { pieces, fetched_bytes } = self.source().gather(&plan, &manifest, &told).await?;
        let mut engine = self.device.engine(plan, &pieces, assignment.engine, &self.failed).await?;
        drop(pieces);
        *self.gpu.borrow_mut() = engine.gpu();
        let steps = WARM_UP_STEPS.min(assignment.engine.max_positions);
        let layer_ns = warm_layer_ns(&mut engine, steps).await?;
        Ok(Loaded { engine, fetched_bytes, layer_ns })
    }

    fn event(&self, event: NodeEvent) {
        if matches!(event, NodeEvent::Profiled(_)) {
            self.profiled.set(true);
        }
        // What a load has told already as it went on.
        if !matches!(event, NodeEvent::Loading(_)) {
            (self.events)(event.json());
        }
    }
}

impl Machine<'_> {
    fn source(&self) -> Source<'_> {
        Source { base: &self.shards, cache: self.cache.as_ref(), event: self.events }
    }

    /// The manifest of the announced model, checked against the announcement.
    async fn manifest(&self, model: &ModelInfo) -> Result<Rc<Manifest>, String> {
        let digest = Digest(model.manifest_sha256);
        let known =
            self.manifest.borrow().as_ref().filter(|(known, _)| *known == digest).map(|(_, known)| known.clone());
        let manifest = match known {
            Some(manifest) => manifest,
            None => {
                let manifest = Rc::new(self.source().manifest(digest).await?);
                *self.manifest.borrow_mut() = Some((digest, manifest.clone()));
                manifest
            }
        };
        // Also for a known one: the same digest may be announced with other numbers.
        model.check(&manifest.spec)?;
        Ok(manifest)
    }

    async fn measure(&self, manifest: &Manifest) -> Result<ProfileFigures, String> {
        // A middle layer: it brings neither the embedding nor the head with it.
        let spec = Spec { layers: 3, ..manifest.spec.clone() };
        let plan = Plan::new(&spec, manifest.format, 1..2);
        let bytes = plan.weight_bytes();
        let read_bytes_per_s = self.device.read_bandwidth(bytes.saturating_mul(16)).await?.max(1);
        let layer_ns = if bytes > LARGEST_BLOCK_BYTES {
            // Making so many random weights takes longer than it is worth: a layer of this size is bound by its bytes.
            (bytes as f64 / read_bytes_per_s as f64 * 1e9) as u64
        } else {
            let piece = random_piece(&spec, manifest.format, Piece::Block(1), 1);
            let steps = STEPS.min(spec.max_positions);
            let config = EngineConfig { max_positions: steps, slots: 1, max_rows: 1 };
            let mut engine = self.device.engine(plan, &[piece], config, &self.failed).await?;
            warm_layer_ns(&mut engine, steps).await?
        };
        // More than the whole model and its KV caches is of no use here, and probing for it disturbs the owner.
        let useful = manifest.total_bytes().saturating_mul(2).saturating_add(ROOM_FOR_KV_BYTES);
        let rows = room::row_bytes(&manifest.spec, MAX_ROWS.into());
        let most = useful.min(self.memory_limit_bytes.unwrap_or_else(modest_bytes)).saturating_add(rows);
        let memory_bytes = self.device.memory_bytes(most).await?.saturating_sub(rows);
        Ok(ProfileFigures { device: self.device.name(), memory_bytes, read_bytes_per_s, layer_ns })
    }
}

/// Nanoseconds a layer, once the browser has compiled what the first step needs.
async fn warm_layer_ns(engine: &mut TabEngine, steps: usize) -> Result<u64, String> {
    let said = |error: EngineError| error.to_string();
    layer_ns(engine, 1).await.map_err(said)?;
    layer_ns(engine, steps).await.map_err(said)
}

/// 32 random bytes.
///
/// # Errors
/// A sentence.
pub(crate) fn random_bytes() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    let crypto = js::scope().crypto().map_err(|error| js::Refused::from(error).to_string())?;
    let drawn = crypto.get_random_values_with_u8_array(&mut bytes);
    drawn.map_err(|error| js::Refused::from(error).to_string())?;
    Ok(bytes)
}

/// What a tab offers if nobody says: half of what the browser tells of the machine's memory, or what any phone of the last
/// years has beside its other work.
fn modest_bytes() -> u64 {
    let navigator = js::scope().navigator();
    let gigabytes = js::property(&navigator, "deviceMemory").and_then(|memory| memory.as_f64());
    gigabytes.map_or(1 << 30, |gigabytes| (gigabytes * f64::from(1 << 29)) as u64)
}

/// How often a page is told of a download.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Rows of a data frame that a tab takes.
pub(crate) const MAX_ROWS: u16 = 512;
/// What KV caches may take beside a small model's weights.
const ROOM_FOR_KV_BYTES: u64 = 1 << 30;
/// Steps that warm an engine up and time its layers.
const WARM_UP_STEPS: usize = 8;
/// Steps that are timed: enough for a median, and few enough for the smallest context.
const STEPS: usize = 32;
/// A layer above this is not made of random numbers: WebAssembly makes them slowly.
const LARGEST_BLOCK_BYTES: u64 = 16 << 20;
