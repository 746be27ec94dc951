//! The coordinator with its sockets: one thread, one event loop, one lock around the [`Core`].
//!
//! Everything that moves a token runs on this thread, so a frame goes from one node's socket to the next one's without
//! waking another core.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use syn1_core::{Header, Millis, Negotiated};
use syn1_identity::{Key, KeyFileError, Keys};
use syn1_model::date::Date;
use syn1_model::plan::WeightFormat;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot};

use crate::access::{Access, Client};
use crate::audit::Checks;
use crate::core::{Action, Core, CoreConfig, NodeId, Refusal};
use crate::door::{Door, Quarantined};
use crate::feed::{Feed, Told};
use crate::front::{Front, JoinLink};
use crate::limits::{GOODBYE, MAX_LINKS, MAX_MEMBERS, MAX_STRANGERS, RETRY_AFTER};
use crate::metrics::Metrics;
use crate::prefix::Prefixes;
use crate::rate::Rate;
use crate::recovery::Recovery;
use crate::request::Generate;
use crate::store::{Change, KnownNode, Remembered, Store, StoreError};
use crate::tls::{Certificates, TlsError};
use crate::update::{Event, Evidence, Topology, Update};
use crate::watch::Watch;
use crate::{http, link};

/// Where the coordinator listens and what it serves.
pub struct ServerConfig {
    /// What it serves and how; `http_port` is filled in from the bound socket.
    pub core: CoreConfig,
    /// Folder of the split model: manifest and pieces.
    pub shards: PathBuf,
    /// Gets the model in one of the core's smaller formats.
    pub pack: Pack,
    /// For nodes, with TLS or without where the front has it.
    pub tcp: SocketAddr,
    /// For shards, people, programs, and nodes that join by WebSocket.
    pub http: SocketAddr,
    /// How the HTTP port meets the world.
    pub front: Front,
    /// What the coordinator proves who it is with.
    pub keys: Keys,
    /// The keys of the nodes that may join; empty: any node may, or any that knows the join code where there is one.
    pub allow: Vec<Key>,
    /// Who may ask over HTTP, and how much.
    pub access: Access,
    /// The folder of what is remembered over a restart; without one nothing is.
    pub state: Option<PathBuf>,
}

/// Splits the model in a format. It blocks for as long as that takes, on a thread of its own; an error is one line that
/// names the cause.
pub type Pack = Arc<dyn Fn(WeightFormat) -> Result<Packed, String> + Send + Sync>;

/// A split model.
pub struct Packed {
    /// Its folder: manifest and pieces.
    pub shards: PathBuf,
    /// SHA-256 of the manifest's file.
    pub manifest_sha256: [u8; 32],
}

/// A running coordinator. Dropping it shuts it down.
pub struct Server {
    shared: Arc<Shared>,
    tcp: SocketAddr,
    http: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error("cannot listen on {address} for {what}: {source}{}", hint(source))]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// `nodes (--tcp)` or `HTTP (--http)`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The HTTP port has no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What was remembered cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no join code.
    #[error("cannot make a join code: {0}")]
    Code(KeyFileError),
    /// The event loop could not be made.
    #[error("cannot start the coordinator's event loop: {0}")]
    Runtime(io::Error),
}

/// The updates of one request. Dropping it cancels the request.
pub struct Generation {
    id: u32,
    updates: mpsc::UnboundedReceiver<Update>,
    shared: Arc<Shared>,
    /// Of one that is answered over HTTP.
    _answering: Option<Arc<()>>,
}

/// What the tasks of one coordinator share.
pub(crate) struct Shared {
    pack: Pack,
    /// Largest payload a node may send: the bigger of a chunk of rows and the full logits.
    pub(crate) max_payload: u32,
    pub(crate) keys: Keys,
    pub(crate) door: Arc<Door>,
    pub(crate) front: Front,
    pub(crate) certificates: Option<Certificates>,
    http: SocketAddr,
    /// Places for links, and for such that have not said Hello.
    pub(crate) links: Arc<Semaphore>,
    pub(crate) strangers: Arc<Semaphore>,
    pub(crate) access: Access,
    pub(crate) metrics: Metrics,
    rate: Option<Mutex<Rate>>,
    /// Held by every link of a node that was let in.
    pub(crate) linked: Arc<()>,
    /// Held by every request that came over HTTP until its last word was taken.
    answering: Arc<()>,
    state: Mutex<State>,
    started: Instant,
    /// Seconds since 1970 at the start.
    since: u64,
    sooner: Notify,
    stop: Notify,
}

/// A node's link.
struct Linked {
    /// What it has proven to be.
    key: Option<Key>,
    outbox: mpsc::Sender<(Header, Vec<u8>)>,
}

