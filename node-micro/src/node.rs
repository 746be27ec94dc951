//! The conversation with a coordinator: Hello, Model, Profile, assignments, requests, Bye.

use core::cell::Cell;
use core::fmt;
use core::pin::pin;

use embassy_futures::select::{Either, Either3, select, select3};
use syn1_core::control::{Assign, Bye, Closed, Failed, Loaded, Loading, Profile, Unable};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{
    Anonymous, CodecSet, Control, Event as SessionEvent, Fatal, Flags, Form, Frame, Header, Kind, Link, LinkError,
    LinkErrorKind, Millis, Reason, Receive, Role, Session, SessionConfig, Transmit,
};
use syn1_kernels_int::{Block, BlockError, BlockLayout};

use crate::board::{Board, Event, NodeConfig};
use crate::fetch::{LoadError, manifest, piece};
use crate::memory::{Memory, Parts, Room};
use crate::shard::{MOST_SLOTS, RequestError, Shard};
use crate::text::Text;
use crate::{FetchError, Manifest};

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Ended {
    /// The coordinator said goodbye.
    Bye(Reason),
    /// The link broke.
    Link(LinkErrorKind),
    /// The coordinator broke the protocol or fell silent.
    Session(Fatal),
    /// It took nothing that was sent to it.
    Stalled,
    /// It sent a message that makes no sense here.
    Unexpected(&'static str),
}

/// Serves a coordinator over `link` until one of the two leaves, with all of `memory`.
///
/// Pings are answered while weights come in; a step of a layer is not interrupted.
pub async fn run<L: Link, B: Board>(link: L, board: &B, config: &NodeConfig<'_>, memory: &mut Memory<'_>) -> Ended {
    let (mut rx, tx) = link.split();
    let session = SessionConfig {
        role: Role::Node,
        agent: config.agent,
        codecs: CodecSet::ACTIVATIONS,
        flags: Flags::PREDICTED,
        max_payload: config.max_payload,
        max_rows: config.max_rows,
        credit: CREDIT,
        model: [0; 32],
        prove: false,
    };
    // It checks no proofs, so nothing hangs on the nonce.
    let session = Session::new(session, Anonymous, [0; 32], board.now());
    let mut node = Node { board, config, session, tx, model: None, newest: None, shard: None };
    let ended = match node.converse(&mut rx, memory).await {
        Ok(reason) => Ended::Bye(reason),
        Err(ended) => ended,
    };
    match ended {
        Ended::Bye(reason) => board.event(Event::Bye { reason }),
        // The error's own text would be 2 KB of a microcontroller's flash; the caller's log has it.
        Ended::Session(fatal) => node.say_bye(fatal.reason(), "this node's log says what was wrong").await,
        Ended::Unexpected(what) => node.say_bye(Reason::Protocol, what).await,
        Ended::Link(_) | Ended::Stalled => {}
    }
    ended
}

struct Node<'b, B, T> {
    board: &'b B,
    config: &'b NodeConfig<'b>,
    session: Session<Anonymous>,
    tx: T,
    model: Option<Model>,
    /// The highest generation that was assigned.
    newest: Option<u32>,
    shard: Option<Shard>,
}

/// What the coordinator serves, and what the manifest says of it once that is here.
#[derive(Clone, Copy, PartialEq)]
struct Model {
    sha256: [u8; 32],
    port: u16,
    width: u16,
    vocab: u32,
    layers: u16,
    manifest: Option<Manifest>,
}

/// What takes long and runs beside the conversation.
#[derive(Clone, Copy)]
enum Job {
    Profile(Model),
    Load(Model, Assign),
}

/// What a frame leads to.
#[expect(clippy::large_enum_variant, reason = "there is no heap to put the larger one on")]
enum Next {
    Wait,
    Start(Job),
    End(Reason),
}

/// What became of a job.
#[expect(clippy::large_enum_variant, reason = "there is no heap to put the larger one on")]
enum Done {
    Profiled(Result<(Manifest, u64, u64), LoadError>),
    Loaded(Result<(Room, usize, u64), Refused>),
}

