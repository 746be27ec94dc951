//! Work that is dealt out to the machine's threads.

use std::sync::{Mutex, PoisonError};

/// Threads to pack with.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Does `work` for every item; who does which, and in which order, is left open.
///
/// # Panics
/// If `work` does.
pub(crate) fn deal<T: Send>(items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let items = Mutex::new(items);
    // A lock is held for no longer than an iterator's step, which does not panic.
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 1..threads() {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item)
                }
            });
        }
        while let Some(item) = next() {
            work(item);
        }
    });
}
