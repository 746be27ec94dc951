//! Work that blocks: on a thread beside the conversation, one piece of work at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, oneshot};

/// Runs one piece of work at a time. Clones share it.
///
/// Work that nobody waits for any more is told to end, and what comes next waits until it did: both would want the memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane(Arc<Mutex<()>>);

impl Lane {
    /// Runs `work` on a thread where it may block; its flag is set when this future is dropped.
    ///
    /// # Errors
    /// Those of `work`, and one for a thread that panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AtomicBool) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let turn = self.0.clone().lock_owned().await;
        let guard = CancelOnDrop(Arc::default());
        let cancelled = guard.0.clone();
        let (done, result) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            // Where nobody takes the result it is dropped here, while the lane still counts as busy.
            let _ = done.send(work(&cancelled));
            drop(turn);
        });
        let result = result.await;
        drop(guard);
        result.unwrap_or_else(|_| Err("a thread of this node failed: its own message is above".to_owned()))
    }

    /// Waits until nothing runs.
    pub(crate) async fn idle(&self) {
        drop(self.0.lock().await);
    }
}

/// An error once `cancelled` is set: for work to ask between its parts.
///
/// # Errors
/// When nobody waits for the work any more.
pub(crate) fn go_on(cancelled: &AtomicBool) -> Result<(), String> {
    if cancelled.load(Ordering::Relaxed) { Err("cancelled".to_owned()) } else { Ok(()) }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Holds memory, as a half-loaded shard does.
    struct Held(Arc<AtomicBool>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn work_begins_when_what_was_dropped_before_it_is_gone_with_its_result() {
        let lane = Lane::default();
        let freed = Arc::new(AtomicBool::new(false));
        let held = Held(freed.clone());
        let (begun, begin) = oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told_to_end) = mpsc::channel();
        let old = lane.run(move |cancelled| {
            begun.send(()).unwrap();
            released.recv().unwrap();
            tell.send(go_on(cancelled).is_err()).unwrap();
            Ok(held)
        });
        tokio::select! {
            _ = old => panic!("it waits for its release"),
            started = begin => started.unwrap(),
        }
        let seen = freed.clone();
        let new = lane.run(move |cancelled| {
            go_on(cancelled)?;
            Ok(seen.load(Ordering::SeqCst))
        });
        release.send(()).unwrap();
        assert_eq!(new.await, Ok(true));
        assert!(told_to_end.recv().unwrap());
    }

    #[tokio::test]
    async fn a_lane_is_idle_when_its_dropped_work_has_ended() {
        let lane = Lane::default();
        let (begun, begin) = oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, end) = (ended.clone(), ended);
        tokio::select! {
            _ = lane.run(move |_| {
                begun.send(()).unwrap();
                released.recv().unwrap();
                end.store(true, Ordering::SeqCst);
                Ok(())
            }) => panic!("it waits for its release"),
            started = begin => started.unwrap(),
        }
        release.send(()).unwrap();
        lane.idle().await;
        assert!(seen.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_leaves_the_lane_free() {
        let lane = Lane::default();
        assert!(lane.run::<()>(|_| panic!("as planned")).await.unwrap_err().contains("thread"));
        assert_eq!(lane.run(|_| Ok(5)).await, Ok(5));
    }
}
