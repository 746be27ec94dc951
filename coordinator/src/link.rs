//! One task per node's link, by TCP with TLS or without, or by WebSocket: reads frames, keeps the session, hands both to the
//! core.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syn1_core::control::Bye;
use syn1_core::{
    CodecSet, Control, Event as SessionEvent, Fatal, Flags, Frame, Header, Kind, Link, LinkError, LinkErrorKind,
    Millis, Negotiated, Reason, Receive, Role, Session, SessionConfig, Transmit, limits::MAX_CONTROL,
};
use syn1_identity::{Key, Keys, nonce};
use syn1_transport_tcp::{TcpLink, TokioLink};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::core::{CoreConfig, NodeId};
use crate::door::Knock;
use crate::limits::{BATCH, GOODBYE, MAX_LINKS, MAX_STRANGERS, OUTBOX, OWN, TLS_TIMEOUT};
use crate::server::Shared;
use crate::tls::TLS_HANDSHAKE;
use crate::update::Event;

/// Accepts links by TCP for as long as the coordinator runs.
pub(crate) async fn accept(shared: &Arc<Shared>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("cannot accept nodes: {error}"),
    };
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: existing links go on, new ones wait.
                tracing::warn!("cannot accept a node: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = match Place::take(shared) {
            Ok(place) => place,
            Err(why) => {
                tracing::warn!("{address} is turned away: {why}");
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = open(shared, place, address, stream).await {
                tracing::warn!("link from {address}: {error}");
            }
        });
    }
}

/// Serves a connection until it ends: with TLS, if the coordinator has a certificate and the node begins so.
async fn open(shared: Arc<Shared>, place: Place, address: SocketAddr, stream: TcpStream) -> io::Result<()> {
    let (knock, max_payload) = (shared.door.knock_tcp(address.ip()), shared.max_payload);
    let tls = match &shared.certificates {
        Some(certificates) if begins_tls(&stream).await => Some(TlsAcceptor::from(certificates.config())),
        _ => None,
    };
    match tls {
        Some(tls) => {
            stream.set_nodelay(true)?;
            let stream = tokio::time::timeout(TLS_TIMEOUT, tls.accept(stream)).await??;
            place.link(shared, address, knock, TokioLink::over(stream, max_payload)).await;
        }
        None => {
            let link = TcpLink::from_stream(stream, max_payload)?;
            place.link(shared, address, knock, link).await;
        }
    }
    Ok(())
}

/// Whether a node begins with TLS. One that says nothing is left to the session, which says so.
async fn begins_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    let peeked = tokio::time::timeout(TLS_TIMEOUT, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first[0] == TLS_HANDSHAKE
}

/// Room for a link.
pub(crate) struct Place {
    link: OwnedSemaphorePermit,
    /// Given back when the node has said Hello and was let in.
    stranger: OwnedSemaphorePermit,
}

impl Place {
    /// Takes one, if there is room.
    ///
    /// # Errors
    /// What is full.
    pub(crate) fn take(shared: &Shared) -> Result<Self, String> {
        let link = shared.links.clone().try_acquire_owned();
        let link = link.map_err(|_| format!("{MAX_LINKS} nodes are linked already"))?;
        let stranger = shared.strangers.clone().try_acquire_owned();
        let stranger = stranger.map_err(|_| format!("{MAX_STRANGERS} links have not said Hello yet"))?;
        Ok(Self { link, stranger })
    }

    /// Serves a link until it ends.
    pub(crate) async fn link(self, shared: Arc<Shared>, address: SocketAddr, knock: Knock, link: impl Link) {
        match LinkTask::new(shared, address, knock) {
            Ok(task) => task.run(link, self.stranger).await,
            Err(error) => tracing::error!("{address} is turned away: {error}"),
        }
        drop(self.link);
    }
}

/// The largest payload that a node can have reason to send.
pub(crate) fn max_payload(config: &CoreConfig) -> u32 {
    let rows = config.chunk * config.spec.width * 4;
    let (grid_rows, grid_cols) = syn1_core::logits_grid(config.spec.vocab as u32);
    let logits = usize::from(grid_rows) * usize::from(grid_cols) * 4;
    rows.max(logits).max(MAX_CONTROL as usize) as u32
}

struct LinkTask {
    shared: Arc<Shared>,
    address: SocketAddr,
    knock: Knock,
    talk: Arc<Talk>,
    node: Option<NodeId>,
    linked: Option<Arc<()>>,
    /// When the latest ping was handed to the writer.
    pinged: Option<Instant>,
}

/// The session, which both directions of a link need: what comes changes it, and a data frame goes only with credit.
struct Talk {
    session: Mutex<Session<Keys>>,
    granted: Notify,
}

/// A frame on its way to a node.
type Outgoing = (Header, Vec<u8>);

