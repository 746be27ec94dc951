//! A loaded shard at work: data frames in, the engine's step for all of them, the answer frames out. All buffers are reused.

use std::collections::BTreeMap;

use syn1_core::activation::{Inbound, Outbound, Place};
use syn1_core::control::{Open, Output};
use syn1_core::{Codec, CodecError, Flags, Form, Frame, Header, Kind, Negotiated, codec, encoded_len, output};
use syn1_kernels::engine::{Engine, Input, Step, StepResult};

use crate::requests::{Request, RequestError, Requests, is_newer};

/// An engine with its open requests.
pub(crate) struct Shard<E> {
    engine: E,
    max_rows: usize,
    requests: Requests,
    boundaries: BTreeMap<u32, Boundaries>,
    /// What enters, of all frames that were taken and not computed.
    ids: Vec<u32>,
    rows: Vec<f32>,
    result: Vec<f32>,
    results: Vec<StepResult>,
    payload: Vec<u8>,
}

/// What one request's activations need to be read and written: what delta remembers, and room for compression.
struct Boundaries {
    inbound: Inbound<Vec<f32>>,
    outbound: Outbound<Vec<f32>, Vec<u8>>,
}

/// A frame that was taken and is to be answered, with what became of it so far.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The request that it belongs to.
    pub(crate) request: u32,
    /// Its route's epoch.
    pub(crate) epoch: u8,
    /// Its rows.
    pub(crate) rows: usize,
    /// What is to be done, or why it cannot be.
    pub(crate) work: Result<Work, RequestError>,
}

/// What a frame asks for, and how much of its result was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    request: Request,
    position: u32,
    rows: usize,
    /// Its first row among those that were taken.
    first: usize,
    /// Where its values begin in the result, and how many they are.
    begin: usize,
    len: usize,
    /// Index of the first row that gives logits, on a shard with the head.
    wanted: usize,
    /// Index of the next row whose logits are to be sent.
    next: usize,
    answered: bool,
    /// The frame came from tokens that are not accepted yet, and so does the answer.
    predicted: bool,
}

