//! Counts what a link carries.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::{Value, json};
use syn1_core::{Frame, Header, Kind, Limits, Link, Receive, Transmit};
use web_time::Instant;

/// Figures of a node since its start. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Meter(Rc<Figures>);

#[derive(Default)]
struct Figures {
    frames: Cell<u64>,
    rows: Cell<u64>,
    spent_us: Cell<u64>,
    /// When the frame came that is being answered.
    begun: Cell<Option<Instant>>,
}

impl Meter {
    fn came(&self, header: &Header) {
        if header.kind == Kind::Control {
            return;
        }
        self.0.rows.set(self.0.rows.get() + u64::from(header.rows));
        self.0.begun.set(Some(Instant::now()));
    }

    fn went(&self, header: &Header) {
        if header.kind == Kind::Control {
            return;
        }
        // An answer of several frames counts once.
        if let Some(begun) = self.0.begun.take() {
            self.0.frames.set(self.0.frames.get() + 1);
            self.0.spent_us.set(self.0.spent_us.get() + begun.elapsed().as_micros() as u64);
        }
    }

    /// For pages.
    pub(crate) fn event(&self) -> Value {
        let Figures { frames, rows, spent_us, begun } = &*self.0;
        json!({
            "event": "tokens",
            "frames": frames.get(),
            "tokens": rows.get(),
            "us_per_frame": spent_us.get().checked_div(frames.get()),
            "in_frame": begun.get().is_some(),
        })
    }
}

/// A link whose frames are counted.
pub(crate) struct Metered<L> {
    pub(crate) link: L,
    pub(crate) meter: Meter,
}

impl<L: Link> Link for Metered<L> {
    type Error = L::Error;
    type Rx = MeteredRx<L::Rx>;
    type Tx = MeteredTx<L::Tx>;

    fn split(self) -> (Self::Rx, Self::Tx) {
        let (rx, tx) = self.link.split();
        (MeteredRx { rx, meter: self.meter.clone() }, MeteredTx { tx, meter: self.meter })
    }
}

pub(crate) struct MeteredRx<R> {
    rx: R,
    meter: Meter,
}

impl<R: Receive> Receive for MeteredRx<R> {
    type Error = R::Error;

    async fn recv(&mut self) -> Result<Frame<'_>, R::Error> {
        let frame = self.rx.recv().await?;
        self.meter.came(&frame.header);
        Ok(frame)
    }

    fn set_limits(&mut self, limits: Limits) {
        self.rx.set_limits(limits);
    }
}

pub(crate) struct MeteredTx<T> {
    tx: T,
    meter: Meter,
}

impl<T: Transmit> Transmit for MeteredTx<T> {
    type Error = T::Error;

    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), T::Error> {
        self.tx.send(header, payload).await?;
        self.meter.went(header);
        Ok(())
    }
}
