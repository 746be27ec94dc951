//! One task per node's link: reads frames, keeps the session, hands both to the core.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use syn1_core::control::Bye;
use syn1_core::{
    CodecSet, Control, Event as SessionEvent, Flags, Frame, Header, Link, LinkError, Millis, Reason, Receive, Role,
    Session, SessionConfig, Transmit, limits,
};
use syn1_transport_tcp::TcpLink;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::core::{CoreConfig, NodeId};
use crate::server::Shared;
use crate::update::Event;

/// Accepts links for as long as the coordinator runs.
pub(crate) async fn accept(shared: &Arc<Shared>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("cannot accept nodes: {error}"),
    };
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
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
        let Ok(permit) = strangers.clone().try_acquire_owned() else {
            tracing::warn!("{address} is turned away: {MAX_STRANGERS} links have not said Hello yet");
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move { LinkTask::new(shared, address).run(stream, permit).await });
    }
}

/// The largest payload that a node can have reason to send.
pub(crate) fn max_payload(config: &CoreConfig) -> u32 {
    let rows = config.chunk * config.spec.width * 4;
    let (grid_rows, grid_cols) = syn1_core::logits_grid(config.spec.vocab as u32);
    let logits = usize::from(grid_rows) * usize::from(grid_cols) * 4;
    rows.max(logits).max(limits::MAX_CONTROL as usize) as u32
}

struct LinkTask {
    shared: Arc<Shared>,
    address: SocketAddr,
    session: Session,
    node: Option<NodeId>,
}

/// Why a link ends.
struct Ended(String);

impl LinkTask {
    fn new(shared: Arc<Shared>, address: SocketAddr) -> Self {
        let config = SessionConfig {
            role: Role::Coordinator,
            agent: concat!("syn1/", env!("CARGO_PKG_VERSION")),
            codecs: CodecSet::ACTIVATIONS,
            flags: Flags::NONE,
            max_payload: shared.max_payload,
            max_rows: shared.lock_core(|core| core.config().chunk) as u16,
        };
        let session = Session::new(config, shared.millis());
        Self { shared, address, session, node: None }
    }

    async fn run(mut self, stream: TcpStream, permit: tokio::sync::OwnedSemaphorePermit) {
        let link = match TcpLink::from_stream(stream, self.shared.max_payload) {
            Ok(link) => link,
            Err(error) => return tracing::warn!("link from {}: {error}", self.address),
        };
        let (mut rx, mut tx) = link.split();
        let (outbox, mut frames) = mpsc::channel::<(Header, Vec<u8>)>(OUTBOX);
        let writer = async move {
            while let Some((header, payload)) = frames.recv().await {
                if let Err(error) = tx.send(&header, &payload).await {
                    return error.to_string();
                }
            }
            // Closed by the core: the last frame is out.
            String::from("the coordinator closed the link")
        };
        let mut writer = tokio::spawn(writer);
        // The core is to hold the only strong end: when it lets go, the writer ends, and with it this link.
        let sender = outbox.downgrade();
        let mut stranger = Some((permit, outbox));
        let why = loop {
            self.flush(&sender);
            if self.session.negotiated().is_some()
                && let Some((_, outbox)) = stranger.take()
            {
                self.node = Some(self.shared.connected(&self.address.to_string(), outbox));
                let (width, vocab) =
                    self.shared.lock_core(|core| (core.config().spec.width as u16, core.config().spec.vocab as u32));
                self.session.set_model(width, vocab);
                rx.set_limits(self.session.limits());
            }
            let timeout = until(self.shared.millis(), self.session.poll_timeout());
            let outcome = tokio::select! {
                frame = rx.recv() => match frame {
                    Ok(frame) => self.frame(frame),
                    Err(error) => self.broken(&error, &sender),
                },
                () = tokio::time::sleep(timeout) => {
                    let now = self.shared.millis();
                    self.session.handle_timeout(now).map_err(|fatal| Ended(fatal.to_string()))
                }
                ended = &mut writer => Err(Ended(ended.unwrap_or_else(|error| error.to_string()))),
            };
            if let Err(Ended(why)) = outcome {
                break why;
            }
        };
        match self.node {
            Some(node) => self.shared.disconnected(node, &why),
            None => self.shared.event(Event::Refused { node: self.address.to_string(), why }),
        }
        drop(stranger);
        // What is queued, a goodbye say, still goes out; a peer that does not take it is not waited for.
        let _ = tokio::time::timeout(GOODBYE, async {
            if !writer.is_finished() {
                let _ = (&mut writer).await;
            }
        })
        .await;
        writer.abort();
    }

    /// Hands one frame to the session and what it means to the core.
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), Ended> {
        let begun = std::time::Instant::now();
        let event = self.session.handle(self.shared.millis(), frame).map_err(|fatal| Ended(fatal.to_string()))?;
        let node = self.node;
        match (event, node) {
            (SessionEvent::Control(message), Some(node)) => {
                self.shared.with(|core, now| core.control(now, node, &message));
            }
            (SessionEvent::Data(frame), Some(node)) => self.shared.with(|core, now| {
                core.data(now, node, &frame.header, frame.payload);
                core.spent(frame.header.request, begun.elapsed());
            }),
            (SessionEvent::Bye(bye), _) => return Err(Ended(format!("it said goodbye: {}", bye.text))),
            _ => {}
        }
        Ok(())
    }

    /// The link cannot be read any more; a peer that speaks another version is told so.
    fn broken(&self, error: &impl LinkError, outbox: &mpsc::WeakSender<(Header, Vec<u8>)>) -> Result<(), Ended> {
        if let (Some(version), Some(outbox)) = (error.version(), outbox.upgrade()) {
            let text = format!("this coordinator speaks SYN1, you speak SYN{}", char::from(version));
            let mut payload = vec![0; limits::MAX_CONTROL as usize];
            if let Ok(len) = Control::Bye(Bye { reason: Reason::Version, text: &text }).encode(&mut payload) {
                payload.truncate(len);
                let _ = outbox.try_send((Header::control(len as u32), payload));
            }
        }
        Err(Ended(error.to_string()))
    }

    /// Passes on what the session has to say.
    fn flush(&mut self, outbox: &mpsc::WeakSender<(Header, Vec<u8>)>) {
        let Some(outbox) = outbox.upgrade() else { return };
        let mut frame = [0; Header::LEN + limits::MAX_CONTROL as usize];
        while let Some(len) = self.session.poll_transmit(&mut frame) {
            let payload = frame.get(Header::LEN..len).unwrap_or_default().to_vec();
            if outbox.try_send((Header::control(payload.len() as u32), payload)).is_err() {
                return;
            }
        }
    }
}

fn until(now: Millis, then: Millis) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now.0))
}

/// Frames that wait for one node's socket: more than every request's chunks in flight, so only a stuck peer fills it.
const OUTBOX: usize = 1024;

/// Links that have not said Hello: enough for a room of laptops, too few to exhaust anything.
const MAX_STRANGERS: usize = 64;

/// A goodbye that takes longer than this is not waited for.
const GOODBYE: Duration = Duration::from_millis(500);