/// Why an assignment cannot be taken.
enum Refused {
    Range(Assign),
    Ends,
    Rows { got: u16, max: u16 },
    Payload { bytes: u64, max: u32 },
    Slots(u16),
    Memory { words: Option<usize>, have: usize },
    Load(LoadError),
    Block(BlockError),
}

impl<B: Board, T: Transmit> Node<'_, B, T> {
    async fn converse<R: Receive>(&mut self, rx: &mut R, memory: &mut Memory<'_>) -> Result<Reason, Ended> {
        let mut todo = None;
        loop {
            let next = match todo.take() {
                None => self.serve(rx, memory).await?,
                Some(job) => self.perform(rx, memory, job).await?,
            };
            match next {
                Next::Wait => {}
                Next::Start(job) => todo = Some(job),
                Next::End(reason) => return Ok(reason),
            }
        }
    }

    /// Waits for one frame or deadline and acts on it, with nothing else to do.
    async fn serve<R: Receive>(&mut self, rx: &mut R, memory: &mut Memory<'_>) -> Result<Next, Ended> {
        self.flush().await?;
        let timer = self.board.sleep_until(self.session.poll_timeout());
        match select(rx.recv(), timer).await {
            Either::First(frame) => {
                let frame = frame.map_err(|error| Ended::Link(error.kind()))?;
                let control = frame.header.kind == Kind::Control;
                let next = self.take(frame, Some(memory)).await?;
                if control {
                    rx.set_limits(self.session.limits());
                }
                Ok(next)
            }
            Either::Second(()) => {
                self.session.handle_timeout(self.board.now()).map_err(Ended::Session)?;
                Ok(Next::Wait)
            }
        }
    }

    /// Does a job, and keeps the conversation up meanwhile. A newer job ends it.
    async fn perform<R: Receive>(&mut self, rx: &mut R, memory: &mut Memory<'_>, job: Job) -> Result<Next, Ended> {
        let (board, config) = (self.board, self.config);
        let progress = Progress::default();
        let limits = self.session.limits();
        let done = {
            let mut work = pin!(do_job(board, config, memory, &progress, limits.max_payload, limits.max_rows, job));
            let mut told_at = board.now();
            loop {
                self.flush().await?;
                let deadline = self.session.poll_timeout().min(told_at.plus(PROGRESS_EVERY_MS));
                match select3(rx.recv(), work.as_mut(), board.sleep_until(deadline)).await {
                    Either3::First(frame) => {
                        let frame = frame.map_err(|error| Ended::Link(error.kind()))?;
                        let control = frame.header.kind == Kind::Control;
                        let next = self.take(frame, None).await?;
                        if control {
                            rx.set_limits(self.session.limits());
                        }
                        if !matches!(next, Next::Wait) {
                            return Ok(next);
                        }
                    }
                    Either3::Second(done) => break done,
                    Either3::Third(()) => {
                        let now = board.now();
                        self.session.handle_timeout(now).map_err(Ended::Session)?;
                        if let (Job::Load(_, Assign { generation, .. }), true) = (job, progress.total.get() > 0) {
                            let (done_bytes, total_bytes) = (progress.done.get() as u64, progress.total.get() as u64);
                            self.tell(&Control::Loading(Loading { generation, done_bytes, total_bytes })).await?;
                        }
                        told_at = now;
                    }
                }
            }
        };
        match (done, job) {
            (Done::Profiled(Ok((manifest, memory_bytes, layer_ns))), _) => {
                if let Some(model) = &mut self.model {
                    model.manifest = Some(manifest);
                }
                self.profile(memory_bytes, layer_ns).await?;
            }
            // It offers nothing; what it cannot do stands in its name, which people read.
            (Done::Profiled(Err(error)), _) => {
                let device = Text::of(format_args!("{}: {error}", self.config.device));
                self.say_profile(device.as_str(), 0, u64::MAX).await?;
            }
            (Done::Loaded(Ok((room, fetched, layer_ns))), Job::Load(_, assign)) => {
                self.shard = Some(Shard::new(room));
                let slots = u16::try_from(room.slots).unwrap_or(u16::MAX);
                let fetched_bytes = fetched as u64;
                let loaded = Loaded { generation: assign.generation, fetched_bytes, layer_ns, slots };
                self.tell(&Control::Loaded(loaded)).await?;
                self.board.event(Event::Loaded { bytes: fetched, layer_ns });
            }
            (Done::Loaded(Err(why)), Job::Load(_, Assign { generation, .. })) => {
                let text = Text::of(format_args!("{why}"));
                self.tell(&Control::Unable(Unable { generation, text: text.as_str() })).await?;
                self.board.event(Event::Unable);
            }
            (Done::Loaded(_), Job::Profile(_)) => {}
        }
        Ok(Next::Wait)
    }

    /// One frame. Without `memory`, which a job has then, data frames are of an assignment that is over.
    async fn take(&mut self, frame: Frame<'_>, memory: Option<&mut Memory<'_>>) -> Result<Next, Ended> {
        let now = self.board.now();
        let event = self.session.handle(now, frame).map_err(Ended::Session)?;
        if now >= self.session.poll_timeout() {
            // Under a steady stream of frames no timer ever wakes the node.
            self.session.handle_timeout(now).map_err(Ended::Session)?;
        }
        match event {
            SessionEvent::Control(control) => self.control(control).await,
            SessionEvent::Data(frame) => {
                self.data(&frame, memory).await?;
                self.session.done();
                Ok(Next::Wait)
            }
            SessionEvent::Established(_) => {
                self.board.event(Event::Met);
                Ok(Next::Wait)
            }
            SessionEvent::Bye(Bye { reason, .. }) => Ok(Next::End(reason)),
            SessionEvent::Nothing | SessionEvent::Rtt { .. } | SessionEvent::Granted => Ok(Next::Wait),
        }
    }

    async fn control(&mut self, control: Control<'_>) -> Result<Next, Ended> {
        match control {
            Control::Model(model) => {
                let announced = Model {
                    sha256: model.manifest_sha256,
                    port: model.http_port,
                    width: model.width,
                    vocab: model.vocab,
                    layers: model.layers,
                    manifest: None,
                };
                if self.model.map(|model| Model { manifest: None, ..model }) == Some(announced) {
                    return Ok(Next::Wait);
                }
                if model.width == 0 || model.vocab == 0 || model.layers == 0 {
                    return Err(Ended::Unexpected("it announced a model without width, vocabulary or layers"));
                }
                self.session.set_model(model.width, model.vocab);
                (self.model, self.shard) = (Some(announced), None);
                Ok(Next::Start(Job::Profile(announced)))
            }
            Control::Assign(assign) => self.assigned(assign),
            Control::Open(open) => {
                let negotiated = self.session.negotiated();
                let opened = match (&mut self.shard, negotiated) {
                    (Some(shard), Some(negotiated)) => shard.open(&open, &negotiated),
                    _ => Err(RequestError::NotLoaded),
                };
                match opened {
                    Ok(()) => self.board.event(Event::Opened { request: open.request }),
                    Err(error) => self.failed(open.request, open.epoch, error).await?,
                }
                Ok(Next::Wait)
            }
            Control::Close { request } => {
                let compute_us = self.shard.as_mut().map_or(0, |shard| shard.close(request));
                self.tell(&Control::Closed(Closed { request, compute_us })).await?;
                self.board.event(Event::Closed { request, compute_us });
                Ok(Next::Wait)
            }
            _ => Err(Ended::Unexpected("a node takes no such message")),
        }
    }

    fn assigned(&mut self, assign: Assign) -> Result<Next, Ended> {
        let Some(model) = self.model.filter(|model| model.manifest.is_some()) else {
            return Err(Ended::Unexpected("an Assign came before this node's Profile"));
        };
        if self.newest.is_some_and(|newest| assign.generation <= newest) {
            return Ok(Next::Wait);
        }
        (self.newest, self.shard) = (Some(assign.generation), None);
        self.board.event(Event::Assigned { first: assign.first_layer, end: assign.end_layer });
        Ok(Next::Start(Job::Load(model, assign)))
    }

    async fn data(&mut self, frame: &Frame<'_>, memory: Option<&mut Memory<'_>>) -> Result<(), Ended> {
        let Header { request, epoch, .. } = frame.header;
        let board = self.board;
        let (Some(shard), Some(memory)) = (&mut self.shard, memory) else {
            return self.failed(request, epoch, RequestError::NotLoaded).await;
        };
        let answered = shard.answer(memory, frame, || board.micros()).await;
        match answered {
            Ok(None) => Ok(()),
            Ok(Some(header)) => {
                let room = shard.room;
                let parts = memory.divide(&room);
                let payload = parts.as_ref().and_then(|parts| parts.payload.get(..header.payload_len as usize));
                send(board, &mut self.tx, &header, payload.unwrap_or_default()).await
            }
            Err(error) => self.failed(request, epoch, error).await,
        }
    }

    async fn profile(&mut self, memory_bytes: u64, layer_ns: u64) -> Result<(), Ended> {
        self.board.event(Event::Profiled { memory_bytes, layer_ns });
        self.say_profile(self.config.device, memory_bytes, layer_ns).await
    }

    async fn say_profile(&mut self, device: &str, memory_bytes: u64, layer_ns: u64) -> Result<(), Ended> {
        let block = self.model.and_then(|model| BlockLayout::new(&model.manifest?.shape));
        let block = block.map_or(0, |layout| layout.bytes() as u64);
        // A layer reads its block once.
        let read_bytes_per_s = block.saturating_mul(1_000_000_000) / layer_ns.max(1);
        let name = syn1_core::clip(self.config.name);
        let device = syn1_core::clip(device);
        self.tell(&Control::Profile(Profile { name, device, memory_bytes, read_bytes_per_s, layer_ns })).await
    }

    async fn failed(&mut self, request: u32, epoch: u8, error: RequestError) -> Result<(), Ended> {
        let text = Text::of(format_args!("{error}"));
        self.tell(&Control::Failed(Failed { request, epoch, text: text.as_str() })).await?;
        self.board.event(Event::Failed { request });
        Ok(())
    }

    /// Says goodbye; whether it arrives no longer matters.
    async fn say_bye(&mut self, reason: Reason, why: &str) {
        let mut frame = [0; Header::LEN + MAX_CONTROL as usize];
        let Some(len) = self.session.leave(reason, why, &mut frame) else { return };
        let payload = frame.get(Header::LEN..len).unwrap_or_default();
        let _ = send(self.board, &mut self.tx, &Header::control(payload.len() as u32), payload).await;
    }

    async fn tell(&mut self, control: &Control<'_>) -> Result<(), Ended> {
        // The Hello goes first, whatever happens.
        self.flush().await?;
        let mut scratch = [0; MAX_CONTROL as usize];
        let len = control.encode(&mut scratch).map_err(|_| Ended::Unexpected("a message is too long"))?;
        let payload = scratch.get(..len).unwrap_or_default();
        send(self.board, &mut self.tx, &Header::control(len as u32), payload).await
    }

    /// Sends what the session has queued.
    async fn flush(&mut self) -> Result<(), Ended> {
        let mut scratch = [0; Header::LEN + MAX_CONTROL as usize];
        while let Some(len) = self.session.poll_transmit(&mut scratch) {
            let payload = scratch.get(Header::LEN..len).unwrap_or_default();
            send(self.board, &mut self.tx, &Header::control(payload.len() as u32), payload).await?;
        }
        Ok(())
    }
}

