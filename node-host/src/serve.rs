//! A laptop's node from start to end: connect, serve, and come back when the coordinator went away.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use syn1_core::Reason;
use syn1_identity::{Key, Keys};
use syn1_model::FolderError;
use syn1_node::{Ended, NodeConfig, NodeError, NodeEvent};
use tokio::sync::{oneshot, watch};

use crate::cache::{Cache, CacheError};
use crate::connect::{AnyLink, Connector};
use crate::device::{Device, DeviceChoice, DeviceError};
use crate::join::Join;
use crate::lane::Lane;
use crate::laptop::Laptop;
use crate::pieces::Local;
use crate::trust::{Trust, TrustError};

/// What a laptop's node is told by its owner.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The coordinator.
    pub join: Join,
    /// Whom to take for the coordinator when `join` asks for TLS.
    pub trust: Trust,
    /// The node's name in listings.
    pub name: String,
    /// What the node proves who it is with.
    pub keys: Keys,
    /// The key that the coordinator must prove; nothing: any coordinator will do.
    pub expect: Option<Key>,
    /// What computes.
    pub device: DeviceChoice,
    /// Threads of the CPU engine; nothing for one a core.
    pub threads: Option<usize>,
    /// Whether a GPU's kernels are chosen by measuring, once for each shape of product; the cache keeps what was found.
    pub tune: bool,
    /// Where the weights lie on this machine: split folders, or a Hugging Face folder, which has every format. The first one
    /// that has the coordinator's format is taken; all but the first may come into being later. The first may also be a
    /// folder with some pieces, of which those that are missing come from the coordinator. Empty: all come from there.
    pub weights: Vec<PathBuf>,
    /// Where fetched pieces are kept; nothing for [`Cache::default_dir`].
    pub cache: Option<PathBuf>,
    /// Bytes of weights and KV caches that the node offers at most.
    pub memory_limit_bytes: Option<u64>,
    /// Whether to come back when the coordinator goes away.
    pub reconnect: bool,
}

/// What happens to a laptop's node, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostEvent {
    /// What computes, and why where that is not obvious.
    Device(String),
    /// A connection is being made.
    Connecting(Join),
    /// Something happened in the conversation.
    Node(NodeEvent),
    /// Something is not as it should be, and mends itself.
    Notice(String),
    /// The coordinator is gone; the node comes back after a pause.
    Retrying {
        /// Why it is gone.
        cause: String,
        /// The pause.
        pause: Duration,
    },
}

/// Why a laptop's node ended, if nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The device is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The local weights cannot be used.
    #[error(transparent)]
    Weights(#[from] FolderError),
    /// No thread, no runtime.
    #[error("cannot start the node's thread: {0}")]
    Thread(io::Error),
    /// The coordinator's name has no address.
    #[error("cannot resolve {host}: {cause}; check the name, or use the address that the coordinator prints")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        cause: String,
    },
    /// Nobody listens.
    #[error("nothing listens at {0}: start `syn1 coordinator` there first, or check the port")]
    Refused(Join),
    /// Nobody answers.
    #[error(
        "no answer from {join} within {seconds} s: is it on, in the same network, and does its firewall let the port through?"
    )]
    Silent {
        /// Who was asked.
        join: Join,
        /// How long.
        seconds: u64,
    },
    /// It cannot be made sure that this is the coordinator.
    #[error(
        "cannot trust the coordinator at {join}: {cause}; it prints its authority's fingerprint for --tls-fingerprint, and \
         gives its certificate at /ca.crt for --tls-ca"
    )]
    Untrusted {
        /// Who was asked.
        join: Join,
        /// What is missing.
        cause: String,
    },
    /// Whoever answers is no coordinator for this address.
    #[error("cannot join {join}: {what}")]
    NoCoordinator {
        /// Who was asked.
        join: Join,
        /// What it does, and what to do.
        what: String,
    },
    /// What is to be trusted cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Another failure to connect.
    #[error("cannot connect to {join}: {cause}")]
    Connect {
        /// To whom.
        join: Join,
        /// Why.
        cause: io::Error,
    },
    /// The coordinator does not want this node.
    #[error("the coordinator at {join} refused this node: {text}")]
    Unwanted {
        /// Who refused.
        join: Join,
        /// Its words.
        text: String,
    },
    /// The coordinator left with an error, and the node may not come back.
    #[error("the coordinator at {join} ended the connection: {text}")]
    Dismissed {
        /// Who.
        join: Join,
        /// Its words.
        text: String,
    },
    /// The conversation broke, and the node may not come back or it would break again.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node's thread is gone.
    #[error("the node's thread ended by itself: this is a bug of syn1, please report it with the lines above")]
    Died,
}

