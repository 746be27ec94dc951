//! A cable between a node and the coordinator: frames in order, each with its latency, until it is cut.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use syn1_core::{Frame, Header, Limits, Link, LinkError, LinkErrorKind, Receive, Transmit};

use crate::world::World;

/// One direction of a cable.
#[derive(Clone)]
struct Lane(Rc<RefCell<Traffic>>);

#[derive(Default)]
struct Traffic {
    frames: VecDeque<(u64, Header, Vec<u8>)>,
    bytes: usize,
    /// Nothing comes after what is on its way, from this time on.
    closed: Option<u64>,
    /// What is sent is lost, and nobody is told.
    lost: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A cable, as whoever may cut it sees it.
#[derive(Clone)]
pub(crate) struct Cable {
    up: Lane,
    down: Lane,
}

/// One end of a cable.
pub(crate) struct End {
    rx: Rx,
    tx: Tx,
}

/// The receiving half of an [`End`].
pub(crate) struct Rx {
    world: World,
    lane: Lane,
    payload: Vec<u8>,
    /// The last arrival that a timer was set for.
    armed: Option<u64>,
}

/// The sending half of an [`End`].
pub(crate) struct Tx {
    world: World,
    lane: Lane,
    latency_us: u64,
}

/// A cable with this latency: the node's end, the coordinator's, and the cable.
pub(crate) fn cable(world: &World, latency_us: u64) -> (End, End, Cable) {
    let lane = || Lane(Rc::default());
    let (up, down) = (lane(), lane());
    let end = |rx: &Lane, tx: &Lane| End {
        rx: Rx { world: world.clone(), lane: rx.clone(), payload: Vec::new(), armed: None },
        tx: Tx { world: world.clone(), lane: tx.clone(), latency_us },
    };
    (end(&down, &up), end(&up, &down), Cable { up, down })
}

impl Cable {
    /// Frames vanish from now on, in both directions; nobody is told.
    pub(crate) fn lose(&self) {
        for lane in [&self.up, &self.down] {
            let mut traffic = lane.0.borrow_mut();
            traffic.frames.clear();
            (traffic.lost, traffic.bytes) = (true, 0);
            traffic.writer.take().into_iter().for_each(Waker::wake);
        }
    }

    /// What the node has sent and has not arrived is lost: its machine was reset.
    pub(crate) fn reset(&self) {
        let mut traffic = self.up.0.borrow_mut();
        traffic.frames.clear();
        traffic.bytes = 0;
    }
}

impl Link for End {
    type Error = NetError;
    type Rx = Rx;
    type Tx = Tx;

    fn split(self) -> (Rx, Tx) {
        (self.rx, self.tx)
    }
}

impl Rx {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Header, NetError>> {
        let mut traffic = self.lane.0.borrow_mut();
        let now = self.world.now_us();
        let due = traffic.frames.front().map(|frame| frame.0).or(traffic.closed);
        match due {
            Some(at) if at <= now => {
                let Some((_, header, payload)) = traffic.frames.pop_front() else {
                    return Poll::Ready(Err(NetError::Closed));
                };
                traffic.bytes -= payload.len() + Header::LEN;
                traffic.writer.take().into_iter().for_each(Waker::wake);
                self.payload = payload;
                return Poll::Ready(Ok(header));
            }
            Some(at) if self.armed == Some(at) => {}
            Some(at) => {
                self.armed = Some(at);
                self.world.wake_at(at, Some(cx.waker().clone()));
            }
            None => traffic.reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// What has arrived by now; nothing while there is nothing, and the end of the cable as an error.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) fn try_recv(&mut self, waker: &Waker) -> Result<Option<(Header, Vec<u8>)>, NetError> {
        match self.poll(&Context::from_waker(waker)) {
            Poll::Pending => Ok(None),
            Poll::Ready(header) => Ok(Some((header?, std::mem::take(&mut self.payload)))),
        }
    }
}

impl Receive for Rx {
    type Error = NetError;

    async fn recv(&mut self) -> Result<Frame<'_>, NetError> {
        let header = poll_fn(|cx| self.poll(cx)).await?;
        Ok(Frame { header, payload: &self.payload })
    }

    fn set_limits(&mut self, _: Limits) {}
}

impl Drop for Rx {
    fn drop(&mut self) {
        let mut traffic = self.lane.0.borrow_mut();
        traffic.lost = true;
        traffic.writer.take().into_iter().for_each(Waker::wake);
    }
}

impl Tx {
    /// Whether there is no room for a payload of this length now.
    pub(crate) fn is_full(&self, payload_len: usize) -> bool {
        let traffic = self.lane.0.borrow();
        !traffic.lost && traffic.bytes + payload_len + Header::LEN > CAPACITY
    }

    /// Puts a frame on its way; false if the cable is full.
    pub(crate) fn try_send(&mut self, header: &Header, payload: &[u8]) -> bool {
        let (size, jitter) = (payload.len() + Header::LEN, self.world.between(0, 1 + self.latency_us / 4));
        let mut traffic = self.lane.0.borrow_mut();
        if traffic.lost {
            return true;
        }
        if traffic.bytes + size > CAPACITY {
            return false;
        }
        let arrives = self.world.now_us() + self.latency_us + jitter;
        let arrives = traffic.frames.back().map_or(arrives, |last| last.0.max(arrives));
        traffic.frames.push_back((arrives, *header, payload.to_vec()));
        traffic.bytes += size;
        if let Some(reader) = traffic.reader.take() {
            self.world.wake_at(arrives, Some(reader));
        }
        true
    }
}

impl Transmit for Tx {
    type Error = NetError;

    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), NetError> {
        poll_fn(|cx| {
            if self.try_send(header, payload) {
                return Poll::Ready(Ok(()));
            }
            self.lane.0.borrow_mut().writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let mut traffic = self.lane.0.borrow_mut();
        if traffic.lost {
            return;
        }
        let last = traffic.frames.back().map_or(0, |frame| frame.0);
        let ends = last.max(self.world.now_us() + self.latency_us);
        traffic.closed = Some(ends);
        if let Some(reader) = traffic.reader.take() {
            self.world.wake_at(ends, Some(reader));
        }
    }
}

/// Why a cable's end fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetError {
    /// The other end is gone.
    Closed,
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was closed")
    }
}

impl std::error::Error for NetError {}

impl LinkError for NetError {
    fn kind(&self) -> LinkErrorKind {
        LinkErrorKind::Closed
    }

    fn version(&self) -> Option<u8> {
        None
    }
}

/// Bytes that a cable holds in one direction, a socket's buffers: beyond that the sender waits.
const CAPACITY: usize = 16 << 10;