/// How far a job has come, in bytes.
#[derive(Default)]
struct Progress {
    done: Cell<usize>,
    total: Cell<usize>,
}

async fn do_job<B: Board>(
    board: &B,
    config: &NodeConfig<'_>,
    memory: &mut Memory<'_>,
    progress: &Progress,
    max_payload: u32,
    max_rows: u16,
    job: Job,
) -> Done {
    match job {
        Job::Profile(model) => Done::Profiled(profile(board, config, memory, &model).await),
        Job::Load(model, assign) => {
            Done::Loaded(load(board, memory, progress, (max_payload, max_rows), &model, &assign).await)
        }
    }
}

/// The manifest, what is offered, and how long a layer takes.
async fn profile<B: Board>(
    board: &B,
    config: &NodeConfig<'_>,
    memory: &mut Memory<'_>,
    model: &Model,
) -> Result<(Manifest, u64, u64), LoadError> {
    let manifest = manifest(board, model.port, &model.sha256, 0..0).await?;
    let shape = manifest.shape;
    let offer = memory.offer(&shape, config.max_rows.into(), MOST_POSITIONS);
    let block = BlockLayout::new(&shape).map_or(u64::MAX, |layout| layout.bytes() as u64);
    // Embedding and head are not computed here: whoever holds one of them beside a block needs more than this.
    let offer = offer.min(block.saturating_add(manifest.least_end_bytes).saturating_sub(1));
    let room = Room { shape, layers: 1, positions: 1, slots: 1, max_rows: 1 };
    let layer_ns = measure(board, memory, &room).unwrap_or(u64::MAX);
    Ok((manifest, if layer_ns == u64::MAX { 0 } else { offer }, layer_ns))
}