/// Serves the coordinator at `config.join` until `shutdown` is ready or the coordinator's work is done.
///
/// The node runs on a thread of its own, where the engine computes between two frames; `events` is called there. Dropping
/// the future stops the node as `shutdown` does and waits until its thread is gone, and nothing of it is at work on the
/// device any more (for 5 s at most): a program that ends while a GPU driver is still at work crashes in the driver's own
/// clean-up.
///
/// # Errors
/// When the device, the cache or the local weights cannot be used; when the *first* connection fails; when the coordinator
/// refuses this node; and with `reconnect` off when it goes away. Each is one line that names the cause and what to do.
pub async fn serve(
    config: HostConfig,
    events: impl Fn(HostEvent) + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), HostError> {
    let (done, ended) = oneshot::channel();
    let (owner, mut owned) = oneshot::channel::<()>();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HostError::Thread);
        let result = runtime.and_then(|runtime| {
            let result = runtime.block_on(async {
                let (stop, stopped) = watch::channel(false);
                let driver = Lane::default();
                let node = run(&config, &events, stopped, driver.clone());
                let leave = async {
                    tokio::select! {
                        () = shutdown => {}
                        _ = &mut owned => {}
                    }
                };
                let result = until(node, leave, stop).await;
                // The node is dropped, so what still runs was told to end: a part of it may take a moment.
                if tokio::time::timeout(DRIVER, driver.idle()).await.is_err() {
                    tracing::warn!("the device is still at work after {} s: leaving it", DRIVER.as_secs());
                }
                result
            });
            // A transfer that was cancelled ends at its next chunk, and holds no device: nobody has to wait for that.
            runtime.shutdown_background();
            result
        });
        // Nobody listens any more when the future was dropped.
        let _ = done.send(result);
    };
    let thread = std::thread::Builder::new().name("syn1-node".to_owned()).spawn(body).map_err(HostError::Thread)?;
    let _thread = NodeThread { owner: Some(owner), thread: Some(thread) };
    ended.await.unwrap_or(Err(HostError::Died))
}

/// Runs the node until it ends, or until it has said goodbye because `leave` was ready; it is dropped then.
async fn until(
    node: impl Future<Output = Result<(), HostError>>,
    leave: impl Future<Output = ()>,
    stop: watch::Sender<bool>,
) -> Result<(), HostError> {
    let mut node = std::pin::pin!(node);
    tokio::select! {
        biased;
        result = &mut node => return result,
        () = leave => {}
    }
    stop.send_replace(true);
    // A coordinator that takes no bytes must not keep its node from leaving.
    tokio::time::timeout(GOODBYE, node).await.unwrap_or(Ok(()))
}

