//! A flag that futures of one thread wait for.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Raised once or again and again. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Signal(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    raised: bool,
    waiting: Vec<Waker>,
}

impl Signal {
    /// Raises it and wakes whoever waits.
    pub(crate) fn raise(&self) {
        let mut state = self.0.borrow_mut();
        state.raised = true;
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Whether it was raised.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.borrow().raised
    }

    /// Takes it down; says whether it was raised.
    pub(crate) fn lower(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().raised)
    }

    /// Ready when it is raised, and stays so.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            if state.raised {
                return Poll::Ready(());
            }
            let waker = context.waker();
            if !state.waiting.iter().any(|known| known.will_wake(waker)) {
                state.waiting.push(waker.clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Waits for whichever is ready first, the first of them if both are.
pub(crate) async fn either<T>(first: impl Future<Output = T>, second: impl Future<Output = T>) -> T {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    poll_fn(|context| match first.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => second.as_mut().poll(context),
    })
    .await
}
