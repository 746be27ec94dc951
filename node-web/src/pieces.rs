//! A shard's pieces: from what the browser keeps, else from the coordinator.

use std::cell::Cell;

use js_sys::Uint8Array;
use serde_json::{Value, json};
use syn1_kernels::engine::EngineError;
use syn1_kernels::gpu::Upload;
use syn1_model::{Digest, Hashing, Manifest, ManifestPiece, Piece, PieceBytes, Plan};
use syn1_node::Progress;

use crate::cache::{Cache, File, QUOTA, Room};
use crate::http;
use crate::js::Refused;
use crate::taker::{STAGE, Taker};
use crate::timer::sleep;

/// Where pieces come from and who hears of it.
pub(crate) struct Source<'a> {
    /// `https://host:port/shards`.
    pub(crate) base: &'a str,
    /// None where the browser keeps nothing.
    pub(crate) cache: Option<&'a Cache>,
    pub(crate) event: &'a dyn Fn(Value),
}

/// Where a piece is put while it comes.
enum Sink<'a> {
    File(&'a File),
    Memory(Vec<u8>),
    Gpu(Stream<'a>),
}

/// A piece on its way to the GPU, and its hash.
struct Stream<'a> {
    upload: &'a mut Upload,
    hash: Hashing,
    bytes: u64,
    /// Bytes since the GPU was waited for.
    staged: usize,
}

/// Why a shard did not come.
pub(crate) enum NotGathered {
    /// The device takes it not.
    Engine(EngineError),
    /// In a sentence.
    Other(String),
}

impl From<String> for NotGathered {
    fn from(cause: String) -> Self {
        Self::Other(cause)
    }
}

/// Why a transfer stopped.
enum Stop {
    /// Another attempt may do.
    Again(String),
    /// The browser keeps no more; memory does.
    Full(Refused),
    /// For good.
    Never(String),
    /// So does what the device says.
    Engine(EngineError),
}

impl Stop {
    /// What ends it all.
    fn ended(self) -> NotGathered {
        match self {
            Self::Again(cause) | Self::Never(cause) => NotGathered::Other(cause),
            Self::Full(refused) => NotGathered::Other(refused.to_string()),
            Self::Engine(error) => NotGathered::Engine(error),
        }
    }
}