struct State {
    core: Core,
    /// The folder that is served.
    shards: PathBuf,
    /// Formats that are to be packed.
    packs: mpsc::UnboundedSender<WeightFormat>,
    links: HashMap<NodeId, Linked>,
    door: Arc<Door>,
    store: Option<Arc<Store>>,
    /// Nodes that have been here, by their keys.
    known: BTreeMap<String, KnownNode>,
    requests: HashMap<u32, mpsc::UnboundedSender<Update>>,
    watch: Watch,
    watchers: Vec<mpsc::UnboundedSender<Event>>,
    /// The same for those who watch over HTTP.
    feed: Feed,
    /// The event loop has ended.
    over: bool,
}

impl Server {
    /// Binds both sockets and starts serving on a thread of its own.
    ///
    /// # Errors
    /// [`StartError::Bind`] names the address that is taken.
    pub fn start(mut config: ServerConfig) -> Result<Self, StartError> {
        let tcp = bind(config.tcp, "nodes (--tcp)")?;
        let http = bind(config.http, "HTTP (--http)")?;
        let (tcp_address, http_address) = (address(&tcp, config.tcp), address(&http, config.http));
        config.core.http_port = http_address.port();
        let certificates = Certificates::open(&config.front.tls, &config.front.names)?;
        let since = unix_seconds();
        let (store, remembered) = match &config.state {
            Some(folder) => Store::open(folder).map(|(store, remembered)| (Some(Arc::new(store)), remembered))?,
            None => (None, Remembered::default()),
        };
        let door = Door::new(config.allow, config.front.code.clone(), since, &remembered, store.clone());
        let door = Arc::new(door.map_err(StartError::Code)?);
        let mut core = Core::new(config.core);
        if let Some(placement) = &remembered.placement {
            core.return_to(placement);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Runtime)?;
        let (packs, asked) = mpsc::unbounded_channel();
        let metrics = Metrics::default();
        let max_payload = link::max_payload(core.config());
        let shared = Arc::new(Shared {
            max_payload,
            pack: config.pack,
            keys: config.keys,
            door: door.clone(),
            front: config.front,
            certificates,
            http: http_address,
            links: Arc::new(Semaphore::new(MAX_LINKS)),
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            rate: config.access.per_minute.map(|per_minute| Mutex::new(Rate::new(per_minute))),
            access: config.access,
            metrics: metrics.clone(),
            linked: Arc::new(()),
            answering: Arc::new(()),
            state: Mutex::new(State {
                core,
                shards: config.shards,
                packs,
                links: HashMap::new(),
                door: door.clone(),
                store,
                known: remembered.nodes,
                requests: HashMap::new(),
                watch: Watch::new(metrics),
                watchers: Vec::new(),
                feed: Feed::new(),
                over: false,
            }),
            started: Instant::now(),
            since,
            sooner: Notify::new(),
            stop: Notify::new(),
        });
        let serving = Serving(shared.clone());
        let main = move || runtime.block_on(serve(&serving.0, tcp, http, asked));
        let thread = std::thread::Builder::new().name("syn1-coordinator".into()).spawn(main);
        let thread = Some(thread.map_err(StartError::Runtime)?);
        Ok(Self { shared, tcp: tcp_address, http: http_address, thread })
    }

    /// Where nodes join.
    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Where shards and people are served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The link that brings a device in, as it is now.
    pub fn join_link(&self) -> JoinLink {
        self.shared.join_link()
    }

    /// Takes a request of this program's own; see [`Core::submit`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn generate(&self, ask: Generate) -> Result<Generation, Refusal> {
        self.shared.generate(Client::Local, ask)
    }

    /// The swarm as it is now.
    pub fn topology(&self) -> Topology {
        self.shared.look(Core::topology)
    }

    /// What came of spot checks since the start.
    pub fn checks(&self) -> Checks {
        self.shared.look(Core::checks)
    }

    /// What was lost and regained since the start.
    pub fn recovery(&self) -> Recovery {
        self.shared.look(Core::recovery)
    }

    /// What is kept of requests that are over, and what it was good for.
    pub fn prefixes(&self) -> Prefixes {
        self.shared.look(Core::prefixes)
    }

    /// What happens in the swarm from now on.
    pub fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.lock().watchers.push(sender);
        receiver
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own message.
            let _ = thread.join();
        }
    }
}

impl Generation {
    /// The next update; `None` after the last.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// [`next`](Self::next), for whoever waits for several.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.updates.poll_recv(context)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let id = self.id;
        self.shared.with_state(|state, now| {
            state.requests.remove(&id);
            state.watch.cancelled(id);
            state.core.cancel(now, id);
        });
    }
}

impl Shared {
    /// Runs one input on the core and does what follows from it.
    pub(crate) fn with<R>(&self, input: impl FnOnce(&mut Core, Duration) -> R) -> R {
        self.with_state(|state, now| input(&mut state.core, now))
    }

