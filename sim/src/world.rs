//! Time and chance: a clock that stands still until everybody waits, and one generator of random numbers.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What everything in a simulation shares.
#[derive(Clone)]
pub(crate) struct World(Rc<Inner>);

struct Inner {
    now_us: Cell<u64>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    /// Makes timers of one moment go off in the order in which they were set.
    set: Cell<u64>,
    random: RefCell<Pcg64Mcg>,
    trace: RefCell<Vec<String>>,
}

struct Timer {
    at_us: u64,
    number: u64,
    waker: Option<Waker>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl World {
    /// A world in which everything follows from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            now_us: Cell::new(0),
            timers: RefCell::default(),
            set: Cell::new(0),
            random: RefCell::new(Pcg64Mcg::seed_from_u64(seed)),
            trace: RefCell::default(),
        }))
    }

    /// Microseconds since the beginning.
    pub(crate) fn now_us(&self) -> u64 {
        self.0.now_us.get()
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        low + self.0.random.borrow_mut().next_u64() % (high - low + 1)
    }

    /// Whether something happens that happens `percent` times of a hundred.
    pub(crate) fn happens(&self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// One of these.
    pub(crate) fn one_of<T: Clone>(&self, of: &[T]) -> T {
        of[self.between(0, of.len() as u64 - 1) as usize].clone()
    }

    /// Has `waker` woken at a time; without one the clock only stops there.
    pub(crate) fn wake_at(&self, at_us: u64, waker: Option<Waker>) {
        let number = self.0.set.get();
        self.0.set.set(number + 1);
        self.0.timers.borrow_mut().push(Reverse(Timer { at_us, number, waker }));
    }

    /// Waits until a time.
    pub(crate) async fn sleep_until(&self, at_us: u64) {
        let mut set = false;
        poll_fn(|cx| self.poll_until(cx, at_us, &mut set)).await;
    }

    fn poll_until(&self, cx: &Context<'_>, at_us: u64, set: &mut bool) -> Poll<()> {
        if self.now_us() >= at_us {
            return Poll::Ready(());
        }
        if !std::mem::replace(set, true) {
            self.wake_at(at_us, Some(cx.waker().clone()));
        }
        Poll::Pending
    }

    /// Sets the clock to the next timer and sets it off; false if there is none before `end_us`.
    pub(crate) fn advance(&self, end_us: u64) -> bool {
        let next = self.0.timers.borrow().peek().map(|Reverse(timer)| timer.at_us);
        let Some(at_us) = next.filter(|at_us| *at_us <= end_us) else { return false };
        self.0.now_us.set(at_us.max(self.now_us()));
        while self.0.timers.borrow().peek().is_some_and(|Reverse(timer)| timer.at_us <= self.now_us()) {
            let timer = self.0.timers.borrow_mut().pop();
            if let Some(waker) = timer.and_then(|Reverse(timer)| timer.waker) {
                waker.wake();
            }
        }
        true
    }

    /// Writes a line into the trace, with the time.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let mut trace = self.0.trace.borrow_mut();
        if trace.len() < MAX_TRACE {
            trace.push(format!("{:>12.6} {}", self.now_us() as f64 / 1e6, line()));
        }
    }

    /// What was written.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.0.trace.borrow().clone()
    }
}

/// Lines that a trace has at most: a run that goes in circles is not to fill the memory.
const MAX_TRACE: usize = 100_000;