impl<E: Engine> Shard<E> {
    /// `max_rows` is the most rows of a frame that come.
    pub(crate) fn new(engine: E, max_rows: usize) -> Self {
        Self {
            engine,
            max_rows,
            requests: Requests::default(),
            boundaries: BTreeMap::new(),
            ids: Vec::new(),
            rows: Vec::new(),
            result: Vec::new(),
            results: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Opens a request, or takes up a known one under its new route with the KV cache as it is.
    pub(crate) fn open(&mut self, open: &Open, negotiated: &Negotiated) -> Result<(), RequestError> {
        let form = form(open, negotiated)?;
        if self.engine.plan().heads() {
            self.check_output(open.output, negotiated.max_payload)?;
        }
        let (slot, compute_us) = match self.requests.find(open.request) {
            Some(known) if is_newer(open.epoch, known.epoch) => (known.slot, known.compute_us),
            Some(known) => {
                return Err(RequestError::Reopened { id: known.id, have: known.epoch, got: open.epoch });
            }
            None => (self.engine.open()?, 0),
        };
        self.requests.insert(Request {
            id: open.request,
            epoch: open.epoch,
            slot,
            form,
            output: open.output,
            wanted_from: open.wanted_from,
            compute_us,
        });
        self.boundaries.insert(open.request, self.fresh(form, negotiated.flags));
        Ok(())
    }

    fn fresh(&self, form: Form, agreed: Flags) -> Boundaries {
        let (width, rows) = (self.engine.plan().spec.width, self.max_rows);
        let floats = |flags: Flags, count| vec![0.0; if flags.contains(Flags::DELTA) { count } else { 0 }];
        let compresses = form.flags().contains(Flags::COMPRESSED);
        let plain = encoded_len(form.codec(), rows as u16, width as u16).filter(|_| compresses).unwrap_or(0);
        Boundaries {
            inbound: Inbound::new(floats(agreed, width)),
            outbound: Outbound::new(floats(form.flags(), 2 * width), vec![0; plain as usize]),
        }
    }

    /// Ends a request; gives the microseconds that the engine computed for it. One that is not open took none: it may
    /// have failed to open.
    pub(crate) fn close(&mut self, id: u32) -> u64 {
        let Some(request) = self.requests.remove(id) else { return 0 };
        self.boundaries.remove(&id);
        self.engine.close(request.slot);
        request.compute_us
    }

    /// Rows that can be computed at a time.
    pub(crate) fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Adds to what the engine has spent on the requests of a group: to each by its rows.
    pub(crate) fn spent(&mut self, group: &[Taken], compute_us: u64) {
        let computed = || group.iter().filter(|taken| taken.work.is_ok());
        let rows: usize = computed().map(|taken| taken.rows).sum();
        for taken in computed() {
            self.requests.spent(taken.request, compute_us * taken.rows as u64 / rows as u64);
        }
    }

    /// Decodes a frame into the shard's own buffers, behind those that were taken and not computed; nothing where it belongs
    /// to an older route.
    pub(crate) fn take(&mut self, frame: &Frame<'_>) -> Result<Option<Work>, RequestError> {
        let Header { kind, flags, epoch, position, request, rows, cols, .. } = frame.header;
        let Some(&request) = self.requests.for_frame(request, epoch)? else {
            return Ok(None);
        };
        let embeds = self.engine.plan().embeds();
        let first = if embeds { self.ids.len() } else { self.rows.len() / self.engine.plan().spec.width };
        match kind {
            Kind::Tokens if embeds => self.ids.extend(codec::ids(frame.payload)),
            Kind::Activation if !embeds => {
                let boundaries = self.boundaries.get_mut(&request.id).ok_or(RequestError::NotOpen(request.id))?;
                let begin = self.rows.len();
                self.rows.resize(begin + usize::from(rows) * usize::from(cols), 0.0);
                let decoded = boundaries.inbound.decode(frame, self.rows.get_mut(begin..).unwrap_or_default());
                if let Err(source) = decoded {
                    self.rows.truncate(begin);
                    return Err(RequestError::Decode { position, source });
                }
            }
            Kind::Tokens => return Err(RequestError::Kind { want: "activations", got: "tokens" }),
            _ => return Err(RequestError::Kind { want: "tokens", got: "activations" }),
        }
        let rows = usize::from(rows);
        let wanted = if self.engine.plan().heads() {
            usize::try_from(request.wanted_from.saturating_sub(position)).unwrap_or(rows).min(rows)
        } else {
            0
        };
        Ok(Some(Work {
            request,
            position,
            rows,
            first,
            begin: 0,
            len: 0,
            wanted,
            next: wanted,
            answered: false,
            predicted: flags.contains(Flags::PREDICTED),
        }))
    }

    /// Computes the steps of all frames that were taken, in one pass where the engine can do that. One that fails leaves its
    /// error in the frame's place.
    pub(crate) async fn compute(&mut self, group: &mut [Taken]) {
        let width = (!self.engine.plan().embeds()).then_some(self.engine.plan().spec.width);
        let mut works = group.iter().filter_map(|taken| taken.work.as_ref().ok());
        match (works.next(), works.next()) {
            (None, _) => self.results.clear(),
            // The usual single frame needs no list.
            (Some(work), None) => {
                let ran = self.engine.run(work.step(&self.ids, &self.rows, width), &mut self.result).await;
                self.results.clear();
                self.results.push(ran.map(|()| 0..self.result.len()));
            }
            (Some(a), Some(b)) => {
                let steps = [a, b].into_iter().chain(works);
                let steps: Vec<Step<'_>> = steps.map(|work| work.step(&self.ids, &self.rows, width)).collect();
                self.engine.run_many(&steps, &mut self.result, &mut self.results).await;
            }
        }
        let computed = group.iter_mut().filter(|taken| taken.work.is_ok());
        for (taken, result) in computed.zip(self.results.drain(..)) {
            match (&mut taken.work, result) {
                (Ok(work), Ok(range)) => (work.begin, work.len) = (range.start, range.len()),
                (work, result) => *work = Err(result.err().map_or(RequestError::NoShard, RequestError::from)),
            }
        }
        self.ids.clear();
        self.rows.clear();
    }

    /// The next frame of the answer; nothing when all are made.
    pub(crate) fn answer(
        &mut self,
        work: &mut Work,
        max_payload: u32,
    ) -> Result<Option<(Header, &[u8])>, RequestError> {
        if work.answered {
            return Ok(None);
        }
        if !self.engine.plan().heads() {
            work.answered = true;
            return self.activation(work).map(Some);
        }
        let Request { id, epoch, output, .. } = work.request;
        if work.next >= work.rows {
            work.answered = true;
            return Ok(Some((work.mark(Header::acknowledge(id, epoch, work.position_of(work.rows))), &[])));
        }
        let vocab = self.engine.plan().spec.vocab;
        let position = work.position_of(work.next);
        let rows = match output {
            Output::Full => 1,
            Output::Top(k) => rows_a_frame(k, max_payload).min(work.rows - work.next),
        };
        let begin = (work.next - work.wanted) * vocab;
        let short = RequestError::Result { position, got: work.len, want: begin + rows * vocab };
        let logits = work.values(&self.result).get(begin..begin + rows * vocab).ok_or(short)?;
        let failed = |source| RequestError::Output { position, source };
        let header = match output {
            Output::Full => Header::full(id, epoch, position, u32::try_from(vocab).unwrap_or(u32::MAX)),
            Output::Top(k) => Header::top(id, epoch, position, u16::try_from(rows).unwrap_or(u16::MAX), k),
        };
        let header = header.ok_or(RequestError::Wide { bytes: u64::MAX, max: max_payload })?;
        let payload = sized(&mut self.payload, header.payload_len);
        match output {
            Output::Full => output::full_encode(logits, payload).map(drop).map_err(failed)?,
            Output::Top(k) => {
                let row_bytes = payload.len() / rows;
                for (logits, out) in logits.chunks_exact(vocab).zip(payload.chunks_exact_mut(row_bytes)) {
                    output::top_encode(logits, k, out).map_err(failed)?;
                }
            }
        }
        work.next += rows;
        work.answered = work.next == work.rows;
        Ok(Some((work.mark(header), payload)))
    }

    fn activation(&mut self, work: &Work) -> Result<(Header, &[u8]), RequestError> {
        let Work { request: Request { id, epoch, form, .. }, position, rows, predicted, .. } = *work;
        let width = self.engine.plan().spec.width;
        let values = work.values(&self.result);
        let (got, want) = (values.len(), rows * width);
        if got != want {
            return Err(RequestError::Result { position, got, want });
        }
        let failed = |source| RequestError::Encode { position, source };
        let cols = u16::try_from(width).unwrap_or(u16::MAX);
        let count = u16::try_from(rows).unwrap_or(u16::MAX);
        // A row that binary16 can't hold goes as f32, whatever was asked for.
        let longest = [form, Form::plain(Codec::F32)].map(|form| form.max_len(count, cols));
        let longest = longest.into_iter().max().flatten().ok_or(failed(CodecError::TooManyBytes))?;
        let boundaries = self.boundaries.get_mut(&id).ok_or(RequestError::NotOpen(id))?;
        let place = Place { request: id, epoch, position };
        let payload = sized(&mut self.payload, longest);
        let header = boundaries.outbound.encode(form, place, predicted, values, cols, payload).map_err(failed)?;
        Ok((header, payload.get(..header.payload_len as usize).unwrap_or_default()))
    }

    fn check_output(&self, output: Output, max: u32) -> Result<(), RequestError> {
        let vocab = u32::try_from(self.engine.plan().spec.vocab).unwrap_or(u32::MAX);
        let bytes = match output {
            Output::Top(k) if k == 0 || u32::from(k) > vocab => return Err(RequestError::Top { k, vocab }),
            Output::Top(k) => u64::from(row_bytes(k)),
            Output::Full => Header::full(0, 0, 0, vocab).map_or(u64::MAX, |header| header.payload_len.into()),
        };
        if bytes > u64::from(max) {
            return Err(RequestError::Wide { bytes, max });
        }
        Ok(())
    }
}

impl Work {
    /// The engine's step: ids and rows are those of all frames that were taken, rows `width` wide where the range takes them.
    fn step<'a>(&self, ids: &'a [u32], rows: &'a [f32], width: Option<usize>) -> Step<'a> {
        let range = self.first..self.first + self.rows;
        let input = match width {
            None => Input::Tokens(ids.get(range).unwrap_or_default()),
            Some(width) => Input::Rows(rows.get(range.start * width..range.end * width).unwrap_or_default()),
        };
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        Step { slot: self.request.slot, position, input, wanted: self.wanted }
    }

    /// Its part of the engine's result.
    fn values<'a>(&self, result: &'a [f32]) -> &'a [f32] {
        result.get(self.begin..self.begin + self.len).unwrap_or_default()
    }

