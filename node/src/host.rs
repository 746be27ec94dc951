//! What a node needs from the machine it runs on: a clock, weights, an engine, and someone to tell.

use std::future::Future;
use std::ops::Range;

use syn1_core::{Identity, Millis};
use syn1_kernels::engine::{Engine, EngineConfig};
use syn1_model::Spec;

/// The machine under a node.
///
/// All methods take `&self`, because the clock runs while a shard is being loaded. A future that is dropped is cancelled:
/// the node drops [`Host::load`] when a newer assignment arrives. Where cancelled work takes a while to end, the next
/// [`Host::load`] waits for that before it takes memory: two shards at once may not fit.
// No `Send` bounds: a browser's futures are not `Send`, and a laptop's node owns a thread.
#[allow(async_fn_in_trait)]
pub trait Host {
    /// What computes here.
    type Engine: Engine;

    /// The time since some fixed moment; never goes back.
    fn now(&self) -> Millis;

    /// The same time in microseconds, for figures.
    fn elapsed_us(&self) -> u64;

    /// Waits until [`Host::now`] has reached `time`.
    async fn sleep_until(&self, time: Millis);

    /// Waits for `us` microseconds while frames come in, for others to be computed together with those that are there. A
    /// machine that cannot wait for so short a time does not wait at all, as here: it then computes what there is.
    async fn wait_us(&self, us: u64) {
        let _ = us;
    }

    /// Ready when the node should leave. Asked again and again, so it stays ready.
    async fn stopped(&self);

    /// The key that this node is known by and proves; [`Anonymous`](syn1_core::identity::Anonymous) for none.
    fn identity(&self) -> &dyn Identity;

    /// 32 random bytes that were never used before.
    ///
    /// # Errors
    /// One line that names the cause: without them nobody can prove anything.
    fn nonce(&self) -> Result<[u8; 32], String>;

    /// Measures what this machine offers for this model. Asked again when the coordinator announces another one; what was
    /// loaded for the one before is dropped by then.
    ///
    /// # Errors
    /// One line that names the cause; the node then leaves with it.
    async fn profile(&self, model: &ModelInfo) -> Result<ProfileFigures, String>;

    /// Gets the pieces of a layer range, verifies them, builds the engine and warms it up.
    ///
    /// # Errors
    /// One line that names the cause; the coordinator is told, and may assign something else.
    async fn load(
        &self,
        model: &ModelInfo,
        assignment: &Assignment,
        progress: &dyn Fn(Progress),
    ) -> Result<Loaded<Self::Engine>, String>;

    /// Told what happens, for people.
    fn event(&self, event: NodeEvent);
}

/// Who the node is in its Profile and what it can take.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name in listings; cut to 256 bytes on the wire.
    pub name: String,
    /// Program and version, for the peer's log.
    pub agent: &'static str,
    /// Bytes of a data frame's payload that the node accepts. The link's buffer must hold as much.
    pub max_payload: u32,
    /// Rows of a data frame that the node accepts.
    pub max_rows: u16,
    /// Data frames that the coordinator may send before the node is done with the first of them.
    pub credit: u16,
    /// The key that the coordinator must prove; nothing: any coordinator will do.
    pub expect: Option<[u8; 32]>,
}

/// The model that the coordinator serves, as it announced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of the manifest's bytes.
    pub manifest_sha256: [u8; 32],
    /// Port of the coordinator's HTTP server, on the host that was joined.
    pub http_port: u16,
    /// Elements of the residual stream.
    pub width: u16,
    /// Tokens.
    pub vocab: u32,
    /// Transformer blocks.
    pub layers: u16,
}

impl ModelInfo {
    /// Whether a manifest's model is the one that was announced, as far as frames depend on it.
    ///
    /// # Errors
    /// One line that names both numbers.
    pub fn check(&self, spec: &Spec) -> Result<(), String> {
        for (what, got, want) in [
            ("width", spec.width, usize::from(self.width)),
            ("vocabulary", spec.vocab, usize::try_from(self.vocab).unwrap_or(usize::MAX)),
            ("number of layers", spec.layers, usize::from(self.layers)),
        ] {
            if got != want {
                return Err(format!("the manifest's {what} is {got}, the coordinator announced {want}"));
            }
        }
        Ok(())
    }
}

/// What a machine offers for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileFigures {
    /// What computes, for people.
    pub device: String,
    /// Bytes of weights and KV caches that fit.
    pub memory_bytes: u64,
    /// Measured speed of reading weights, bytes per second.
    pub read_bytes_per_s: u64,
    /// Measured time of one layer for one token, nanoseconds.
    pub layer_ns: u64,
}

/// The shard that a node should serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Counts assignments; a higher one replaces the others.
    pub generation: u32,
    /// The layers.
    pub layers: Range<usize>,
    /// What the engine is sized for.
    pub engine: EngineConfig,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of verified or fetched pieces.
    pub done_bytes: u64,
    /// Bytes of all pieces of the shard.
    pub total_bytes: u64,
}

/// A shard that is ready to serve.
#[derive(Debug)]
pub struct Loaded<E> {
    /// The warm engine.
    pub engine: E,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
    /// Measured time of one layer of this shard for one token, nanoseconds.
    pub layer_ns: u64,
}

/// What happens to a node, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The coordinator's Hello came: both speak the same protocol.
    Met {
        /// The key that it has proved, if it has one.
        key: Option<[u8; 32]>,
    },
    /// The coordinator has said what it serves; again when that is another model than before.
    Joined {
        /// The model that the coordinator serves.
        model: String,
    },
    /// The machine was measured and the coordinator knows.
    Profiled(ProfileFigures),
    /// A layer range to serve.
    Assigned {
        /// Its generation.
        generation: u32,
        /// The layers.
        layers: Range<usize>,
        /// Layers of the whole model.
        of: usize,
    },
    /// Pieces are coming in.
    Loading(Progress),
    /// The shard is verified and warm; the coordinator knows.
    Ready {
        /// The layers.
        layers: Range<usize>,
        /// Bytes that came over the network.
        fetched_bytes: u64,
        /// Measured time of one layer for one token, nanoseconds.
        layer_ns: u64,
    },
    /// The shard could not be taken; the coordinator knows.
    Unable {
        /// Why.
        cause: String,
    },
    /// A newer assignment or another model replaces this one.
    Replaced {
        /// The generation that ends.
        generation: u32,
    },
    /// A request failed; the coordinator knows, others go on.
    RequestFailed {
        /// The request.
        request: u32,
        /// Why.
        cause: String,
    },
    /// The node says goodbye or was told to go.
    Left {
        /// Why.
        cause: String,
    },
}

/// Waits until `time`, as [`Host::sleep_until`], unless `other` is ready first.
pub(crate) async fn before<H: Host, F: Future>(host: &H, time: Millis, other: F) -> Option<F::Output> {
    let mut other = std::pin::pin!(other);
    let mut sleep = std::pin::pin!(host.sleep_until(time));
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(output) = other.as_mut().poll(cx) {
            return std::task::Poll::Ready(Some(output));
        }
        sleep.as_mut().poll(cx).map(|()| None)
    })
    .await
}
