//! Letting go of GPU objects one thread at a time.
//!
//! NVIDIA's driver (580.159 for Linux) can wait for ever when several threads of a process destroy their devices at once:
//! `vkDestroyDevice` holds the loader's lock while it waits for a thread of the driver's own, which does not end. So whatever
//! is last to hold a device is dropped between a [`Begin`], its first field, and an [`End`], its last: fields are dropped in
//! the order of their declaration.

use std::cell::{Cell, RefCell};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first field: from its drop on, this thread is alone.
#[derive(Clone, Default)]
pub(super) struct Begin;

/// The last field: with its drop, others may go on.
#[derive(Clone, Default)]
pub(super) struct End;

impl Drop for Begin {
    fn drop(&mut self) {
        // A thread that is ending has nothing left to remember with; its last objects go as they are.
        let _ = DEPTH.try_with(|depth| {
            if depth.replace(depth.get() + 1) == 0 {
                let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = HELD.try_with(|held| held.replace(Some(lock)));
            }
        });
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| {
            if depth.replace(depth.get().saturating_sub(1)) == 1 {
                let _ = HELD.try_with(|held| held.take());
            }
        });
    }
}

static LOCK: Mutex<()> = Mutex::new(());

thread_local! {
    /// Begun and not ended on this thread: an engine is dropped with its device.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts who is being dropped, and tells of company.
    struct Counted;

    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);

    impl Drop for Counted {
        fn drop(&mut self) {
            MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(2));
            NOW.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    struct Inner {
        _begin: Begin,
        _counted: Option<Counted>,
        _end: End,
    }

    #[derive(Default)]
    struct Outer {
        _begin: Begin,
        _inner: Inner,
        _counted: Option<Counted>,
        _end: End,
    }

    #[test]
    fn many_threads_drop_one_after_the_other_and_nested_ones_do_not_wait_for_themselves() {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let inner = Inner { _counted: Some(Counted), ..Inner::default() };
                    drop(Outer { _inner: inner, _counted: Some(Counted), ..Outer::default() });
                    drop(Inner { _counted: Some(Counted), ..Inner::default() });
                });
            }
        });
        assert_eq!(MOST.load(Ordering::SeqCst), 1);
    }
}
