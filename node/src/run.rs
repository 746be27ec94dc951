//! The conversation with a coordinator: Hello, Model, Profile, assignments, requests, Bye.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use syn1_core::control::{Assign, Bye, Closed, Failed, Loaded as LoadedMessage, Loading, Profile, Unable};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{
    CodecSet, Control, Event, Flags, Frame, Header, Identity, Kind, Link, Millis, Negotiated, Reason, Receive, Role,
    Session, SessionConfig, Transmit,
};
use syn1_kernels::engine::Engine as _;

use crate::assignment;
use crate::error::{Ended, NodeError};
use crate::host::{Assignment, Host, Loaded, ModelInfo, NodeConfig, NodeEvent, ProfileFigures, Progress, before};
use crate::linger::Linger;
use crate::requests::RequestError;
use crate::shard::{Shard, Taken};

/// Serves a coordinator over `link` until one of the two leaves.
///
/// Pings are answered while a shard loads; a step of the engine is not interrupted. Memory for frames is taken at the
/// first frame of each shape and kept.
///
/// # Errors
/// When the link breaks, the coordinator breaks the protocol, falls silent, or the machine cannot be measured.
pub async fn run<L: Link, H: Host>(link: L, host: &H, config: &NodeConfig) -> Result<Ended, NodeError> {
    let (mut rx, tx) = link.split();
    let session = SessionConfig {
        role: Role::Node,
        agent: config.agent,
        codecs: CodecSet::ACTIVATIONS,
        flags: Flags::NEGOTIABLE,
        max_payload: config.max_payload,
        max_rows: config.max_rows,
        credit: config.credit,
        model: [0; 32],
        prove: config.expect.is_some(),
    };
    let nonce = host.nonce().map_err(NodeError::Random)?;
    let session = Session::new(session, host.identity(), nonce, host.now());
    let mut node = Node {
        host,
        config,
        session,
        tx,
        model: None,
        profiled: false,
        newest: None,
        load: None,
        shard: None,
        group: Vec::new(),
        linger: Linger::default(),
        waiting_since: None,
    };
    let mut result = node.converse(&mut rx).await;
    let bye = match &result {
        Ok(Ended::Stopped) => Some((Reason::Shutdown, "the node was stopped".to_owned())),
        Ok(Ended::Bye { .. }) => None,
        Err(err) => err.reason().map(|reason| (reason, err.to_string())),
    };
    let open = node.session.negotiated().is_some();
    if let Some((reason, text)) = bye {
        node.say_bye(reason, &text).await;
        // A link that is closed with bytes unread takes the goodbye with it.
        last_words(host, &mut rx).await;
    } else if matches!(result, Err(NodeError::Link { .. })) {
        // What could not be sent may have been refused by name just before.
        if let Some((reason, text)) = last_words(host, &mut rx).await {
            result = Ok(Ended::Bye { reason, text, open });
        }
    }
    let cause = match &result {
        Ok(Ended::Stopped) => "stopped".to_owned(),
        Ok(Ended::Bye { text, .. }) => text.clone(),
        Err(err) => err.to_string(),
    };
    host.event(NodeEvent::Left { cause });
    result
}

/// Reads until the coordinator closes the link, for a short while; gives its goodbye if there is one.
async fn last_words<H: Host, R: Receive>(host: &H, rx: &mut R) -> Option<(Reason, String)> {
    let mut said = None;
    let words = async {
        while let Ok(frame) = rx.recv().await {
            if let (Kind::Control, Ok(Control::Bye(bye))) = (frame.header.kind, Control::decode(frame.payload)) {
                said = Some((bye.reason, bye.text.to_owned()));
            }
        }
    };
    before(host, host.now().plus(LAST_WORDS_MS), words).await;
    said
}

struct Node<'h, H: Host, T> {
    host: &'h H,
    config: &'h NodeConfig,
    session: Session<&'h dyn Identity>,
    tx: T,
    model: Option<ModelInfo>,
    profiled: bool,
    /// The highest generation that was assigned, refused ones too: none below it is ever taken again.
    newest: Option<u32>,
    load: Option<Load>,
    shard: Option<Shard<H::Engine>>,
    /// Data frames that were taken and not answered, of requests that are all different.
    group: Vec<Taken>,
    linger: Linger,
    /// Since when, in microseconds of the host's, the group waits for more.
    waiting_since: Option<u64>,
}

/// The assignment that is served or being loaded, and when its progress was last told.
struct Load {
    assignment: Assignment,
    told_at: Millis,
    told: Progress,
}

/// What takes long and runs beside the conversation.
enum Job {
    Profile(ModelInfo),
    Load(ModelInfo, Assignment),
}

