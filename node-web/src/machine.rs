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
use crate::device::{self, Device, TabEngine, Trouble};
use crate::js;
use crate::pieces::{NotGathered, Source};
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
    /// What the engine says of its device.
    pub(crate) trouble: Trouble,
    /// The GPU of the engine at work.
    pub(crate) gpu: RefCell<Weak<GpuDevice>>,
    pub(crate) profiled: Cell<bool>,
    /// The manifest that was fetched last, and the digest it was asked for by.
    pub(crate) manifest: RefCell<Option<(Digest, Rc<Manifest>)>>,
    /// What was measured, for a model of this shape.
    pub(crate) known: RefCell<Option<(String, ProfileFigures)>>,
    pub(crate) offered_bytes: Cell<u64>,
    /// Bytes that may be offered at most, as the device has turned out to have less room than it seemed.
    pub(crate) most_bytes: Cell<u64>,
    /// Bytes of the shard that is loaded.
    pub(crate) held_bytes: Cell<u64>,
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
        let mut figures = match known {
            Some(figures) => figures,
            None => self.measure(&manifest).await?,
        };
        figures.memory_bytes = figures.memory_bytes.min(self.most_bytes.get());
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
        let EngineConfig { max_positions, slots, .. } = assignment.engine;
        self.held_bytes.set(plan.weight_bytes().saturating_add(plan.kv_bytes(max_positions, slots)));
        let heard = |error: EngineError| {
            self.trouble.hear(&error);
            error.to_string()
        };
        let mut taker = self.device.taker(plan.clone()).await.map_err(heard)?;
        let gathered = self.source().gather(&plan, &manifest, &mut taker, &told).await;
        let fetched_bytes = gathered.map_err(|not| match not {
            NotGathered::Engine(error) => heard(error),
            NotGathered::Other(cause) => cause,
        })?;
        let mut engine = device::engine(taker, assignment.engine, &self.trouble).await.map_err(heard)?;
        *self.gpu.borrow_mut() = engine.gpu();
        let steps = WARM_UP_STEPS.min(assignment.engine.max_positions);
        let layer_ns = warm_layer_ns(&mut engine, steps).await?;
        Ok(Loaded { engine, fetched_bytes, layer_ns })
    }

    fn event(&self, event: NodeEvent) {
        if matches!(event, NodeEvent::Profiled(_)) {
            self.profiled.set(true);
        }
        let mut told = event.json();
        match event {
            // What a load has told already as it went on.
            NodeEvent::Loading(_) => return,
            // WebAssembly never gives memory back, so this is also the most that there was.
            NodeEvent::Ready { .. } => told["wasm_bytes"] = js::wasm_bytes().into(),
            _ => {}
        }
        (self.events)(told);
    }
}

impl Machine<'_> {
    /// There was less room than was offered: from now on less is. Says so.
    pub(crate) fn offer_less(&self) -> String {
        let held = self.held_bytes.get();
        // What was held did not fit; a shard of one layer less mostly does.
        let most = (held / 4 * 3).min(self.most_bytes.get());
        self.most_bytes.set(most);
        format!("there was no room for {held} bytes of weights and KV caches: joining again with less, {most} bytes")
    }

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
            let said = |error: EngineError| error.to_string();
            let mut taker = self.device.taker(plan).await.map_err(said)?;
            taker.whole(Piece::Block(1), piece).await.map_err(said)?;
            let mut engine = device::engine(taker, config, &self.trouble).await.map_err(said)?;
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