/// Nanoseconds of the first layer for one row, computed over whatever is in memory; weights of zero where none are loaded
/// take as long as others.
fn measure<B: Board>(board: &B, memory: &mut Memory<'_>, room: &Room) -> Option<u64> {
    let Parts { weights, caches, rows, mut scratch, .. } = memory.divide(room)?;
    let block = weights.get_mut(..BlockLayout::new(&room.shape)?.bytes())?;
    block.fill(0);
    let row = rows.get_mut(..room.shape.width)?;
    row.fill(0.5);
    let block = Block::new(room.shape, block).ok()?;
    let begun = board.micros();
    block.attention(row, 0, caches, &mut scratch).ok()?;
    block.mlp(row, &mut scratch).ok()?;
    Some(board.micros().saturating_sub(begun).max(1) * 1000)
}

/// Gets the blocks of an assignment into memory and verifies them; gives how it is divided, their bytes and a layer's time.
async fn load<B: Board>(
    board: &B,
    memory: &mut Memory<'_>,
    progress: &Progress,
    (max_payload, max_rows): (u32, u16),
    model: &Model,
    assign: &Assign,
) -> Result<(Room, usize, u64), Refused> {
    let &Assign { first_layer: first, end_layer: end, max_positions, slots, max_rows: rows, .. } = assign;
    if first >= end || end > model.layers || max_positions == 0 || slots == 0 || rows == 0 {
        return Err(Refused::Range(*assign));
    }
    let layers = usize::from(first)..usize::from(end);
    if first == 0 || end == model.layers || layers.len() > Manifest::MOST_BLOCKS {
        return Err(Refused::Ends);
    }
    if rows > max_rows {
        return Err(Refused::Rows { got: rows, max: max_rows });
    }
    // Any plain form may be asked for, and F32 is what any falls back to.
    let bytes = Form::plain(syn1_core::Codec::F32).max_len(rows, model.width).map_or(u64::MAX, u64::from);
    if bytes > u64::from(max_payload) {
        return Err(Refused::Payload { bytes, max: max_payload });
    }
    if usize::from(slots) > MOST_SLOTS {
        return Err(Refused::Slots(slots));
    }
    let manifest = manifest(board, model.port, &model.sha256, layers.clone()).await.map_err(Refused::Load)?;
    let shape = manifest.shape;
    let room = Room {
        shape,
        layers: layers.len(),
        positions: usize::try_from(max_positions).unwrap_or(usize::MAX),
        slots: slots.into(),
        max_rows: rows.into(),
    };
    let have = memory.words.len();
    let fits = room.words().is_some_and(|words| words <= have) && shape.width == usize::from(model.width);
    if !fits || manifest.layers != usize::from(model.layers) {
        return Err(Refused::Memory { words: room.words(), have });
    }
    let too_small = Refused::Memory { words: room.words(), have };
    let Some(parts) = memory.divide(&room) else { return Err(too_small) };
    progress.total.set(parts.weights.len());
    let block_bytes = parts.weights.len() / room.layers;
    for (index, bytes) in parts.weights.chunks_exact_mut(block_bytes).enumerate() {
        let hash = manifest.hash(index).ok_or(Refused::Load(LoadError::Fetch(FetchError::Hash)))?;
        let mut tell = |count| progress.done.set(progress.done.get() + count);
        piece(board, model.port, hash, bytes, &mut tell).await.map_err(Refused::Load)?;
    }
    let Parts { weights, caches, rows, mut scratch, .. } = parts;
    let mut layer_ns = u64::MAX;
    for bytes in weights.chunks_exact(block_bytes) {
        let block = Block::new(shape, bytes).map_err(Refused::Block)?;
        let Some(row) = rows.get_mut(..shape.width) else { break };
        row.fill(0.5);
        let begun = board.micros();
        let warm = block.attention(row, 0, caches, &mut scratch).and_then(|()| block.mlp(row, &mut scratch));
        warm.map_err(|_| Refused::Block(BlockError::NotFinite))?;
        layer_ns = layer_ns.min(board.micros().saturating_sub(begun).max(1) * 1000);
    }
    Ok((room, weights.len(), layer_ns))
}