    fn with_state<R>(&self, input: impl FnOnce(&mut State, Duration) -> R) -> R {
        let mut state = self.lock();
        let now = self.started.elapsed();
        let before = state.core.next_tick(now);
        let result = input(&mut state, now);
        state.act(now);
        if state.core.next_tick(now) < before {
            self.sooner.notify_one();
        }
        result
    }

    pub(crate) fn generate(self: &Arc<Self>, client: Client, ask: Generate) -> Result<Generation, Refusal> {
        let (sender, updates) = mpsc::unbounded_channel();
        let mut state = self.lock();
        if state.over {
            let why = "the coordinator has ended: start it again".into();
            return Err(Refusal::Busy { why, retry_after: RETRY_AFTER });
        }
        let now = self.started.elapsed();
        let prompt_tokens = ask.prompt.len();
        let id = state.core.submit(now, client, ask)?;
        // Before its first update can be acted on.
        state.requests.insert(id, sender);
        state.watch.asked(id, prompt_tokens, now);
        state.act(now);
        let answering = (client != Client::Local).then(|| self.answering.clone());
        Ok(Generation { id, updates, shared: self.clone(), _answering: answering })
    }

    /// Makes a link known to the core; its outgoing frames go to `outbox`.
    pub(crate) fn connected(
        &self,
        address: &str,
        negotiated: &Negotiated,
        key: Option<Key>,
        outbox: mpsc::Sender<(Header, Vec<u8>)>,
    ) -> NodeId {
        let mut state = self.lock();
        let now = self.started.elapsed();
        let id = state.core.connected(now, address, negotiated);
        if let Some(key) = key {
            state.core.proven(id, key);
        }
        state.links.insert(id, Linked { key, outbox });
        state.act(now);
        id
    }

    /// Forgets a link whose task has ended.
    pub(crate) fn disconnected(&self, node: NodeId, why: &str) {
        let mut state = self.lock();
        state.links.remove(&node);
        state.watch.unlinked(node);
        drop(state);
        self.with(|core, now| core.gone(now, node, why));
    }

    /// The folder that is served at this moment.
    pub(crate) fn shards(&self) -> PathBuf {
        self.lock().shards.clone()
    }

    /// What became of packing the model in `format`.
    fn packed(&self, format: WeightFormat, packed: Result<Packed, String>) {
        match packed {
            Ok(Packed { shards, manifest_sha256 }) => self.with_state(|state, now| {
                // Whoever hears of the new manifest is to find it.
                state.shards = shards;
                state.core.packed(now, format, manifest_sha256);
            }),
            Err(why) => self.with(|core, _| core.not_packed(format, &why)),
        }
    }

    /// A data frame that a node sent; `spent` says how long the coordinator had it.
    pub(crate) fn data(&self, node: NodeId, header: &Header, payload: &[u8], spent: impl FnOnce() -> Duration) {
        self.with_state(|state, now| {
            state.watch.received(node, header, now);
            state.core.data(now, node, header, payload);
            state.core.spent(header.request, spent());
        });
    }

    pub(crate) fn event(&self, event: Event) {
        self.lock().tell(event);
    }