impl Talk {
    fn session(&self) -> MutexGuard<'_, Session<Keys>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what the session and the core have to say, until the core lets go of the link.
///
/// The core's frames go in their order, and a data frame waits for credit; the session's own and a goodbye wait for
/// nothing. When the core has let go, data that still waits goes nowhere, and the rest is said.
async fn write(
    talk: Arc<Talk>,
    mut tx: impl Transmit,
    mut own: mpsc::Receiver<Outgoing>,
    mut frames: mpsc::Receiver<Outgoing>,
) -> String {
    let mut waiting: VecDeque<Outgoing> = VecDeque::new();
    let mut held_on = true;
    let mut batch: Vec<Outgoing> = Vec::new();
    loop {
        while let Ok(frame) = own.try_recv() {
            batch.push(frame);
        }
        while waiting.len() < OUTBOX
            && let Ok(frame) = frames.try_recv()
        {
            waiting.push_back(frame);
        }
        if !held_on {
            waiting.retain(|(header, _)| header.kind == Kind::Control);
        }
        if !waiting.is_empty() {
            let mut session = talk.session();
            let mut may_go = |header: &Header| header.kind == Kind::Control || session.take_credit();
            while batch.len() < BATCH && waiting.front().is_some_and(|(header, _)| may_go(header)) {
                batch.extend(waiting.pop_front());
            }
        }
        if !batch.is_empty() {
            if let Err(error) = tx.send_all(&batch).await {
                return error.to_string();
            }
            batch.clear();
            continue;
        }
        if !held_on {
            return String::from("the coordinator closed the link");
        }
        tokio::select! {
            biased;
            Some(frame) = own.recv() => batch.push(frame),
            frame = frames.recv(), if waiting.len() < OUTBOX => match frame {
                Some(frame) => waiting.push_back(frame),
                None => held_on = false,
            },
            () = talk.granted.notified(), if !waiting.is_empty() => {}
        }
    }
}

/// Why a link ends, and the word for it that the peer has not heard yet.
struct Ended {
    why: String,
    say: Option<Reason>,
}

impl Ended {
    fn silently(why: impl Into<String>) -> Self {
        Self { why: why.into(), say: None }
    }
}

impl From<Fatal> for Ended {
    fn from(fatal: Fatal) -> Self {
        Self { why: fatal.to_string(), say: Some(fatal.reason()) }
    }
}

impl LinkTask {
    fn new(shared: Arc<Shared>, address: SocketAddr, knock: Knock) -> Result<Self, syn1_identity::KeyFileError> {
        let (chunk, model) = shared.look(|core| {
            let CoreConfig { chunk, manifest_sha256, smaller, .. } = core.config();
            // A link outlives a change of format.
            (*chunk as u16, if smaller.is_empty() { *manifest_sha256 } else { [0; 32] })
        });
        let config = SessionConfig {
            role: Role::Coordinator,
            agent: concat!("syn1/", env!("CARGO_PKG_VERSION")),
            codecs: CodecSet::ACTIVATIONS,
            flags: Flags::NEGOTIABLE,
            max_payload: shared.max_payload,
            max_rows: chunk,
            credit: 0,
            model,
            prove: shared.door.needs_key(),
        };
        let session = Session::new(config, shared.keys.clone(), nonce()?, shared.millis());
        let talk = Arc::new(Talk { session: Mutex::new(session), granted: Notify::new() });
        Ok(Self { shared, address, knock, talk, node: None, linked: None, pinged: None })
    }

