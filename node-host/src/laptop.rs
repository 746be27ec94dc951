//! The machine under a laptop's node: its clock, its device, its pieces.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use syn1_core::Millis;
use syn1_kernels::engine::Engine as _;
use syn1_model::{Digest, Manifest, ModelFolder, Plan};
use syn1_node::{Assignment, Host, Loaded, ModelInfo, NodeEvent, ProfileFigures, Progress};
use tokio::sync::{mpsc, watch};

use crate::cache::Cache;
use crate::device::{AnyEngine, Device};
use crate::fetch::Fetcher;
use crate::join::Join;
use crate::measure;
use crate::pieces::{Gathered, Origin};
use crate::serve::HostEvent;

/// What outlives the connections of a node.
pub(crate) struct Laptop<'a> {
    pub(crate) join: Join,
    pub(crate) device: Device,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) weights: Option<Arc<ModelFolder>>,
    pub(crate) cache: Cache,
    pub(crate) events: &'a dyn Fn(HostEvent),
    pub(crate) stopped: watch::Receiver<bool>,
    /// The manifest that was fetched last, and the digest it was asked for by.
    pub(crate) manifest: RefCell<Option<(Digest, Arc<Manifest>)>>,
    /// What the last profile offered.
    pub(crate) offered_bytes: Cell<u64>,
    /// Where the clock begins.
    pub(crate) begin: Instant,
}

impl Host for Laptop<'_> {
    type Engine = AnyEngine;

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, time: Millis) {
        match self.begin.checked_add(Duration::from_millis(time.0)) {
            // After a long step the runtime has yet to look at the socket: frames that wait there come before the clock.
            Some(instant) if instant <= Instant::now() => tokio::task::yield_now().await,
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }

    async fn stopped(&self) {
        if self.stopped.clone().wait_for(|stop| *stop).await.is_err() {
            // Nobody is left who could stop this node.
            std::future::pending().await
        }
    }

    async fn profile(&self, model: &ModelInfo) -> Result<ProfileFigures, String> {
        let manifest = self.manifest(model).await?;
        let device = self.device.clone();
        // More than the whole model and its KV caches is of no use here, and probing for it disturbs the owner.
        let useful = manifest.total_bytes().saturating_mul(2).saturating_add(ROOM_FOR_KV_BYTES);
        let most = useful.min(self.memory_limit_bytes.unwrap_or(u64::MAX));
        let measured = blocking(move |_| {
            let speed = measure::speed(&device, &manifest.spec, manifest.format);
            let speed = tokio::runtime::Handle::current().block_on(speed);
            speed.and_then(|speed| Ok((device.memory_bytes(most)?, speed))).map_err(|err| err.to_string())
        });
        let (memory_bytes, measure::Speed { read_bytes_per_s, layer_ns }) = measured.await?;
        self.offered_bytes.set(memory_bytes);
        Ok(ProfileFigures { device: self.device.name().to_owned(), memory_bytes, read_bytes_per_s, layer_ns })
    }

    async fn load(
        &self,
        model: &ModelInfo,
        assignment: &Assignment,
        progress: &dyn Fn(Progress),
    ) -> Result<Loaded<AnyEngine>, String> {
        let manifest = self.manifest(model).await?;
        let plan = Plan::new(&manifest.spec, manifest.format, assignment.layers.clone());
        let (weights, kv) = (plan.weight_bytes(), plan.kv_bytes_per_position());
        let kv = kv.saturating_mul(u64::try_from(assignment.engine.max_positions).unwrap_or(u64::MAX));
        let offered = self.offered_bytes.get();
        if weights.saturating_add(kv) > offered {
            let layers = &assignment.layers;
            return Err(format!(
                "layers {layers:?} need {weights} bytes of weights and {kv} of KV cache, this node offers {offered}"
            ));
        }
        let origin = match &self.weights {
            Some(folder) => Origin::Folder(folder.clone()),
            None => {
                let fetcher = Fetcher::new(self.join.host(), model.http_port);
                Origin::Coordinator { cache: self.cache.clone(), fetcher }
            }
        };
        let (told, mut news) = mpsc::unbounded_channel();
        let (device, config) = (self.device.clone(), assignment.engine);
        let work = blocking(move |cancelled| {
            // Nobody listens any more when the assignment was replaced; the work then ends by `cancelled`.
            let progress = |at| drop(told.send(News::Progress(at)));
            let notice = |text| drop(told.send(News::Notice(text)));
            let gathered = origin.gather(&plan, &manifest, &progress, &notice, cancelled);
            let Gathered { pieces, fetched_bytes } = gathered.map_err(|err| err.to_string())?;
            let engine = device.engine(plan, &pieces, config).map_err(|err| err.to_string())?;
            Ok::<_, String>((engine, fetched_bytes))
        });
        let mut work = std::pin::pin!(work);
        let (mut engine, fetched_bytes) = loop {
            tokio::select! {
                biased;
                Some(news) = news.recv() => match news {
                    News::Progress(at) => progress(at),
                    News::Notice(text) => (self.events)(HostEvent::Notice(text)),
                },
                done = &mut work => break done?,
            }
        };
        let steps = WARM_UP_STEPS.min(assignment.engine.max_positions);
        let layer_ns = measure::layer_ns(&mut engine, steps).await.map_err(|err| err.to_string())?;
        tracing::debug!(device = engine.device(), layer_ns, "engine warm");
        Ok(Loaded { engine, fetched_bytes, layer_ns })
    }

    fn event(&self, event: NodeEvent) {
        (self.events)(HostEvent::Node(event));
    }
}

impl Laptop<'_> {
    /// The manifest of the announced model, checked against the announcement.
    async fn manifest(&self, model: &ModelInfo) -> Result<Arc<Manifest>, String> {
        let digest = Digest(model.manifest_sha256);
        if let Some((known, manifest)) = &*self.manifest.borrow()
            && *known == digest
        {
            return Ok(manifest.clone());
        }
        let fetcher = Fetcher::new(self.join.host(), model.http_port);
        let bytes =
            blocking(move |cancelled| fetcher.manifest(digest, cancelled).map_err(|err| err.to_string())).await?;
        let manifest = Manifest::from_bytes(&bytes).map_err(|err| err.to_string())?;
        let spec = &manifest.spec;
        for (what, got, want) in [
            ("width", spec.width, usize::from(model.width)),
            ("vocabulary", spec.vocab, usize::try_from(model.vocab).unwrap_or(usize::MAX)),
            ("number of layers", spec.layers, usize::from(model.layers)),
        ] {
            if got != want {
                return Err(format!("the manifest's {what} is {got}, the coordinator announced {want}"));
            }
        }
        let manifest = Arc::new(manifest);
        *self.manifest.borrow_mut() = Some((digest, manifest.clone()));
        Ok(manifest)
    }
}

/// What a transfer tells while it runs.
enum News {
    Progress(Progress),
    Notice(String),
}

/// Runs `work` on a thread where it may block; it is told to end when the future is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    struct CancelOnDrop(Arc<AtomicBool>);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let guard = CancelOnDrop(Arc::default());
    let cancelled = guard.0.clone();
    let done = tokio::task::spawn_blocking(move || work(&cancelled)).await;
    drop(guard);
    done.unwrap_or_else(|err| Err(format!("a thread of this node failed: {err}")))
}

/// What KV caches may take beside a small model's weights.
const ROOM_FOR_KV_BYTES: u64 = 4 << 30;
/// Steps that warm an engine up and time its layers.
const WARM_UP_STEPS: usize = 8;