/// What became of a [`Job`].
enum Done<E> {
    Profiled(Result<ProfileFigures, String>),
    Loaded(Result<Loaded<E>, String>),
}

/// What ended a wait.
enum Wake<F, D> {
    Frame(F),
    Done(D),
    Stop,
    Timer,
}

/// What a frame leads to.
enum Next {
    Wait,
    Start(Job),
    /// Nothing is left to do for what was assigned before.
    Drop,
    End(Ended),
}

impl<H: Host, T: Transmit> Node<'_, H, T> {
    async fn converse<R: Receive>(&mut self, rx: &mut R) -> Result<Ended, NodeError> {
        let host = self.host;
        let progress = Cell::new(Progress::default());
        let mut job: Option<Pin<Box<_>>> = None;
        loop {
            self.flush().await?;
            let deadline = self.deadline(job.is_some());
            let wake = {
                let mut recv = pin!(rx.recv());
                let mut stopped = pin!(host.stopped());
                let mut sleep = pin!(host.sleep_until(deadline));
                // Frames first: after a long step those that wait prove that the coordinator is alive.
                std::future::poll_fn(|cx| {
                    if let Poll::Ready(frame) = recv.as_mut().poll(cx) {
                        return Poll::Ready(Wake::Frame(frame));
                    }
                    if let Poll::Ready(done) = poll_job(&mut job, cx) {
                        return Poll::Ready(Wake::Done(done));
                    }
                    if stopped.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Wake::Stop);
                    }
                    sleep.as_mut().poll(cx).map(|()| Wake::Timer)
                })
                .await
            };
            match wake {
                Wake::Frame(frame) => {
                    let mut frame = frame.map_err(|err| NodeError::link(&err))?;
                    // Until the frames that are there make no group any more.
                    loop {
                        let control = frame.header.kind == Kind::Control;
                        if !self.joins(&frame.header) {
                            self.settle().await?;
                        }
                        match self.take(frame).await? {
                            Next::Wait => {}
                            Next::Start(next) => {
                                // The old one is cancelled first; the host lets the new one wait until it is gone.
                                drop(job.take());
                                progress.set(Progress::default());
                                job = Some(Box::pin(perform(host, next, &progress)));
                            }
                            Next::Drop => drop(job.take()),
                            Next::End(ended) => return Ok(ended),
                        }
                        if control {
                            rx.set_limits(self.session.limits());
                        }
                        if self.group.is_empty() {
                            break;
                        }
                        match self.more(rx).await {
                            Some(Ok(next)) => frame = next,
                            Some(Err(err)) => {
                                self.settle().await?;
                                return Err(NodeError::link(&err));
                            }
                            None => break,
                        }
                    }
                    self.settle().await?;
                }
                Wake::Done(done) => {
                    job = None;
                    self.finished(done).await?;
                }
                Wake::Stop => return Ok(Ended::Stopped),
                Wake::Timer => {
                    let now = host.now();
                    self.session.handle_timeout(now).map_err(NodeError::Session)?;
                    self.tell_progress(now, progress.get()).await?;
                }
            }
        }
    }

    /// When the next thing is due that no frame triggers.
    fn deadline(&self, busy: bool) -> Millis {
        let session = self.session.poll_timeout();
        match &self.load {
            Some(load) if busy => session.min(load.told_at.plus(PROGRESS_EVERY_MS)),
            _ => session,
        }
    }

    async fn take(&mut self, frame: Frame<'_>) -> Result<Next, NodeError> {
        let now = self.host.now();
        let event = self.session.handle(now, frame).map_err(NodeError::Session)?;
        if now >= self.session.poll_timeout() {
            // Under a steady stream of frames no timer ever wakes the node.
            self.session.handle_timeout(now).map_err(NodeError::Session)?;
        }
        match event {
            Event::Control(control) => self.control(control).await,
            Event::Data(frame) => {
                self.gather(&frame);
                Ok(Next::Wait)
            }
            Event::Established(_) => self.met(),
            Event::Bye(Bye { reason, text }) => {
                let open = self.session.negotiated().is_some();
                Ok(Next::End(Ended::Bye { reason, text: text.to_owned(), open }))
            }
            Event::Nothing | Event::Rtt { .. } | Event::Granted => Ok(Next::Wait),
        }
    }

    /// The coordinator has greeted and proved who it is, if it has a key.
    fn met(&self) -> Result<Next, NodeError> {
        let key = self.session.peer().filter(|peer| peer.proven).map(|peer| peer.key);
        match self.config.expect {
            Some(expected) if key != Some(expected) => Err(NodeError::WrongCoordinator { key }),
            _ => {
                self.host.event(NodeEvent::Met { key });
                Ok(Next::Wait)
            }
        }
    }

    async fn control(&mut self, control: Control<'_>) -> Result<Next, NodeError> {
        match control {
            Control::Model(model) => self.announced(ModelInfo {
                name: model.name.to_owned(),
                manifest_sha256: model.manifest_sha256,
                http_port: model.http_port,
                width: model.width,
                vocab: model.vocab,
                layers: model.layers,
            }),
            Control::Assign(assign) => self.assigned(&assign).await,
            Control::Open(open) => {
                let negotiated = self.negotiated()?;
                let opened = match &mut self.shard {
                    Some(shard) => shard.open(&open, &negotiated),
                    None => Err(RequestError::NoShard),
                };
                if let Err(err) = opened {
                    self.failed(open.request, open.epoch, &err).await?;
                }
                Ok(Next::Wait)
            }
            Control::Close { request } => {
                let compute_us = self.shard.as_mut().map_or(0, |shard| shard.close(request));
                self.linger.closed(request);
                self.tell(&Control::Closed(Closed { request, compute_us })).await?;
                Ok(Next::Wait)
            }
            other => Err(NodeError::Unexpected(format!("a node takes no {} message", other.name()))),
        }
    }

    fn announced(&mut self, model: ModelInfo) -> Result<Next, NodeError> {
        if self.model.as_ref() == Some(&model) {
            return Ok(Next::Wait);
        }
        if model.width == 0 || model.vocab == 0 || model.layers == 0 {
            let ModelInfo { width, vocab, layers, .. } = model;
            let text = format!("it announced a model of width {width}, vocabulary {vocab} and {layers} layers");
            return Err(NodeError::Unexpected(text));
        }
        // Another model than before: what belongs to that one goes first, so that its memory counts as free.
        if let Some(old) = self.load.take() {
            self.host.event(NodeEvent::Replaced { generation: old.assignment.generation });
        }
        (self.shard, self.profiled) = (None, false);
        self.session.set_model(model.width, model.vocab);
        self.host.event(NodeEvent::Joined { model: model.name.clone() });
        self.model = Some(model.clone());
        Ok(Next::Start(Job::Profile(model)))
    }

    async fn assigned(&mut self, assign: &Assign) -> Result<Next, NodeError> {
        let Some(model) = self.model.clone().filter(|_| self.profiled) else {
            return Err(NodeError::Unexpected("an Assign came before this node's Profile".to_owned()));
        };
        if self.newest.is_some_and(|newest| assign.generation <= newest) {
            tracing::debug!(newest = self.newest, got = assign.generation, "assignment of an older generation ignored");
            return Ok(Next::Wait);
        }
        self.newest = Some(assign.generation);
        if let Some(old) = self.load.take() {
            self.host.event(NodeEvent::Replaced { generation: old.assignment.generation });
        }
        self.shard = None;
        let assignment = match assignment::check(assign, &model, &self.negotiated()?) {
            Ok(assignment) => assignment,
            Err(err) => {
                self.unable(assign.generation, err.to_string()).await?;
                return Ok(Next::Drop);
            }
        };
        let Assignment { generation, layers, .. } = assignment.clone();
        self.host.event(NodeEvent::Assigned { generation, layers, of: model.layers.into() });
        let told = Progress::default();
        self.load = Some(Load { assignment: assignment.clone(), told_at: self.host.now(), told });
        Ok(Next::Start(Job::Load(model, assignment)))
    }

    async fn finished(&mut self, done: Done<H::Engine>) -> Result<(), NodeError> {
        match done {
            Done::Profiled(figures) => {
                let figures = figures.map_err(NodeError::Profile)?;
                let ProfileFigures { memory_bytes, read_bytes_per_s, layer_ns, .. } = figures;
                let (name, device) = (self.config.name.as_str(), figures.device.as_str());
                let profile = Profile { name, device, memory_bytes, read_bytes_per_s, layer_ns };
                self.tell(&Control::Profile(profile)).await?;
                self.profiled = true;
                self.host.event(NodeEvent::Profiled(figures));
                Ok(())
            }
            Done::Loaded(loaded) => self.loaded(loaded).await,
        }
    }

    async fn loaded(&mut self, loaded: Result<Loaded<H::Engine>, String>) -> Result<(), NodeError> {
        let (Some(load), Some(model)) = (&self.load, &self.model) else { return Ok(()) };
        let Assignment { generation, layers, engine } = load.assignment.clone();
        let checked = loaded.and_then(|loaded| {
            assignment::check_plan(loaded.engine.plan(), &load.assignment, model).map_err(|err| err.to_string())?;
            Ok(loaded)
        });
        let Loaded { engine: ready, fetched_bytes, layer_ns } = match checked {
            Ok(loaded) => loaded,
            Err(cause) => return self.unable(generation, cause).await,
        };
        self.shard = Some(Shard::new(ready, engine.max_rows));
        let slots = u16::try_from(engine.slots).unwrap_or(u16::MAX);
        self.tell(&Control::Loaded(LoadedMessage { generation, fetched_bytes, layer_ns, slots })).await?;
        self.host.event(NodeEvent::Ready { layers, fetched_bytes, layer_ns });
        Ok(())
    }

    async fn tell_progress(&mut self, now: Millis, progress: Progress) -> Result<(), NodeError> {
        let Some(load) = &mut self.load else { return Ok(()) };
        if now < load.told_at.plus(PROGRESS_EVERY_MS) {
            return Ok(());
        }
        load.told_at = now;
        if self.shard.is_some() || load.told == progress {
            return Ok(());
        }
        load.told = progress;
        let generation = load.assignment.generation;
        let Progress { done_bytes, total_bytes } = progress;
        self.tell(&Control::Loading(Loading { generation, done_bytes, total_bytes })).await?;
        self.host.event(NodeEvent::Loading(progress));
        Ok(())
    }

    /// Whether a frame can be computed together with those that were taken: a few rows of another request. Longer frames
    /// would hold up the answers of the others, and a second frame of a request follows from the first one's answer.
    fn joins(&self, header: &Header) -> bool {
        let Some(shard) = &self.shard else { return self.group.is_empty() };
        let rows = usize::from(header.rows);
        let taken: usize = self.group.iter().map(|taken| taken.rows).sum();
        self.group.is_empty()
            || matches!(header.kind, Kind::Tokens | Kind::Activation)
                && rows <= SHORT_ROWS
                && taken + rows <= shard.max_rows()
                && self.group.iter().all(|taken| taken.request != header.request)
    }

    /// Decodes a data frame, to be computed with those that were taken before.
    fn gather(&mut self, frame: &Frame<'_>) {
        let Header { request, epoch, rows, .. } = frame.header;
        let work = match &mut self.shard {
            None => Err(RequestError::NoShard),
            Some(shard) => match shard.take(frame) {
                Err(err) => Err(err),
                // Of an older route: there is no answer to it.
                Ok(None) => return self.session.done(),
                Ok(Some(work)) => Ok(work),
            },
        };
        self.group.push(Taken { request, epoch, rows: rows.into(), work });
    }

    /// The next frame if it is there, or if one comes in the little time for which others may be waited for.
    async fn more<'r, R: Receive>(&mut self, rx: &'r mut R) -> Option<Result<Frame<'r>, R::Error>> {
        let patience_us = self.linger.patience_us(|request| self.group.iter().any(|taken| taken.request == request));
        let waits = patience_us > 0;
        let mut left_us = 0;
        if waits {
            let now_us = self.host.elapsed_us();
            let since_us = *self.waiting_since.get_or_insert(now_us);
            left_us = (since_us + patience_us).saturating_sub(now_us);
        }
        let mut recv = pin!(rx.recv());
        let mut waited = pin!(self.host.wait_us(left_us));
        let next = std::future::poll_fn(|cx| match recv.as_mut().poll(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending if left_us == 0 => Poll::Ready(None),
            Poll::Pending => waited.as_mut().poll(cx).map(|()| None),
        })
        .await;
        if waits && next.is_none() {
            self.linger.in_vain();
        }
        next
    }

    /// Computes the frames that were taken and answers them in their order.
    async fn settle(&mut self) -> Result<(), NodeError> {
        if self.group.is_empty() {
            return Ok(());
        }
        let Negotiated { max_payload, .. } = self.negotiated()?;
        if self.waiting_since.take().is_some() {
            self.linger.waited();
        }
        let mut group = std::mem::take(&mut self.group);
        let begun = self.host.elapsed_us();
        if let Some(shard) = &mut self.shard {
            shard.compute(&mut group).await;
            let spent = self.host.elapsed_us().saturating_sub(begun);
            tracing::trace!(
                requests = group.len(),
                rows = group.iter().map(|taken| taken.rows).sum::<usize>(),
                spent,
                "pass"
            );
            shard.spent(&group, spent);
            let is_short = group.iter().all(|taken| taken.rows <= SHORT_ROWS);
            self.linger.passed(group.iter().filter(|_| is_short).map(|taken| taken.request), spent);
        }
        for taken in group.drain(..) {
            let Taken { request, epoch, work, .. } = taken;
            let outcome = match (work, &mut self.shard) {
                (Err(err), _) => Err(err),
                (Ok(_), None) => Err(RequestError::NoShard),
                (Ok(mut work), Some(shard)) => loop {
                    match shard.answer(&mut work, max_payload) {
                        Err(err) => break Err(err),
                        Ok(None) => break Ok(()),
                        Ok(Some((header, payload))) => send(self.host, &mut self.tx, &header, payload).await?,
                    }
                },
            };
            if let Err(err) = outcome {
                self.failed(request, epoch, &err).await?;
            }
            self.session.done();
        }
        self.group = group;
        Ok(())
    }

    async fn failed(&mut self, request: u32, epoch: u8, err: &RequestError) -> Result<(), NodeError> {
        let cause = err.to_string();
        self.tell(&Control::Failed(Failed { request, epoch, text: &cause })).await?;
        self.host.event(NodeEvent::RequestFailed { request, cause });
        Ok(())
    }

    async fn unable(&mut self, generation: u32, cause: String) -> Result<(), NodeError> {
        self.tell(&Control::Unable(Unable { generation, text: &cause })).await?;
        self.host.event(NodeEvent::Unable { cause });
        Ok(())
    }

    /// Says goodbye; whether it arrives no longer matters.
    async fn say_bye(&mut self, reason: Reason, text: &str) {
        let mut frame = [0; Header::LEN + MAX_CONTROL as usize];
        let left = match self.flush().await {
            Ok(()) => self.session.leave(reason, text, &mut frame),
            Err(_) => None,
        };
        let Some(payload) = left.and_then(|len| frame.get(Header::LEN..len)) else { return };
        if let Err(err) = send(self.host, &mut self.tx, &Header::control(payload.len() as u32), payload).await {
            tracing::debug!(%err, "the Bye could not be sent");
        }
    }

    async fn tell(&mut self, control: &Control<'_>) -> Result<(), NodeError> {
        // The Hello goes first, whatever happens.
        self.flush().await?;
        let mut scratch = [0; MAX_CONTROL as usize];
        let len = control.encode(&mut scratch).map_err(|err| NodeError::Unexpected(err.to_string()))?;
        let payload = scratch.get(..len).unwrap_or_default();
        send(self.host, &mut self.tx, &Header::control(len as u32), payload).await
    }

    /// Sends what the session has queued.
    async fn flush(&mut self) -> Result<(), NodeError> {
        let mut scratch = [0; Header::LEN + MAX_CONTROL as usize];
        while let Some(len) = self.session.poll_transmit(&mut scratch) {
            let payload = scratch.get(Header::LEN..len).unwrap_or_default();
            send(self.host, &mut self.tx, &Header::control(payload.len() as u32), payload).await?;
        }
        Ok(())
    }

    fn negotiated(&self) -> Result<Negotiated, NodeError> {
        // The session lets nothing through before it is established.
        self.session.negotiated().ok_or_else(|| NodeError::Unexpected("it spoke before its Hello".to_owned()))
    }
}