impl Source<'_> {
    /// The manifest with this SHA-256.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) async fn manifest(&self, want: Digest) -> Result<Manifest, String> {
        let url = format!("{}/manifest.json", self.base);
        let mut attempts = Attempts::default();
        loop {
            let answer = async {
                let answer = http::get(&url, 0).await.map_err(Stop::Again)?;
                refusal("the manifest", &url, answer.status)?;
                answer.bytes(Manifest::MAX_BYTES).await.map_err(Stop::Again)
            };
            match answer.await {
                Ok(bytes) => {
                    let got = Digest::of(&bytes);
                    if got != want {
                        return Err(format!(
                            "the manifest from {url} has SHA-256 {got}, the coordinator announced {want}"
                        ));
                    }
                    return Manifest::from_bytes(&bytes).map_err(|error| error.to_string());
                }
                Err(stop) => attempts.failed("the manifest", &url, stop).await?,
            }
        }
    }

    /// Brings the pieces of `plan` to the taker made for it, each verified; gives the bytes that came over the network.
    /// Dropping the future ends the transfer; what has come is kept.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn gather(
        &self,
        plan: &Plan,
        manifest: &Manifest,
        taker: &mut Taker,
        progress: &dyn Fn(Progress),
    ) -> Result<u64, NotGathered> {
        let listed = plan.pieces.iter().map(|&piece| {
            manifest.find(piece).ok_or_else(|| format!("the manifest lists no piece {piece}: split the model again"))
        });
        let listed = listed.collect::<Result<Vec<_>, _>>()?;
        let total_bytes = listed.iter().map(|piece| piece.bytes).sum();
        let mut cache = self.cache;
        self.make_room(&listed, manifest).await;
        let mut keeps = keeps(&listed, manifest).into_iter();
        let (mut fetched_bytes, mut before) = (0, 0);
        for (&its, piece) in plan.pieces.iter().zip(listed) {
            let tell = move |bytes| progress(Progress { done_bytes: before + bytes, total_bytes });
            tell(0);
            let kept = loop {
                let Some(kept) = cache else { break None };
                match self.kept(kept, its, piece, taker, &tell).await {
                    Ok(fetched) => break Some(fetched),
                    Err(Stop::Full(refused)) => {
                        if refused.name == QUOTA && self.gave_up(kept, &mut keeps).await {
                            continue;
                        }
                        self.notice(format!(
                            "the weights go past the browser's files ({refused}): they are fetched again at the next visit"
                        ));
                        cache = None;
                    }
                    Err(stop) => return Err(stop.ended()),
                }
            };
            fetched_bytes += match kept {
                Some(fetched) => fetched,
                None => self.held(its, piece, taker, &tell).await.map_err(Stop::ended)?,
            };
            before += piece.bytes;
        }
        progress(Progress { done_bytes: before, total_bytes });
        Ok(fetched_bytes)
    }

    /// Something mends itself.
    fn notice(&self, text: String) {
        (self.event)(json!({ "event": "notice", "text": text }));
    }

    /// Says what is here and what must come. Where the browser says that there is no room for that, forgets other models' pieces,
    /// and then those of layers that others compute. Chromium tells no page how little room there is: it refuses to write.
    async fn make_room(&self, listed: &[&ManifestPiece], manifest: &Manifest) {
        let Some(cache) = self.cache else {
            let missing = listed.iter().map(|piece| piece.bytes).sum();
            let why = "this browser keeps no files for the page: the weights are fetched at every visit";
            return (self.event)(Room::ask().await.event(0, missing, Some(why)));
        };
        let (mut kept, mut missing) = (0, 0);
        for piece in listed {
            let here = cache.kept_bytes(piece.sha256).await.min(piece.bytes);
            (kept, missing) = (kept + here, missing + piece.bytes - here);
        }
        let mut room = Room::ask().await;
        let mut notice = None;
        if missing > room.left_bytes() {
            let used_before = room.used_bytes;
            let mut gone = 0;
            for keep in keeps(listed, manifest) {
                if missing > room.left_bytes() {
                    gone += cache.evict(&keep).await.unwrap_or(0);
                    room = Room::ask().await;
                }
            }
            let left = room.left_bytes();
            let freed = used_before.saturating_sub(room.used_bytes);
            notice = Some(if missing <= left {
                format!(
                    "gave up {gone} pieces of other models and layers ({freed} bytes): the browser keeps {} for this page",
                    room.quota_bytes
                )
            } else {
                format!(
                    "the browser has room for {left} bytes more, these layers need {missing}: what does not fit is fetched at every visit"
                )
            });
        }
        (self.event)(room.event(kept, missing, notice.as_deref()));
    }

    /// The browser has no room, whatever it had said: forgets what is not in the next of `keeps` that makes any. Says whether
    /// one did.
    async fn gave_up(&self, cache: &Cache, keeps: &mut impl Iterator<Item = Vec<Digest>>) -> bool {
        for keep in keeps {
            let gone = cache.evict(&keep).await.unwrap_or(0);
            if gone > 0 {
                self.notice(format!(
                    "gave up {gone} pieces of other models and layers: the browser keeps no more for this page"
                ));
                return true;
            }
        }
        false
    }

    /// A piece by way of the browser's files; gives the bytes that came over the network.
    async fn kept(
        &self,
        cache: &Cache,
        its: Piece,
        piece: &ManifestPiece,
        taker: &mut Taker,
        tell: &dyn Fn(u64),
    ) -> Result<u64, Stop> {
        let broken = |refused: Refused| {
            if refused.name == QUOTA { Stop::Full(refused) } else { Stop::Never(refused.to_string()) }
        };
        let file = cache.piece(piece.sha256).await.map_err(Stop::Full)?;
        let mut fetched = 0;
        let mut resumed = file.len().map_err(broken)?;
        loop {
            if file.len().map_err(broken)? != piece.bytes {
                let mut sink = Sink::File(&file);
                fetched += self.download(piece, &mut sink, tell).await?;
                file.flush().map_err(broken)?;
            }
            let got = match taker.in_parts() {
                Some(upload) => {
                    let mut stream = Stream::begin(upload, its)?;
                    stream.file(piece, &file).await?;
                    stream.end().await?
                }
                None => {
                    let bytes = read(piece, &file).map_err(Stop::Never)?;
                    let got = Digest::of(bytes.as_slice());
                    if got == piece.sha256 {
                        taker.whole(its, bytes).await.map_err(Stop::Engine)?;
                    }
                    got
                }
            };
            if got == piece.sha256 {
                return Ok(fetched);
            }
            file.cut().map_err(broken)?;
            if resumed == 0 {
                return Err(Stop::Never(self.damaged(piece, got)));
            }
            self.notice(format!("piece {} was damaged in the browser's files: fetching it again", piece.name));
            resumed = 0;
        }
    }

    /// A piece that nobody keeps; gives the bytes that came over the network.
    async fn held(
        &self,
        its: Piece,
        piece: &ManifestPiece,
        taker: &mut Taker,
        tell: &dyn Fn(u64),
    ) -> Result<u64, Stop> {
        let mut sink = match taker.in_parts() {
            Some(upload) => Sink::Gpu(Stream::begin(upload, its)?),
            None => Sink::Memory(Vec::new()),
        };
        let fetched = self.download(piece, &mut sink, tell).await?;
        let (got, whole) = match sink {
            Sink::Gpu(stream) => (stream.end().await?, None),
            Sink::Memory(bytes) => (Digest::of(&bytes), Some(bytes)),
            Sink::File(_) => return Err(Stop::Never("a piece was lost on its way".to_owned())),
        };
        if got != piece.sha256 {
            return Err(Stop::Never(self.damaged(piece, got)));
        }
        if let Some(bytes) = whole {
            taker.whole(its, PieceBytes::copy_of(&bytes)).await.map_err(Stop::Engine)?;
        }
        Ok(fetched)
    }

    fn damaged(&self, piece: &ManifestPiece, got: Digest) -> String {
        format!(
            "piece {} from {} has SHA-256 {got}, the manifest says {}: its file on the coordinator is damaged",
            piece.name, self.base, piece.sha256
        )
    }

    /// Fills the sink up to the piece's length; gives the bytes that came over the network.
    async fn download(&self, piece: &ManifestPiece, sink: &mut Sink<'_>, tell: &dyn Fn(u64)) -> Result<u64, Stop> {
        let url = format!("{}/{}", self.base, piece.sha256);
        let what = format!("piece {}", piece.name);
        let mut attempts = Attempts::default();
        let fetched = Cell::new(0);
        loop {
            let before = sink.len()?;
            match self.attempt(piece, &what, &url, sink, &fetched, tell).await {
                Ok(()) => return Ok(fetched.get()),
                Err(stop @ Stop::Again(_)) => {
                    if sink.len()? > before {
                        attempts = Attempts::default();
                    }
                    attempts.failed(&what, &url, stop).await.map_err(Stop::Never)?;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    async fn attempt(
        &self,
        piece: &ManifestPiece,
        what: &str,
        url: &str,
        sink: &mut Sink<'_>,
        fetched: &Cell<u64>,
        tell: &dyn Fn(u64),
    ) -> Result<(), Stop> {
        if sink.len()? >= piece.bytes {
            sink.cut()?;
        }
        let answer = http::get(url, sink.len()?).await.map_err(Stop::Again)?;
        if answer.status != 416 {
            refusal(what, url, answer.status)?;
        }
        if answer.begins_at != Some(sink.len()?) {
            // The server does not resume: from the start, in this answer if it begins there.
            sink.cut()?;
            if answer.begins_at != Some(0) {
                return Err(Stop::Again("the server did not send the range that was asked for".to_owned()));
            }
        }
        while let Some(chunk) = answer.chunk().await.map_err(Stop::Again)? {
            let at = sink.len()?;
            // Never more than the manifest promises: what is too long has another hash anyway.
            let room = u32::try_from(piece.bytes - at).unwrap_or(u32::MAX);
            sink.append(at, &chunk.subarray(0, chunk.length().min(room))).await?;
            fetched.set(fetched.get() + u64::from(chunk.length()));
            let len = sink.len()?;
            tell(len);
            if len == piece.bytes {
                return Ok(());
            }
        }
        Err(Stop::Again(format!("it ended after {} of {} bytes", sink.len()?, piece.bytes)))
    }
}

/// What is kept where room is short, at first and then: the pieces of this model, and those of these layers alone.
fn keeps(listed: &[&ManifestPiece], manifest: &Manifest) -> [Vec<Digest>; 2] {
    let all = manifest.pieces.iter().map(|piece| piece.sha256).collect();
    [all, listed.iter().map(|piece| piece.sha256).collect()]
}

/// Reads a complete file into memory.
fn read(piece: &ManifestPiece, file: &File) -> Result<PieceBytes, String> {
    let len = usize::try_from(piece.bytes).map_err(|_| format!("piece {} is too large for WebAssembly", piece.name))?;
    PieceBytes::try_with(len, |out| file.read(0, out).map_err(Unread::Refused)).map_err(|error| match error {
        Unread::Refused(refused) => format!("piece {} cannot be read from the browser's files: {refused}", piece.name),
        Unread::NoMemory => format!("this tab has no memory for piece {} of {} bytes", piece.name, piece.bytes),
    })
}

enum Unread {
    Refused(Refused),
    NoMemory,
}

impl From<std::collections::TryReserveError> for Unread {
    fn from(_: std::collections::TryReserveError) -> Self {
        Self::NoMemory
    }
}

impl<'a> Stream<'a> {
    fn begin(upload: &'a mut Upload, piece: Piece) -> Result<Self, Stop> {
        upload.begin(piece).map_err(Stop::Engine)?;
        Ok(Self { upload, hash: Hashing::default(), bytes: 0, staged: 0 })
    }

    /// The next bytes. The GPU is waited for before more than [`STAGE`] of them are under way.
    async fn take(&mut self, part: &[u8]) -> Result<(), Stop> {
        self.hash.take(part);
        self.upload.put(part).map_err(Stop::Engine)?;
        (self.bytes, self.staged) = (self.bytes + part.len() as u64, self.staged + part.len());
        if self.staged >= STAGE {
            self.upload.settled().await.map_err(Stop::Engine)?;
            self.staged = 0;
        }
        Ok(())
    }

    /// All of a complete file.
    async fn file(&mut self, piece: &ManifestPiece, file: &File) -> Result<(), Stop> {
        let mut part = vec![0; usize::try_from(piece.bytes).unwrap_or(STAGE).min(STAGE)];
        while self.bytes < piece.bytes {
            let left = usize::try_from(piece.bytes - self.bytes).unwrap_or(STAGE);
            let most = left.min(STAGE);
            let part = &mut part[..most];
            let read = file.read(self.bytes, part);
            read.map_err(|refused| {
                Stop::Never(format!("piece {} cannot be read from the browser's files: {refused}", piece.name))
            })?;
            self.take(part).await?;
        }
        Ok(())
    }

    /// The hash of what came, all of which is on the GPU then.
    async fn end(self) -> Result<Digest, Stop> {
        self.upload.settled().await.map_err(Stop::Engine)?;
        Ok(self.hash.end())
    }

    /// Forgets what came.
    fn cut(&mut self) -> Result<(), Stop> {
        self.upload.again().map_err(Stop::Engine)?;
        (self.hash, self.bytes) = (Hashing::default(), 0);
        Ok(())
    }
}

impl Sink<'_> {
    fn len(&self) -> Result<u64, Stop> {
        match self {
            Self::File(file) => file.len().map_err(stopped),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::Gpu(stream) => Ok(stream.bytes),
        }
    }

    async fn append(&mut self, at: u64, chunk: &Uint8Array) -> Result<(), Stop> {
        match self {
            Self::File(file) => file.write(at, chunk).map_err(stopped),
            Self::Memory(bytes) => {
                bytes.extend(chunk.to_vec());
                Ok(())
            }
            Self::Gpu(stream) => stream.take(&chunk.to_vec()).await,
        }
    }

    fn cut(&mut self) -> Result<(), Stop> {
        match self {
            Self::File(file) => file.cut().map_err(stopped),
            Self::Memory(bytes) => {
                bytes.clear();
                Ok(())
            }
            Self::Gpu(stream) => stream.cut(),
        }
    }
}

fn stopped(refused: Refused) -> Stop {
    if refused.name == QUOTA { Stop::Full(refused) } else { Stop::Never(refused.to_string()) }
}

/// An error for a status that is not the bytes.
fn refusal(what: &str, url: &str, status: u16) -> Result<(), Stop> {
    match status {
        200 | 206 => Ok(()),
        408 | 416 | 429 | 500.. => Err(Stop::Again(format!("HTTP {status}"))),
        404 => Err(Stop::Never(format!(
            "{what}: {url} answered HTTP 404: the coordinator does not have it; was it restarted with another model?"
        ))),
        _ => Err(Stop::Never(format!("{what}: {url} answered HTTP {status}: is that a syn1 coordinator?"))),
    }
}

/// Attempts without progress.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Counts a failure and waits, longer each time; an error when it was one too many.
    async fn failed(&mut self, what: &str, url: &str, stop: Stop) -> Result<(), String> {
        let cause = match stop {
            Stop::Again(cause) => cause,
            Stop::Never(cause) => return Err(cause),
            Stop::Full(refused) => return Err(refused.to_string()),
            Stop::Engine(error) => return Err(error.to_string()),
        };
        self.0 += 1;
        if self.0 >= MAX_ATTEMPTS {
            let attempts = self.0;
            return Err(format!("{what}: {url} failed {attempts} times in a row, last: {cause}"));
        }
        sleep(FIRST_BACKOFF_MS << (self.0 - 1)).await;
        Ok(())
    }
}

/// Attempts without progress before a transfer is given up: with the backoff about six seconds.
const MAX_ATTEMPTS: u32 = 6;
/// Pause after the first failure; doubled after each further one.
const FIRST_BACKOFF_MS: u64 = 200;
