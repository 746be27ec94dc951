//! A node's end of a link without bytes: frames are handed over in memory, whole and on one thread.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use syn1_core::{Frame, Header, Limits, Link, LinkError, LinkErrorKind, Receive, Transmit};

/// Where a node's frames come from, and what becomes of its own.
pub(super) trait Desk {
    /// The next frame for the node, if there is one. Nobody is woken when there is: whoever puts one there polls the node.
    fn take(&self) -> Option<(Header, Vec<u8>)>;

    /// The node hands over a frame.
    fn give(&self, header: &Header, payload: &[u8]);
}

/// A link to a desk.
pub(super) struct InMemory<D>(pub(super) Rc<D>);

/// Its receiving half, with the frame that came last.
pub(super) struct Rx<D> {
    desk: Rc<D>,
    frame: (Header, Vec<u8>),
}

/// Its sending half.
pub(super) struct Tx<D>(Rc<D>);

/// No frame is lost in memory.
#[derive(Debug)]
pub(super) struct Never;

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a link in memory failed")
    }
}

impl std::error::Error for Never {}

impl LinkError for Never {
    fn kind(&self) -> LinkErrorKind {
        LinkErrorKind::Other
    }

    fn version(&self) -> Option<u8> {
        None
    }
}

impl<D: Desk> Link for InMemory<D> {
    type Error = Never;
    type Rx = Rx<D>;
    type Tx = Tx<D>;

    fn split(self) -> (Rx<D>, Tx<D>) {
        (Rx { desk: self.0.clone(), frame: (Header::control(0), Vec::new()) }, Tx(self.0))
    }
}

impl<D: Desk> Receive for Rx<D> {
    type Error = Never;

    async fn recv(&mut self) -> Result<Frame<'_>, Never> {
        self.frame = poll_fn(|_| self.desk.take().map_or(Poll::Pending, Poll::Ready)).await;
        Ok(Frame { header: self.frame.0, payload: &self.frame.1 })
    }

    fn set_limits(&mut self, _: Limits) {}
}

impl<D: Desk> Transmit for Tx<D> {
    type Error = Never;

    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), Never> {
        self.0.give(header, payload);
        Ok(())
    }
}