async fn perform<H: Host>(host: &H, job: Job, progress: &Cell<Progress>) -> Done<H::Engine> {
    match job {
        Job::Profile(model) => Done::Profiled(host.profile(&model).await),
        Job::Load(model, assignment) => Done::Loaded(host.load(&model, &assignment, &|at| progress.set(at)).await),
    }
}

/// Polls the job, if there is one.
fn poll_job<F: Future>(job: &mut Option<Pin<Box<F>>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    match job {
        Some(job) => job.as_mut().poll(cx),
        None => Poll::Pending,
    }
}

/// Sends a frame; a coordinator that does not take it for [`STALL_MS`] counts as gone.
async fn send<H: Host, T: Transmit>(host: &H, tx: &mut T, header: &Header, payload: &[u8]) -> Result<(), NodeError> {
    let deadline = host.now().plus(STALL_MS);
    match before(host, deadline, tx.send(header, payload)).await {
        Some(sent) => sent.map_err(|err| NodeError::link(&err)),
        None => Err(NodeError::Stalled { seconds: STALL_MS / 1000 }),
    }
}

/// Rows of a frame that others are computed with at most: a token, or some guesses.
const SHORT_ROWS: usize = 8;
/// Loading messages go out this often at most.
const PROGRESS_EVERY_MS: u64 = 500;
/// A goodbye that takes longer is not waited for.
const LAST_WORDS_MS: u64 = 500;
/// As long as a silent peer is waited for.
const STALL_MS: u64 = 15_000;
