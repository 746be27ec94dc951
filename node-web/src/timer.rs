//! Waiting for the clock.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use wasm_bindgen::JsCast;
use wasm_bindgen::closure::Closure;

use crate::js;

/// Ready after some milliseconds, and never before the browser has looked at what came meanwhile.
pub(crate) fn sleep(ms: u64) -> Sleep {
    Sleep { ms: i32::try_from(ms).unwrap_or(i32::MAX), timer: None, state: Rc::default() }
}

/// What [`sleep`] gives. The browser's timer begins with the first look and ends with this.
pub(crate) struct Sleep {
    ms: i32,
    timer: Option<(i32, Closure<dyn FnMut()>)>,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    fired: bool,
    waiting: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.state.borrow_mut();
            if state.fired {
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
        }
        if self.timer.is_none() {
            let state = self.state.clone();
            let fire = Closure::new(move || {
                let mut state = state.borrow_mut();
                state.fired = true;
                if let Some(waker) = state.waiting.take() {
                    waker.wake();
                }
            });
            let timer = js::scope()
                .set_timeout_with_callback_and_timeout_and_arguments_0(fire.as_ref().unchecked_ref(), self.ms);
            // A Worker has timers for as long as it lives; one that is being ended waits for nothing.
            self.timer = timer.ok().map(|id| (id, fire));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((id, _fire)) = self.timer.take() {
            js::scope().clear_timeout_with_handle(id);
        }
    }
}