    /// Seconds from 1970 to this coordinator's start.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Counts a request of this client.
    ///
    /// # Errors
    /// It asks too often: how long to wait.
    pub(crate) fn take(&self, client: Client) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.lock().unwrap_or_else(PoisonError::into_inner).take(client, self.started.elapsed())
    }

    /// The latest events and those to come; `None` when too many watch already.
    pub(crate) fn watch(&self) -> Option<(Vec<Told>, broadcast::Receiver<Told>)> {
        self.lock().feed.watch()
    }

    /// Milliseconds since the start, for sessions.
    pub(crate) fn millis(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn join_link(&self) -> JoinLink {
        let host = self.front.host.clone().unwrap_or_else(|| self.http.ip().to_string());
        let host = if let Ok(IpAddr::V6(ip)) = host.parse() { format!("[{ip}]") } else { host };
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        JoinLink {
            page: format!("{scheme}://{host}:{}/join", self.http.port()),
            code: self.door.code(self.elapsed()),
            authority: self.certificates.as_ref().and_then(Certificates::fingerprint),
        }
    }

    /// Nodes that have been here, by their keys.
    pub(crate) fn known(&self) -> BTreeMap<String, KnownNode> {
        self.lock().known.clone()
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.lock().core)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn act(&mut self, now: Duration) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Send(node, header, payload) => {
                    self.watch.sent(node, &header, now, || self.core.name(node));
                    let stuck =
                        self.links.get(&node).is_some_and(|link| link.outbox.try_send((header, payload)).is_err());
                    if stuck {
                        self.links.remove(&node);
                        self.core.gone(now, node, "it does not take what is sent to it");
                    }
                }
                Action::Close(node) => drop(self.links.remove(&node)),
                Action::Update(id, update) => {
                    self.watch.update(id, &update, now);
                    let last = matches!(update, Update::Finished(_) | Update::Failed(_));
                    let told = self.requests.get(&id).is_some_and(|request| request.send(update).is_ok());
                    if last || !told {
                        self.requests.remove(&id);
                    }
                }
                Action::Quarantine(node, name, evidence) => self.quarantine(node, name, evidence),
                Action::Event(event) => self.tell(event),
                // Refused when the event loop has ended; then nobody waits for it either.
                Action::Pack(format) => drop(self.packs.send(format)),
            }
        }
    }

    /// Remembers what a node computed by its key; one without a key can come back under another name anyway.
    fn quarantine(&mut self, node: NodeId, name: String, evidence: Evidence) {
        let Some(key) = self.links.get(&node).and_then(|link| link.key) else { return };
        self.door.quarantine(key, Quarantined { name, at: unix_seconds(), evidence });
    }

    /// Remembers what an event changes.
    fn remember(&mut self, event: &Event) {
        let Some(store) = &self.store else { return };
        match event {
            Event::Joined { node, device, memory_bytes, read_bytes_per_s, layer_ns } => {
                let Some(key) = self.core.key_of(node) else { return };
                let known = KnownNode {
                    name: node.clone(),
                    device: device.clone(),
                    memory_bytes: *memory_bytes,
                    layer_ns: *layer_ns,
                    read_bytes_per_s: *read_bytes_per_s,
                    seen: unix_seconds(),
                };
                if self.known.len() >= MAX_MEMBERS && !self.known.contains_key(&key.to_string()) {
                    return;
                }
                self.known.insert(key.to_string(), known.clone());
                store.put(Change::Node(key, known));
            }
            Event::Placed(_) => {
                if let Some(placement) = self.core.placement() {
                    store.put(Change::Placement(placement));
                }
            }
            _ => {}
        }
    }

    fn tell(&mut self, event: Event) {
        self.remember(&event);
        tracing::info!(?event);
        self.watch.event(&event);
        self.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
        self.feed.tell(event);
    }
}

/// The event loop; when it is gone, whatever the reason, everybody who waits on it is told by the end of their channel.
struct Serving(Arc<Shared>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.over = true;
        state.links.clear();
        state.requests.clear();
        state.watchers.clear();
    }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What chat templates that ask for the date are told: the time in UTC.
pub fn today() -> Date {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date::from_unix(since_1970.as_secs())
}

async fn serve(
    shared: &Arc<Shared>,
    tcp: TcpListener,
    http: TcpListener,
    asked: mpsc::UnboundedReceiver<WeightFormat>,
) {
    tokio::select! {
        () = pack(shared, asked) => {}
        () = tick(shared) => {}
        () = link::accept(shared, tcp) => {}
        () = http::serve(shared.clone(), http) => {}
        () = shared.stop.notified() => {}
    }
    shared.with(|core, _| core.shut_down("the coordinator is shutting down: repeat the request when it is back"));
    // The goodbyes are on their way, and the word for those who wait for text; who does not take its own is not waited for.
    let begun = Instant::now();
    let waits = || Arc::strong_count(&shared.linked) > 1 || Arc::strong_count(&shared.answering) > 1;
    while waits() && begun.elapsed() < GOODBYE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Packs what the core asks for. A coordinator that ends leaves the packing behind: the runtime's own threads for blocking
/// work would be waited for.
async fn pack(shared: &Shared, mut asked: mpsc::UnboundedReceiver<WeightFormat>) {
    while let Some(format) = asked.recv().await {
        let (tell, told) = oneshot::channel();
        let pack = shared.pack.clone();
        let work = move || drop(tell.send(pack(format)));
        let packed = match std::thread::Builder::new().name("syn1-pack".into()).spawn(work) {
            Ok(_) => told.await.unwrap_or_else(|_| Err("the packing thread broke off".into())),
            Err(error) => Err(format!("cannot start a thread: {error}")),
        };
        shared.packed(format, packed);
    }
}

async fn tick(shared: &Shared) {
    loop {
        let now = shared.started.elapsed();
        let wait = shared.look(|core| core.next_tick(now)).saturating_sub(now);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.sooner.notified() => continue,
        }
        shared.with(Core::tick);
    }
}

fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|source| StartError::Bind { address, what, source })
}

/// The address that was bound, with the port that the system chose for port 0.
fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ": another program listens there; choose another port, or 0 for a free one",
        io::ErrorKind::PermissionDenied => ": choose a port above 1023",
        _ => "",
    }
}