/// The node's thread; gone when this is.
struct NodeThread {
    owner: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for NodeThread {
    fn drop(&mut self) {
        drop(self.owner.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own message.
            let _ = thread.join();
        }
    }
}

async fn run(
    config: &HostConfig,
    events: &dyn Fn(HostEvent),
    mut stopped: watch::Receiver<bool>,
    driver: Lane,
) -> Result<(), HostError> {
    let device = Device::open(&config.device, config.threads)?;
    events(HostEvent::Device(device.describe().to_owned()));
    let connector = Connector::new(&config.join, &config.trust)?;
    let weights = Local::open(&config.weights)?;
    let cache_dir = config.cache.clone().map_or_else(Cache::default_dir, Ok)?;
    let device = if config.tune { device.tuned(Some(cache_dir.clone())) } else { device };
    let cache = Cache::open(&cache_dir, Cache::DEFAULT_CAP_BYTES)?;
    let joined = Cell::new(false);
    let tell = |event| {
        if matches!(event, HostEvent::Node(NodeEvent::Profiled(_))) {
            joined.set(true);
        }
        events(event);
    };
    let laptop = Laptop {
        join: config.join.clone(),
        roots: RefCell::default(),
        keys: config.keys.clone(),
        device,
        memory_limit_bytes: config.memory_limit_bytes,
        weights,
        cache,
        events: &tell,
        stopped: stopped.clone(),
        manifest: RefCell::default(),
        transfers: Lane::default(),
        driver,
        offered_bytes: Cell::new(u64::MAX),
        begin: Instant::now(),
    };
    let node_config = NodeConfig {
        name: config.name.clone(),
        agent: concat!("syn1-node-host/", env!("CARGO_PKG_VERSION")),
        max_payload: MAX_PAYLOAD,
        max_rows: MAX_ROWS,
        credit: CREDIT,
        expect: config.expect.map(|key| key.0),
    };
    let mut pause = FIRST_PAUSE;
    let mut may_return = false;
    loop {
        events(HostEvent::Connecting(config.join.clone()));
        let link = tokio::select! {
            link = connector.connect() => link,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        let err = match link {
            Err(err) => err,
            Ok(link) => {
                let ended = match link {
                    AnyLink::Tcp(link) => syn1_node::run(link, &laptop, &node_config).await,
                    AnyLink::Ws(link) => syn1_node::run(link, &laptop, &node_config).await,
                    AnyLink::Tls(link, roots) => {
                        *laptop.roots.borrow_mut() = roots;
                        syn1_node::run(*link, &laptop, &node_config).await
                    }
                    AnyLink::Wss(link, roots) => {
                        *laptop.roots.borrow_mut() = roots;
                        syn1_node::run(*link, &laptop, &node_config).await
                    }
                };
                match outcome(config, ended) {
                    Outcome::Over(result) => return result,
                    Outcome::Lost(err) => err,
                }
            }
        };
        if joined.take() {
            // Before the first success a wrong address is likelier than a coordinator that comes back.
            may_return = config.reconnect;
            pause = FIRST_PAUSE;
        }
        if !may_return {
            return Err(err);
        }
        let jittered = pause.mul_f64(jitter());
        events(HostEvent::Retrying { cause: err.to_string(), pause: jittered });
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What a conversation's end means for the node.
enum Outcome {
    /// There is no point in coming back.
    Over(Result<(), HostError>),
    /// The coordinator may come back.
    Lost(HostError),
}

fn outcome(config: &HostConfig, ended: Result<Ended, NodeError>) -> Outcome {
    let join = config.join.clone();
    match ended {
        Ok(Ended::Stopped) => Outcome::Over(Ok(())),
        // Nobody that has proved to be the right one: it must not send the node away for good.
        Ok(Ended::Bye { text, open: false, .. }) if config.expect.is_some() => {
            Outcome::Lost(HostError::Dismissed { join, text: format!("before it proved its key: {text}") })
        }
        Ok(Ended::Bye { reason, text, open }) => match reason {
            Reason::Done if !open => {
                Outcome::Lost(HostError::Dismissed { join, text: format!("before its Hello: {text}") })
            }
            Reason::Done => Outcome::Over(Ok(())),
            // A node that is to go when its coordinator goes has done its work.
            Reason::Shutdown if !config.reconnect => Outcome::Over(Ok(())),
            Reason::Refused | Reason::Version | Reason::Replaced => {
                Outcome::Over(Err(HostError::Unwanted { join, text }))
            }
            _ => Outcome::Lost(HostError::Dismissed { join, text }),
        },
        Err(err @ (NodeError::Version { .. } | NodeError::WrongCoordinator { .. })) => Outcome::Over(Err(err.into())),
        Err(NodeError::Session(fatal)) if matches!(fatal.reason(), Reason::Version | Reason::Refused) => {
            Outcome::Over(Err(NodeError::Session(fatal).into()))
        }
        Err(err) => Outcome::Lost(err.into()),
    }
}

/// Between a half and one and a half: nodes that lost the same coordinator do not come back in one moment.
fn jitter() -> f64 {
    // The standard library's hasher is seeded at random, which is random enough for this.
    let bits = RandomState::new().hash_one(0) >> 11;
    0.5 + bits as f64 / (1_u64 << 53) as f64
}

/// Bytes of a data frame's payload that a laptop takes: 256 rows of width 4096 in f32, or the logits of a vocabulary of a
/// million.
pub(crate) const MAX_PAYLOAD: u32 = 4 << 20;
/// Rows of a data frame that a laptop takes.
pub(crate) const MAX_ROWS: u16 = 512;
/// Data frames that wait in the socket at most: enough that a prompt's chunks and several requests' tokens never wait for a
/// grant, few enough that they fit a socket's buffers.
const CREDIT: u16 = 64;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long the device may take to end what it is doing: an upload of some gigabytes, or a measurement.
const DRIVER: Duration = Duration::from_secs(5);
/// Pause before the first attempt to come back; doubled after each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause: a person who restarts a coordinator does not wait longer than this for the nodes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