/// Sends a frame; a coordinator that does not take it for [`STALL_MS`] counts as gone.
async fn send<B: Board, T: Transmit>(board: &B, tx: &mut T, header: &Header, payload: &[u8]) -> Result<(), Ended> {
    let deadline: Millis = board.now().plus(STALL_MS);
    match select(tx.send(header, payload), board.sleep_until(deadline)).await {
        Either::First(sent) => sent.map_err(|error| Ended::Link(error.kind())),
        Either::Second(()) => Err(Ended::Stalled),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(assign) => {
                write!(f, "layers {}..{} are no range of this model", assign.first_layer, assign.end_layer)
            }
            Self::Ends => write!(
                f,
                "this node computes up to {} blocks and neither embedding nor head: give the first and the last layer to \
                 others",
                Manifest::MOST_BLOCKS
            ),
            Self::Rows { got, max } => write!(f, "{got} rows a frame were assigned, {max} were negotiated"),
            Self::Payload { bytes, max } => write!(f, "frames of {bytes} bytes were assigned, {max} were negotiated"),
            Self::Slots(slots) => write!(f, "{slots} requests at a time, this node holds {MOST_SLOTS}"),
            Self::Memory { words, have } => match words {
                Some(words) => write!(f, "the layers need {} bytes, this node has {}", 4 * words, 4 * have),
                None => f.write_str("the layers need more memory than can be addressed"),
            },
            Self::Load(error) => error.fmt(f),
            Self::Block(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(error) => write!(f, "a file of the coordinator cannot be had: {error}"),
            Self::Manifest(error) => error.fmt(f),
        }
    }
}

/// Data frames that may wait: the next chunk of a prompt while one is computed.
const CREDIT: u16 = 2;
/// Loading messages go out this often at most.
const PROGRESS_EVERY_MS: u64 = 500;
/// As long as a silent peer is waited for.
const STALL_MS: u64 = 15_000;
/// Positions that rows and scores are set aside for when memory is offered.
const MOST_POSITIONS: usize = 8192;
