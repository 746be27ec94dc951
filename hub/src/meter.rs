//! What a transfer reports to and obeys, and its sums.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::HubError;
use crate::limits::POLL;

/// What a transfer reports to and obeys.
pub struct Watch<'a> {
    /// Called when bytes came.
    pub progress: &'a dyn Fn(Progress<'_>),
    /// Called with what a person should know although it is no failure.
    pub notice: &'a dyn Fn(String),
    /// Set from outside: the transfer ends at the next chunk, and what came is kept.
    pub cancelled: &'a AtomicBool,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file at hand.
    pub file: &'a str,
    /// Bytes of all files that are here, those of earlier runs included.
    pub done_bytes: u64,
    /// Bytes of all files that are known to be needed.
    pub total_bytes: u64,
}

/// The sums of one transfer.
pub(crate) struct Meter<'a> {
    watch: &'a Watch<'a>,
    total: Cell<u64>,
    fetched: Cell<u64>,
    done: Cell<u64>,
    reused: Cell<u64>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(watch: &'a Watch<'a>) -> Self {
        let [total, fetched, done, reused] = std::array::from_fn(|_| Cell::new(0));
        Self { watch, total, fetched, done, reused }
    }

    /// So many bytes more are needed.
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.set(self.total.get() + bytes);
    }

    /// Bytes came from elsewhere.
    pub(crate) fn came(&self, file: &str, bytes: u64) {
        self.fetched.set(self.fetched.get() + bytes);
        self.add(file, bytes);
    }

    /// Bytes were here already.
    pub(crate) fn kept(&self, file: &str, bytes: u64) {
        self.reused.set(self.reused.get() + bytes);
        self.add(file, bytes);
    }

    /// Bytes that were counted are thrown away; `reused` of them were here already.
    pub(crate) fn lost(&self, bytes: u64, reused: u64) {
        self.done.set(self.done.get().saturating_sub(bytes));
        self.reused.set(self.reused.get().saturating_sub(reused));
    }

    pub(crate) fn notice(&self, text: String) {
        (self.watch.notice)(text);
    }

    /// Bytes that came, and bytes that were here already.
    pub(crate) fn sums(&self) -> (u64, u64) {
        (self.fetched.get(), self.reused.get())
    }

    /// An error once the transfer is cancelled.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        if self.watch.cancelled.load(Ordering::Relaxed) { Err(HubError::Cancelled) } else { Ok(()) }
    }

    /// Waits, but not longer than until the transfer is cancelled.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), HubError> {
        let mut left = time;
        while !left.is_zero() {
            self.check()?;
            let nap = left.min(POLL);
            std::thread::sleep(nap);
            left -= nap;
        }
        Ok(())
    }

    fn add(&self, file: &str, bytes: u64) {
        self.done.set(self.done.get() + bytes);
        let (done_bytes, total_bytes) = (self.done.get(), self.total.get());
        (self.watch.progress)(Progress { file, done_bytes, total_bytes });
    }
}