    async fn run(mut self, link: impl Link, permit: OwnedSemaphorePermit) {
        let (mut rx, tx) = link.split();
        let (outbox, frames) = mpsc::channel(OUTBOX);
        let (own, own_frames) = mpsc::channel(OWN);
        let mut writer = pin!(write(self.talk.clone(), tx, own_frames, frames));
        let mut has_written = false;
        // The core is to hold the only strong end: when it lets go, the writer ends, and with it this link.
        let sender = outbox.downgrade();
        let mut stranger = Some((permit, outbox));
        // Every frame puts off what is due; the alarm is set anew when it has rung, and not for each of them.
        let (mut alarm, mut rings) = (pin!(tokio::time::sleep(Duration::ZERO)), NEVER);
        let ended = loop {
            self.flush(&own);
            let negotiated = self.talk.session().negotiated();
            if let (Some(negotiated), Some((_, outbox))) = (negotiated, &stranger) {
                if let Err(ended) = self.admit(&negotiated, outbox) {
                    break ended;
                }
                stranger = None;
                rx.set_limits(self.talk.session().limits());
            }
            if stranger.is_none() && sender.upgrade().is_none() {
                break Ended::silently("the coordinator closed the link");
            }
            let due = self.talk.session().poll_timeout();
            if due < rings {
                rings = due;
                alarm.as_mut().reset(tokio::time::Instant::now() + until(self.shared.millis(), due));
            }
            let outcome = tokio::select! {
                frame = rx.recv() => match frame {
                    Ok(frame) => self.frame(frame),
                    Err(error) => Err(self.broken(&error)),
                },
                () = alarm.as_mut() => {
                    rings = NEVER;
                    let now = self.shared.millis();
                    self.talk.session().handle_timeout(now).map_err(Ended::from)
                }
                why = writer.as_mut() => {
                    has_written = true;
                    Err(Ended::silently(why))
                }
            };
            if let Err(ended) = outcome {
                break ended;
            }
        };
        if let Some(reason) = ended.say {
            say(&own, &Control::Bye(Bye { reason, text: &ended.why }));
        }
        drop(own);
        match self.node {
            Some(node) => self.shared.disconnected(node, &ended.why),
            None => self.shared.event(Event::Refused { node: self.address.to_string(), why: ended.why }),
        }
        drop(stranger);
        // What is queued, a goodbye say, still goes out, and what comes is still taken: a socket that is closed with bytes
        // unread takes the goodbye with it. A peer that does not listen is not waited for.
        let take = async { while rx.recv().await.is_ok() {} };
        let say = async {
            if !has_written {
                writer.await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, async { tokio::join!(take, say) }).await;
    }

    /// Makes a node that has greeted, and proved who it is where that is asked for, known to the core.
    fn admit(&mut self, negotiated: &Negotiated, outbox: &mpsc::Sender<Outgoing>) -> Result<(), Ended> {
        let key = self.talk.session().peer().filter(|peer| peer.proven).map(|peer| Key(peer.key));
        if let Err(why) = self.shared.door.admit(&self.knock, key) {
            return Err(Ended { why, say: Some(Reason::Refused) });
        }
        self.linked = Some(self.shared.linked.clone());
        self.node = Some(self.shared.connected(&self.address.to_string(), negotiated, key, outbox.clone()));
        let (width, vocab) =
            self.shared.look(|core| (core.config().spec.width as u16, core.config().spec.vocab as u32));
        self.talk.session().set_model(width, vocab);
        Ok(())
    }

    /// Hands one frame to the session and what it means to the core.
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), Ended> {
        let begun = Instant::now();
        let event = self.talk.session().handle(self.shared.millis(), frame)?;
        match (event, self.node) {
            (SessionEvent::Control(message), Some(node)) => {
                self.shared.with(|core, now| core.control(now, node, &message));
            }
            (SessionEvent::Data(frame), Some(node)) => {
                self.shared.data(node, &frame.header, frame.payload, || begun.elapsed());
            }
            (SessionEvent::Rtt { .. }, Some(node)) => {
                // The session counts whole milliseconds.
                if let Some(pinged) = self.pinged.take() {
                    self.shared.with(|core, now| core.round_trip(now, node, pinged.elapsed()));
                }
            }
            (SessionEvent::Granted, _) => self.talk.granted.notify_one(),
            (SessionEvent::Bye(bye), _) => return Err(Ended::silently(format!("it said goodbye: {}", bye.text))),
            _ => {}
        }
        Ok(())
    }

    /// The link cannot be read any more; a peer that can still listen is told why.
    fn broken(&self, error: &impl LinkError) -> Ended {
        match (error.version(), error.kind()) {
            (Some(version), _) => {
                let why = format!("this coordinator speaks SYN1, you speak SYN{}", char::from(version));
                Ended { why, say: Some(Reason::Version) }
            }
            (None, LinkErrorKind::Protocol) => Ended { why: error.to_string(), say: Some(Reason::Protocol) },
            _ => Ended::silently(error.to_string()),
        }
    }

    /// Passes on what the session has to say.
    fn flush(&mut self, own: &mpsc::Sender<Outgoing>) {
        let mut frame = [0; Header::LEN + MAX_CONTROL as usize];
        while let Some(len) = self.talk.session().poll_transmit(&mut frame) {
            let payload = frame.get(Header::LEN..len).unwrap_or_default().to_vec();
            if let Ok(Control::Ping(_)) = Control::decode(&payload) {
                self.pinged = Some(Instant::now());
            }
            // Full: the peer does not read. It will be found silent.
            if own.try_send((Header::control(payload.len() as u32), payload)).is_err() {
                return;
            }
        }
    }
}

/// Queues a control message.
fn say(outbox: &mpsc::Sender<Outgoing>, message: &Control<'_>) {
    let mut payload = vec![0; MAX_CONTROL as usize];
    if let Ok(len) = message.encode(&mut payload) {
        payload.truncate(len);
        // A full outbox means that the peer does not listen.
        let _ = outbox.try_send((Header::control(len as u32), payload));
    }
}

/// No alarm is set.
const NEVER: Millis = Millis(u64::MAX);

fn until(now: Millis, then: Millis) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now.0))
}
