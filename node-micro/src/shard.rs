//! A loaded layer range at work: requests, their KV caches, a frame in and a frame out.

use core::fmt;

use embassy_futures::yield_now;
use syn1_core::control::Open;
use syn1_core::{Codec, CodecError, Flags, Form, Frame, Header, Inbound, Kind, Negotiated, Outbound, Place};
use syn1_kernels_int::{Block, BlockError, BlockLayout, StepError};

use crate::memory::{Memory, Parts, Room};

/// The requests of an assignment.
pub(crate) struct Shard {
    pub(crate) room: Room,
    requests: [Option<Request>; MOST_SLOTS],
}

/// An open request; its place in the list is its KV cache.
#[derive(Clone, Copy)]
struct Request {
    id: u32,
    epoch: u8,
    form: Form,
    /// Positions in the KV cache.
    have: usize,
    compute_us: u64,
}

/// Why a request cannot go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RequestError {
    NotLoaded,
    Slots(usize),
    NotOpen(u32),
    Reopened(u32),
    Form,
    Kind,
    Rows { got: usize, max: usize },
    Gap { have: usize, got: usize },
    Context { end: usize, max: usize },
    Codec(CodecError),
    Step(StepError),
    Block(BlockError),
}

impl Shard {
    pub(crate) const fn new(room: Room) -> Self {
        Self { room, requests: [None; MOST_SLOTS] }
    }

    /// Opens a request, or takes up a known one under its new route with the KV cache as it is.
    pub(crate) fn open(&mut self, open: &Open, negotiated: &Negotiated) -> Result<(), RequestError> {
        let codec = Codec::from_byte(open.codec).filter(|codec| negotiated.codecs.contains(*codec));
        let plain = Flags::from_bits(open.flags).is_some_and(Flags::is_empty);
        let form = codec.filter(|_| plain).and_then(|codec| Form::new(codec, Flags::NONE));
        let form = form.ok_or(RequestError::Form)?;
        if let Some(known) = self.find(open.request) {
            let newer = open.epoch != known.epoch && open.epoch.wrapping_sub(known.epoch) < 128;
            if !newer {
                return Err(RequestError::Reopened(open.request));
            }
            (known.epoch, known.form) = (open.epoch, form);
            return Ok(());
        }
        let slots = self.room.slots.min(MOST_SLOTS);
        let free = self.requests.iter_mut().take(slots).find(|request| request.is_none());
        *free.ok_or(RequestError::Slots(slots))? =
            Some(Request { id: open.request, epoch: open.epoch, form, have: 0, compute_us: 0 });
        Ok(())
    }

    /// Ends a request; gives the microseconds that it took.
    pub(crate) fn close(&mut self, id: u32) -> u64 {
        let place = self.requests.iter_mut().find(|request| request.is_some_and(|request| request.id == id));
        place.and_then(Option::take).map_or(0, |request| request.compute_us)
    }

    fn find(&mut self, id: u32) -> Option<&mut Request> {
        self.requests.iter_mut().flatten().find(|request| request.id == id)
    }

    /// Computes a data frame: the header of the answer, whose payload is at the front of the memory's. Nothing where the
    /// frame is of an older route.
    pub(crate) async fn answer(
        &mut self,
        memory: &mut Memory<'_>,
        frame: &Frame<'_>,
        micros: impl Fn() -> u64,
    ) -> Result<Option<Header>, RequestError> {
        let Header { kind, flags, epoch, position, request: id, rows, cols, .. } = frame.header;
        let room = self.room;
        let slot = self.requests.iter().position(|request| request.is_some_and(|request| request.id == id));
        let slot = slot.ok_or(RequestError::NotOpen(id))?;
        let request = self.requests.get_mut(slot).and_then(Option::as_mut).ok_or(RequestError::NotOpen(id))?;
        if epoch != request.epoch {
            return if epoch.wrapping_sub(request.epoch) < 128 { Err(RequestError::NotOpen(id)) } else { Ok(None) };
        }
        let count = usize::from(rows);
        let first = usize::try_from(position).unwrap_or(usize::MAX);
        let end = first.saturating_add(count);
        if kind != Kind::Activation {
            return Err(RequestError::Kind);
        }
        if count == 0 || count > room.max_rows {
            return Err(RequestError::Rows { got: count, max: room.max_rows });
        }
        if first > request.have {
            return Err(RequestError::Gap { have: request.have, got: first });
        }
        if end > room.positions {
            return Err(RequestError::Context { end, max: room.positions });
        }
        // A frame at a position first forgets what came from there on, whatever becomes of it.
        request.have = first;
        let begun = micros();
        let parts = memory.divide(&room).ok_or(RequestError::NotLoaded)?;
        let Parts { weights, caches, rows, payload, mut scratch } = parts;
        let rows = rows.get_mut(..count * room.shape.width).ok_or(RequestError::NotLoaded)?;
        Inbound::new([]).decode(frame, rows).map_err(RequestError::Codec)?;
        let block_bytes = BlockLayout::new(&room.shape).ok_or(RequestError::NotLoaded)?.bytes();
        let cache_words = room.shape.kv_words() * room.positions;
        for (layer, bytes) in weights.chunks_exact(block_bytes).enumerate() {
            // Checked when it was loaded.
            let block = Block::trusted(room.shape, bytes).map_err(RequestError::Block)?;
            let cache = caches.chunks_exact_mut(cache_words).nth(slot * room.layers + layer);
            let cache = cache.ok_or(RequestError::NotLoaded)?;
            for (place, x) in (first..).zip(rows.chunks_exact_mut(room.shape.width)) {
                block.attention(x, place, cache, &mut scratch).map_err(RequestError::Step)?;
                // The network, too, wants to get on.
                yield_now().await;
                block.mlp(x, &mut scratch).map_err(RequestError::Step)?;
                yield_now().await;
            }
        }
        let place = Place { request: id, epoch, position };
        let predicted = flags.contains(Flags::PREDICTED);
        let mut outbound = Outbound::new([], []);
        let header = outbound.encode(request.form, place, predicted, rows, cols, payload);
        let header = header.map_err(RequestError::Codec)?;
        request.have = end;
        request.compute_us += micros().saturating_sub(begun);
        Ok(Some(header))
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoaded => f.write_str("this node has no layers yet"),
            Self::Slots(slots) => write!(f, "all {slots} KV caches of this node are in use: wait for a request to end"),
            Self::NotOpen(id) => write!(f, "request {id} is not open at this node: send Open first"),
            Self::Reopened(id) => write!(f, "request {id} is already open: a new route has a higher epoch"),
            Self::Form => f.write_str("activations cannot be sent in that form: the Hellos did not agree on it"),
            Self::Kind => f.write_str("this layer range takes activations"),
            Self::Rows { got, max } => write!(f, "a step of {got} rows: 1 to {max} are possible"),
            Self::Gap { have, got } => {
                write!(f, "step begins at position {got}, but the KV cache holds {have}: feed those between first")
            }
            Self::Context { end, max } => write!(f, "position {end} is beyond the context of {max} positions"),
            Self::Codec(error) => error.fmt(f),
            Self::Step(error) => error.fmt(f),
            Self::Block(error) => error.fmt(f),
        }
    }
}

/// Requests that a node holds at a time, whatever its memory.
pub(crate) const MOST_SLOTS: usize = 8;