    /// The header of an answer, which is as certain as the frame that it answers.
    fn mark(&self, header: Header) -> Header {
        if self.predicted { header.predicted() } else { header }
    }

    /// The position of the row with this index.
    fn position_of(&self, row: usize) -> u32 {
        self.position.saturating_add(u32::try_from(row).unwrap_or(u32::MAX))
    }
}

/// How a request's activations are to travel, if both ends can do that.
fn form(open: &Open, negotiated: &Negotiated) -> Result<Form, RequestError> {
    let flags = Flags::from_bits(open.flags).unwrap_or(Flags::NONE);
    let form = Codec::from_byte(open.codec)
        .filter(|codec| flags.bits() == open.flags && negotiated.codecs.contains(*codec))
        .filter(|_| negotiated.flags.contains(flags))
        .and_then(|codec| Form::new(codec, flags));
    form.ok_or(RequestError::Form { codec: open.codec, flags })
}

/// Bytes of one row of the top `k`.
fn row_bytes(k: u16) -> u32 {
    8 + 8 * u32::from(k)
}

/// Rows of the top `k` that fit a frame; at least one, which was checked when the request was opened.
fn rows_a_frame(k: u16, max_payload: u32) -> usize {
    usize::try_from(max_payload / row_bytes(k)).unwrap_or(usize::MAX).max(1)
}

/// The first `len` bytes of a buffer that only ever grows.
fn sized(buffer: &mut Vec<u8>, len: u32) -> &mut [u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}
