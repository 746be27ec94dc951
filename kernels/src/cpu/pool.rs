//! Persistent worker threads that run one closure together.
//!
//! A decode step of a small model lasts less than a millisecond and waits for other threads every few microseconds, so
//! waiting spins first. It soon yields, because nodes on one machine may have more threads than the machine has cores.
//! For the same reason nobody waits for a thread that has not begun: a closure must be whole even if only the caller runs
//! it, and a worker that comes too late is not let in.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Threads that run one closure at a time, together with the thread that calls [`Pool::run`].
///
/// Between runs they wait: awake for [`LOOKS_BEFORE_PARK`], then parked. Dropping the pool joins them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What one thread of a run knows.
#[derive(Clone, Copy)]
pub(super) struct Worker<'a> {
    /// `0..threads`; the caller of [`Pool::run`] is 0.
    pub(super) index: usize,
    panicked: &'a AtomicBool,
}

/// Another thread of the run panicked: leave the closure, what is waited for may never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Poisoned;

impl Pool {
    /// A pool of `threads` (at least one, the caller's).
    ///
    /// # Errors
    /// The system's, when it has no room for another thread.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let others = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            gate: Padded(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            parked: (0..others).map(|_| Padded(AtomicBool::new(false))).collect(),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // A pool that fails half-way is dropped, which joins the threads it has.
        let mut pool = Self { shared, workers: Vec::with_capacity(others) };
        for index in 1..=others {
            let shared = Arc::clone(&pool.shared);
            let body = move || shared.serve(index);
            pool.workers.push(thread::Builder::new().name(format!("syn1-cpu-{index}")).spawn(body)?);
        }
        // A thread allocates when it begins. Later on, nothing does.
        let begun = AtomicUsize::new(0);
        let begin = |worker: Worker<'_>| {
            begun.fetch_add(1, Ordering::Relaxed);
            // Nobody panics here.
            let _ = worker.wait(|| begun.load(Ordering::Relaxed) == threads.max(1));
        };
        pool.run(&begin).map_err(std::io::Error::other)?;
        Ok(pool)
    }

    /// Threads of a run at most, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` on this thread and on every worker that begins before this thread is done; returns when all have left
    /// it. No thread runs it twice.
    ///
    /// # Errors
    /// What the first thread to panic panicked with; the pool stays usable.
    pub(super) fn run(&mut self, job: &(dyn Fn(Worker<'_>) + Sync)) -> Result<(), String> {
        let shared = &*self.shared;
        shared.panicked.store(false, Ordering::Relaxed);
        // SAFETY: only the lifetime changes. This function does not return before the gate is shut and every worker that
        // passed it has left the job, panicking or not; `call` catches this thread's panic.
        let forever = unsafe { std::mem::transmute::<&(dyn Fn(Worker<'_>) + Sync), Job>(job) };
        // SAFETY: `&mut self` and the shut gate mean that no worker reads the cell until the gate opens.
        unsafe { *shared.job.get() = Some(forever) };
        let round = (shared.gate.0.load(Ordering::Relaxed) & ROUND).wrapping_add(ONE_ROUND);
        shared.gate.0.store(round | OPEN, Ordering::SeqCst);
        self.wake();
        shared.call(job, 0);
        shared.gate.0.fetch_and(!OPEN, Ordering::Relaxed);
        wait_until(|| shared.gate.0.load(Ordering::Acquire) == round);
        match shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(text) => Err(text),
        }
    }

    /// Wakes the parked workers, after a change of `gate` or `stop`.
    fn wake(&self) {
        // SeqCst on both sides: either the worker sees the change before it parks, or this thread sees that it is parked.
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            if parked.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

impl Worker<'_> {
    /// Waits until `done`, which must synchronise with what is waited for.
    ///
    /// # Errors
    /// [`Poisoned`] when another thread of the run panicked.
    pub(super) fn wait(&self, done: impl Fn() -> bool) -> Result<(), Poisoned> {
        wait_until(|| done() || self.panicked.load(Ordering::Relaxed));
        if self.panicked.load(Ordering::Relaxed) { Err(Poisoned) } else { Ok(()) }
    }
}

type Job = &'static (dyn Fn(Worker<'_>) + Sync);

struct Shared {
    /// The run's number ([`ROUND`]), whether workers may still begin ([`OPEN`]), and how many are inside.
    gate: Padded<AtomicU64>,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    parked: Vec<Padded<AtomicBool>>,
    panicked: AtomicBool,
    /// The first panic of a run.
    panic: Mutex<Option<String>>,
}

// SAFETY: `job` is the only field that is not Sync. The one owner of the pool writes it while the gate is shut and nobody
// inside; workers read it after they have passed the gate, which the owner opens after the write.
unsafe impl Sync for Shared {}

impl Shared {
    fn serve(&self, index: usize) {
        let mut last = 0;
        while let Some(round) = self.enter(index, last) {
            last = round;
            // SAFETY: this thread has passed the gate, so the job is written and stays until it leaves.
            if let Some(job) = unsafe { *self.job.get() } {
                self.call(job, index);
            }
            self.gate.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Passes the gate of a round other than `last`; `None` when the pool ends.
    fn enter(&self, index: usize, last: u64) -> Option<u64> {
        let parked = &self.parked[index - 1].0;
        let (mut looks, mut parking) = (0, false);
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let gate = self.gate.0.load(Ordering::SeqCst);
            if gate & OPEN != 0 && gate & ROUND != last {
                if self.gate.0.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    parked.store(false, Ordering::Relaxed);
                    return Some(gate & ROUND);
                }
            } else if parking {
                thread::park();
                (looks, parking) = (0, false);
            } else if looks < LOOKS_BEFORE_PARK {
                looks += 1;
                (0..SPINS_PER_LOOK).for_each(|_| std::hint::spin_loop());
            } else {
                // Said first, looked once more, parked then: `wake` can't be missed.
                parked.store(true, Ordering::SeqCst);
                parking = true;
            }
        }
    }

    fn call(&self, job: &(dyn Fn(Worker<'_>) + Sync), index: usize) {
        let worker = Worker { index, panicked: &self.panicked };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text_of(&*panic));
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// Spins until `done`, giving the core away after a while.
fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..SPINS_BEFORE_YIELD {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        thread::yield_now();
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

/// Keeps what several threads write apart: two cache lines, because x86 prefetches them in pairs.
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// The bits of `gate`: workers inside below, then `OPEN`, then the round.
const OPEN: u64 = 1 << 31;
const ONE_ROUND: u64 = 1 << 32;
const ROUND: u64 = !(ONE_ROUND - 1);

/// Looks for the next run before a worker parks: forty microseconds where a pause takes ten nanoseconds, and some four
/// times that on the CPUs with the longest. That is longer than the time between two decode steps on one machine, and
/// short enough that an idle engine costs nothing. Counted and not timed, because not every target has a clock.
const LOOKS_BEFORE_PARK: u32 = 240;

/// Pauses between two looks for the next run.
const SPINS_PER_LOOK: u32 = 16;

/// Looks at what is waited for before the core is offered to other threads: some ten microseconds.
const SPINS_BEFORE_YIELD: u32 = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_runs_every_job_and_no_worker_runs_one_twice() {
        for threads in [1, 2, 3, 7] {
            let mut pool = Pool::new(threads).unwrap();
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(&|worker| {
                    counts[worker.index].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                assert_eq!(counts[0].load(Ordering::Relaxed), 1);
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) <= 1));
            }
        }
    }

    #[test]
    fn all_workers_come_when_the_caller_stays_also_parked_ones() {
        let mut pool = Pool::new(4).unwrap();
        for round in 0..30 {
            if round % 10 == 0 {
                thread::sleep(std::time::Duration::from_millis(1));
            }
            let inside = AtomicUsize::new(0);
            pool.run(&|worker| {
                inside.fetch_add(1, Ordering::Relaxed);
                worker.wait(|| inside.load(Ordering::Relaxed) == 4).unwrap();
            })
            .unwrap();
        }
    }

    #[test]
    fn a_panic_frees_the_waiting_threads_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        for culprit in 0..3 {
            let (waiting, freed) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let result = pool.run(&|worker| {
                if worker.index == culprit {
                    worker.wait(|| waiting.load(Ordering::Relaxed) == 2).unwrap();
                    panic!("thread {culprit} gives up");
                }
                waiting.fetch_add(1, Ordering::Relaxed);
                if worker.wait(|| false) == Err(Poisoned) {
                    freed.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(result, Err(format!("thread {culprit} gives up")));
            assert_eq!(freed.load(Ordering::Relaxed), 2);
            assert_eq!(pool.run(&|_| ()), Ok(()));
        }
    }
}
