//! The machine under a laptop's node: its clock, its device, its pieces.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use syn1_core::{Identity, Millis};
use syn1_identity::{Keys, nonce};
use syn1_kernels::engine::Engine as _;
use syn1_model::{Digest, Manifest};
use syn1_node::{Assignment, Host, Loaded, ModelInfo, NodeEvent, ProfileFigures, Progress, room};
use tokio::sync::{mpsc, watch};

use crate::cache::Cache;
use crate::device::{AnyEngine, Device};
use crate::fetch::Fetcher;
use crate::join::{Join, Way};
use crate::lane::{Lane, go_on};
use crate::measure;
use crate::pieces::{Gathered, Local, Origin, Place};
use crate::serve::{HostEvent, MAX_ROWS};
use crate::trust::Roots;

/// What outlives the connections of a node.
pub(crate) struct Laptop<'a> {
    pub(crate) join: Join,
    /// The authorities that vouch for the coordinator's HTTPS; none for those of the system.
    pub(crate) roots: RefCell<Roots>,
    pub(crate) keys: Keys,
    pub(crate) device: Device,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) weights: Option<Local>,
    pub(crate) cache: Cache,
    pub(crate) events: &'a dyn Fn(HostEvent),
    pub(crate) stopped: watch::Receiver<bool>,
    /// The manifest that was fetched last, and the digest it was asked for by.
    pub(crate) manifest: RefCell<Option<(Digest, Arc<Manifest>)>>,
    /// Where the network and the disk are waited for.
    pub(crate) transfers: Lane,
    /// Where the device is at work.
    pub(crate) driver: Lane,
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

    async fn wait_us(&self, us: u64) {
        let end = Instant::now() + Duration::from_micros(us);
        if us >= TIMER_US {
            return tokio::time::sleep_until(end.into()).await;
        }
        // The runtime looks at the socket between two turns.
        while Instant::now() < end {
            tokio::task::yield_now().await;
        }
    }

    async fn stopped(&self) {
        if self.stopped.clone().wait_for(|stop| *stop).await.is_err() {
            // Nobody is left who could stop this node.
            std::future::pending().await
        }
    }

    fn identity(&self) -> &dyn Identity {
        &self.keys
    }

    fn nonce(&self) -> Result<[u8; 32], String> {
        nonce().map_err(|err| err.to_string())
    }

    async fn profile(&self, model: &ModelInfo) -> Result<ProfileFigures, String> {
        let manifest = self.manifest(model).await?;
        // What an earlier connection was loading would count as taken.
        self.transfers.idle().await;
        let device = self.device.clone();
        // More than the whole model and its KV caches is of no use here, and probing for it disturbs the owner.
        let useful = manifest.total_bytes().saturating_mul(2).saturating_add(ROOM_FOR_KV_BYTES);
        let rows = room::row_bytes(&manifest.spec, MAX_ROWS.into());
        let most = useful.min(self.memory_limit_bytes.unwrap_or(u64::MAX)).saturating_add(rows);
        let measured = self.driver.run(move |cancelled| {
            let speed = measure::speed(&device, &manifest.spec, manifest.format, cancelled);
            let speed = tokio::runtime::Handle::current().block_on(speed).map_err(|err| err.to_string())?;
            go_on(cancelled)?;
            Ok((device.memory_bytes(most).map_err(|err| err.to_string())?, speed))
        });
        let (memory_bytes, measure::Speed { read_bytes_per_s, layer_ns }) = measured.await?;
        let memory_bytes = memory_bytes.saturating_sub(rows);
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
        let plan = room::plan(&manifest, assignment, self.offered_bytes.get())?;
        // What an earlier assignment was getting or building holds its memory until it is gone.
        self.driver.idle().await;
        self.transfers.idle().await;
        if let Some(free) = self.device.staging_bytes()
            && plan.weight_bytes() > free
        {
            let (layers, needed) = (&plan.layers, plan.weight_bytes());
            return Err(format!(
                "layers {layers:?} pass through this machine's memory on their way to the GPU: \
                 {needed} bytes are needed, {free} are free"
            ));
        }
        let local = self.weights.as_ref().map(|local| local.having(manifest.format)).transpose();
        let origin = match local.map_err(|err| err.to_string())? {
            Some(Place::Model(folder)) => Origin::Folder(folder),
            local => {
                let beside = if let Some(Place::Pieces(folder)) = local { Some(folder) } else { None };
                let fetcher = self.fetcher(model);
                Origin::Coordinator { cache: self.cache.clone(), fetcher, beside }
            }
        };
        let (told, mut news) = mpsc::unbounded_channel();
        let shard = plan.clone();
        let work = self.transfers.run(move |cancelled| {
            // Nobody listens any more when the assignment was replaced; the work then ends by `cancelled`.
            let progress = |at| drop(told.send(News::Progress(at)));
            let notice = |text| drop(told.send(News::Notice(text)));
            origin.gather(&shard, &manifest, &progress, &notice, cancelled).map_err(|err| err.to_string())
        });
        let mut work = std::pin::pin!(work);
        let Gathered { pieces, fetched_bytes } = loop {
            tokio::select! {
                biased;
                Some(news) = news.recv() => match news {
                    News::Progress(at) => progress(at),
                    News::Notice(text) => (self.events)(HostEvent::Notice(text)),
                },
                done = &mut work => break done?,
            }
        };
        let (device, config) = (self.device.clone(), assignment.engine);
        let built = self.driver.run(move |cancelled| {
            go_on(cancelled)?;
            device.step_engine(plan, &pieces, config).map_err(|err| err.to_string())
        });
        let mut engine = built.await?;
        let steps = WARM_UP_STEPS.min(assignment.engine.max_positions);
        let layer_ns = syn1_kernels::measure::layer_ns(&mut engine, steps).await.map_err(|err| err.to_string())?;
        tracing::debug!(device = engine.device(), layer_ns, "engine warm");
        Ok(Loaded { engine, fetched_bytes, layer_ns })
    }

    fn event(&self, event: NodeEvent) {
        (self.events)(HostEvent::Node(event));
    }
}

