//! The requests that are open on a shard, each with its KV cache and the epoch of its route.

use syn1_core::control::Output;
use syn1_core::{CodecError, Flags, Form, OutputError};
use syn1_kernels::engine::{EngineError, Slot};

/// The open requests: a handful, at most as many as the engine has KV caches.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    open: Vec<Request>,
}

/// One open request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its number.
    pub(crate) id: u32,
    /// The incarnation of its route; frames of an older one are dropped.
    pub(crate) epoch: u8,
    /// Its KV cache.
    pub(crate) slot: Slot,
    /// How the activations that it sends travel.
    pub(crate) form: Form,
    /// What its output frames carry, on the shard with the head.
    pub(crate) output: Output,
    /// Rows at this position and behind give outputs.
    pub(crate) wanted_from: u32,
    /// What the engine has spent on it, microseconds.
    pub(crate) compute_us: u64,
}

/// Why a request failed. Others go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("no shard is loaded on this node: wait for its Loaded message")]
    NoShard,
    #[error("request {0} is not open on this node: send Open first")]
    NotOpen(u32),
    #[error(
        "request {id} is open with epoch {have}, a frame came with epoch {got}: send Open with the new epoch first"
    )]
    NotYet { id: u32, have: u8, got: u8 },
    #[error(
        "request {id} is already open with epoch {have}, an Open came with epoch {got}: a new route has a higher epoch"
    )]
    Reopened { id: u32, have: u8, got: u8 },
    #[error("activations cannot be sent in codec {codec} with flags {flags}: the Hellos did not agree on it")]
    Form { codec: u8, flags: Flags },
    #[error("output of the top {k} is not possible: 1 to {vocab} are")]
    Top { k: u16, vocab: u32 },
    #[error("one row of output has {bytes} bytes, the link carries {max} a frame: ask for fewer logits")]
    Wide { bytes: u64, max: u32 },
    #[error("this layer range takes {want}, got {got}")]
    Kind { want: &'static str, got: &'static str },
    #[error("what came for position {position} cannot be decoded: {source}")]
    Decode { position: u32, source: CodecError },
    #[error("the result at position {position} cannot be sent: {source}")]
    Encode { position: u32, source: CodecError },
    #[error("the result at position {position} cannot be sent: {source}")]
    Output { position: u32, source: OutputError },
    #[error("the engine gave {got} values for position {position}, {want} are due: this node's engine is broken")]
    Result { position: u32, got: usize, want: usize },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Requests {
    /// The request with this number.
    pub(crate) fn find(&self, id: u32) -> Option<&Request> {
        self.open.iter().find(|request| request.id == id)
    }

    /// The request that a frame belongs to; nothing where the frame is of an older route and is to be dropped.
    pub(crate) fn for_frame(&self, id: u32, epoch: u8) -> Result<Option<&Request>, RequestError> {
        let request = self.find(id).ok_or(RequestError::NotOpen(id))?;
        if epoch == request.epoch {
            Ok(Some(request))
        } else if is_newer(epoch, request.epoch) {
            Err(RequestError::NotYet { id, have: request.epoch, got: epoch })
        } else {
            Ok(None)
        }
    }

    /// Adds a request, or puts it in the place of its older incarnation.
    pub(crate) fn insert(&mut self, request: Request) {
        match self.open.iter_mut().find(|open| open.id == request.id) {
            Some(open) => *open = request,
            None => self.open.push(request),
        }
    }

    /// Adds to what the engine has spent on a request.
    pub(crate) fn spent(&mut self, id: u32, compute_us: u64) {
        if let Some(request) = self.open.iter_mut().find(|open| open.id == id) {
            request.compute_us += compute_us;
        }
    }

    /// Removes a request.
    pub(crate) fn remove(&mut self, id: u32) -> Option<Request> {
        let index = self.open.iter().position(|request| request.id == id)?;
        Some(self.open.swap_remove(index))
    }
}

/// Whether epoch `a` comes behind `b`. Epochs wrap: the nearer way round counts.
pub(crate) fn is_newer(a: u8, b: u8) -> bool {
    a != b && a.wrapping_sub(b) < 128
}

#[cfg(test)]
mod tests {
    use syn1_core::Codec;

    use super::*;

    fn request(id: u32, epoch: u8) -> Request {
        Request {
            id,
            epoch,
            slot: Slot(id as usize),
            form: Form::plain(Codec::F32),
            output: Output::Full,
            wanted_from: 0,
            compute_us: 0,
        }
    }

    #[test]
    fn epochs_wrap() {
        assert!(is_newer(1, 0) && is_newer(0, 255) && is_newer(127, 0));
        assert!(!is_newer(0, 0) && !is_newer(0, 1) && !is_newer(255, 0) && !is_newer(128, 0));
    }

    #[test]
    fn frames_of_an_older_route_are_dropped_and_those_of_an_unopened_one_are_refused() {
        let mut requests = Requests::default();
        requests.insert(request(7, 3));
        assert_eq!(requests.for_frame(7, 3).unwrap().unwrap().id, 7);
        assert_eq!(requests.for_frame(7, 2).unwrap(), None);
        assert_eq!(requests.for_frame(7, 4).unwrap_err(), RequestError::NotYet { id: 7, have: 3, got: 4 });
        assert_eq!(requests.for_frame(8, 3).unwrap_err(), RequestError::NotOpen(8));
    }

    #[test]
    fn a_new_incarnation_takes_the_place_of_the_old_one() {
        let mut requests = Requests::default();
        requests.insert(request(7, 3));
        requests.insert(request(9, 0));
        requests.insert(Request { slot: Slot(7), ..request(7, 4) });
        assert_eq!(requests.for_frame(7, 3).unwrap(), None);
        assert_eq!(requests.remove(7).map(|request| request.slot), Some(Slot(7)));
        assert_eq!(requests.remove(7), None);
        assert!(requests.find(9).is_some());
    }
}
