//! What a callback of the device tells a future.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// A value that comes once. Natively it is there as soon as the device was polled; in a browser the event loop brings it.
pub(crate) struct Signal<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> Signal<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { value: None, waker: None })))
    }

    /// What the callback is to call.
    pub(crate) fn teller(&self) -> impl FnOnce(T) + Send + 'static {
        let state = self.0.clone();
        move |value| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.value = Some(value);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    /// The value, once it is there.
    pub(crate) async fn wait(self) -> T {
        std::future::poll_fn(|context| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match state.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    state.waker = Some(context.waker().clone());
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
    fn a_value_that_comes_later_wakes_who_waits() {
        let signal = Signal::new();
        let tell = signal.teller();
        let teller = std::thread::spawn(move || tell(7));
        assert_eq!(pollster::block_on(signal.wait()), 7);
        teller.join().unwrap();
    }
}