impl Laptop<'_> {
    /// Where the model's files come from: the port that the node has joined at, if that is an HTTP port, else the one that the
    /// coordinator has named; encrypted if the link is.
    fn fetcher(&self, model: &ModelInfo) -> Fetcher {
        let join = &self.join;
        match join.way() {
            Way::Tcp => Fetcher::plain(&format!("{}:{}", join.host(), model.http_port)),
            Way::Tls => Fetcher::tls(&format!("{}:{}", join.host(), model.http_port), self.roots.borrow().as_deref()),
            Way::Ws => Fetcher::plain(&join.authority()),
            Way::Wss => Fetcher::tls(&join.authority(), self.roots.borrow().as_deref()),
        }
    }

    /// The manifest of the announced model, checked against the announcement.
    async fn manifest(&self, model: &ModelInfo) -> Result<Arc<Manifest>, String> {
        let digest = Digest(model.manifest_sha256);
        let known =
            self.manifest.borrow().as_ref().filter(|(known, _)| *known == digest).map(|(_, known)| known.clone());
        let manifest = match known {
            Some(manifest) => manifest,
            None => {
                let fetcher = self.fetcher(model);
                let fetched = self
                    .transfers
                    .run(move |cancelled| fetcher.manifest(digest, cancelled).map_err(|err| err.to_string()));
                let manifest = Manifest::from_bytes(&fetched.await?).map_err(|err| err.to_string())?;
                let manifest = Arc::new(manifest);
                *self.manifest.borrow_mut() = Some((digest, manifest.clone()));
                manifest
            }
        };
        // Also for a known one: the same digest may be announced with other numbers.
        model.check(&manifest.spec)?;
        Ok(manifest)
    }
}

/// What a transfer tells while it runs.
enum News {
    Progress(Progress),
    Notice(String),
}

/// What KV caches may take beside a small model's weights.
const ROOM_FOR_KV_BYTES: u64 = 4 << 30;
/// Waits from here on are left to the runtime's timer, whose unit is a millisecond.
const TIMER_US: u64 = 2_000;
/// Steps that warm an engine up and time its layers.
const WARM_UP_STEPS: usize = 8;

#[cfg(test)]
mod tests {
    use syn1_kernels::engine::EngineConfig;
    use syn1_model::manifest::Origin;
    use syn1_model::{Spec, WeightFormat};

    use super::*;
    use crate::device::DeviceChoice;

    /// A node that knows the manifest of a model of two layers already, and would find nobody to fetch anything from.
    fn laptop(dir: &tempfile::TempDir) -> Laptop<'static> {
        let spec = Spec { layers: 2, ..Spec::gpt2_124m() };
        let (version, format) = (Manifest::VERSION, WeightFormat::F16);
        let origin = Origin { config_sha256: Digest::of(b"{}"), files: Vec::new(), calibration: None };
        let (name, pieces) = ("tiny".into(), Vec::new());
        let manifest = Manifest { version, name, spec, format, origin, pieces, tokenizer: false };
        Laptop {
            keys: Keys::from_secret(&[1; 32]),
            join: "tcp://127.0.0.1:1".parse().unwrap(),
            roots: RefCell::default(),
            device: Device::open(&DeviceChoice::Cpu, Some(1)).unwrap(),
            memory_limit_bytes: None,
            weights: None,
            cache: Cache::open(dir.path(), u64::MAX).unwrap(),
            events: &|_| {},
            stopped: watch::channel(false).1,
            manifest: RefCell::new(Some((Digest([7; 32]), Arc::new(manifest)))),
            transfers: Lane::default(),
            driver: Lane::default(),
            offered_bytes: Cell::new(1000),
            begin: Instant::now(),
        }
    }

    fn model(layers: u16) -> ModelInfo {
        let (name, manifest_sha256) = ("tiny".to_owned(), [7; 32]);
        ModelInfo { name, manifest_sha256, http_port: 1, width: 768, vocab: 50_257, layers }
    }

    async fn refusal(laptop: &Laptop<'_>, model: &ModelInfo, layers: std::ops::Range<usize>) -> String {
        let engine = EngineConfig { max_positions: 32, slots: 2, max_rows: 8 };
        let assignment = Assignment { generation: 1, layers, engine };
        match laptop.load(model, &assignment, &|_| {}).await {
            Err(cause) => cause,
            Ok(_) => panic!("there is nothing to load"),
        }
    }

    #[tokio::test]
    async fn a_known_manifest_is_compared_with_every_announcement() {
        let dir = tempfile::tempdir().unwrap();
        let text = refusal(&laptop(&dir), &model(9), 0..9).await;
        assert_eq!(text, "the manifest's number of layers is 2, the coordinator announced 9");
    }

    #[tokio::test]
    async fn layers_outside_the_manifest_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = refusal(&laptop(&dir), &model(2), 1..3).await;
        assert_eq!(text, "layers 1..3 are no range of the manifest's 2");
    }

    #[tokio::test]
    async fn a_shard_that_does_not_fit_is_declined_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let text = refusal(&laptop(&dir), &model(2), 0..1).await;
        assert!(text.contains("2 KV caches") && text.ends_with("this node offers 1000"), "{text}");
    }
}
