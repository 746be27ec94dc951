//! What a device says once, by a callback: looked at where a thread waits for the device, awaited in a browser.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// A place for one answer.
pub(super) struct Answer<T>(Arc<Mutex<Said<T>>>);

struct Said<T> {
    answer: Option<T>,
    waiting: Option<Waker>,
}

impl<T: Clone + Send + 'static> Answer<T> {
    /// The place, and what fills it.
    pub(super) fn new() -> (Self, impl FnOnce(T) + Send + 'static) {
        let said = Arc::new(Mutex::new(Said { answer: None, waiting: None }));
        let place = said.clone();
        let fill = move |answer| {
            let waiting = {
                let mut said = place.lock().unwrap_or_else(PoisonError::into_inner);
                said.answer = Some(answer);
                said.waiting.take()
            };
            if let Some(waker) = waiting {
                waker.wake();
            }
        };
        (Self(said), fill)
    }

    /// The answer, if it is there.
    pub(super) fn said(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answer.clone()
    }

    /// Waits for the answer. Nobody who waits may hold up what gives it.
    #[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "a thread waits for the device itself"))]
    pub(super) async fn wait(&self) -> T {
        poll_fn(|cx| {
            let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &said.answer {
                Some(answer) => Poll::Ready(answer.clone()),
                None => {
                    said.waiting = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_by_the_answer_and_who_comes_later_finds_it() {
        let (answer, fill) = Answer::new();
        assert_eq!(answer.said(), None);
        let thread = std::thread::spawn(move || fill(7));
        assert_eq!(pollster::block_on(answer.wait()), 7);
        thread.join().unwrap();
        assert_eq!((answer.said(), pollster::block_on(answer.wait())), (Some(7), 7));
    }
}
