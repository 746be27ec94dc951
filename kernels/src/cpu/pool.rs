//! Persistent worker threads that run one closure together, and the barrier that they meet at inside it.
//!
//! A decode step of a small model lasts less than a millisecond and has a barrier every few microseconds, so waiting
//! spins first. It soon yields, because nodes on one machine may have more threads than the machine has cores.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Threads that run one closure at a time, together with the thread that calls [`Pool::run`].
///
/// Between runs they wait: awake for [`SPIN`], then parked. Dropping the pool joins them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What one thread of a run knows.
#[derive(Clone, Copy)]
pub(super) struct Worker<'a> {
    /// `0..threads`; the caller of [`Pool::run`] is 0.
    pub(super) index: usize,
    /// Threads of the run.
    pub(super) threads: usize,
    barrier: &'a Barrier,
}

/// Another thread of the run panicked: leave the closure, nobody waits any more.
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
            round: Padded(AtomicU32::new(0)),
            job: UnsafeCell::new(None),
            running: Padded(AtomicU32::new(0)),
            stop: AtomicBool::new(false),
            parked: (0..others).map(|_| Padded(AtomicBool::new(false))).collect(),
            barrier: Barrier::new(others as u32 + 1),
        });
        // A pool that fails half-way is dropped, which joins the threads it has.
        let mut pool = Self { shared, workers: Vec::with_capacity(others) };
        for index in 1..=others {
            let shared = Arc::clone(&pool.shared);
            let body = move || shared.serve(index);
            pool.workers.push(thread::Builder::new().name(format!("syn1-cpu-{index}")).spawn(body)?);
        }
        Ok(pool)
    }

    /// Threads of a run, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` once on every thread and returns when all have left it.
    ///
    /// # Errors
    /// What the first thread to panic panicked with; the pool stays usable.
    pub(super) fn run(&mut self, job: &(dyn Fn(Worker<'_>) + Sync)) -> Result<(), String> {
        let shared = &*self.shared;
        shared.barrier.reset();
        if !self.workers.is_empty() {
            // SAFETY: only the lifetime changes. This function does not return before `running` is 0 again, which every
            // worker brings about as its last touch of the job, whether it panicked or not.
            let job = unsafe { std::mem::transmute::<&(dyn Fn(Worker<'_>) + Sync), Job>(job) };
            // SAFETY: `&mut self` and `running == 0` mean that no worker reads the cell until `round` changes.
            unsafe { *shared.job.get() = Some(job) };
            shared.running.0.store(self.workers.len() as u32, Ordering::Relaxed);
            self.wake();
        }
        shared.call(job, 0);
        wait_until(|| shared.running.0.load(Ordering::Acquire) == 0);
        match shared.barrier.panic.lock().unwrap_or_else(|poison| poison.into_inner()).take() {
            None => Ok(()),
            Some(text) => Err(text),
        }
    }

    /// Begins a round: spinning workers see it, parked ones are woken.
    fn wake(&self) {
        // SeqCst on both sides: either the worker sees the round before it parks, or this thread sees that it is parked.
        self.shared.round.0.fetch_add(1, Ordering::SeqCst);
        for (parked, worker) in self.shared.parked.iter().zip(&self.workers) {
            if parked.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so there is nothing to pass on.
            let _ = worker.join();
        }
    }
}

impl Worker<'_> {
    /// Waits for every other thread of the run: what they wrote before is visible after.
    ///
    /// # Errors
    /// [`Poisoned`] when one of them panicked.
    pub(super) fn meet(&self) -> Result<(), Poisoned> {
        self.barrier.wait()
    }

    /// This thread's [`share`] of `items`.
    pub(super) fn share(&self, items: usize) -> std::ops::Range<usize> {
        share(items, self.index, self.threads)
    }
}

/// The share of thread `index` of `threads` in `items`: contiguous, as even as can be.
pub(super) fn share(items: usize, index: usize, threads: usize) -> std::ops::Range<usize> {
    items * index / threads..items * (index + 1) / threads
}

type Job = &'static (dyn Fn(Worker<'_>) + Sync);

struct Shared {
    /// Rises with every run.
    round: Padded<AtomicU32>,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not left the job yet.
    running: Padded<AtomicU32>,
    stop: AtomicBool,
    parked: Vec<Padded<AtomicBool>>,
    barrier: Barrier,
}

// SAFETY: `job` is the only field that is not Sync. It is written by the one owner of the pool while no worker runs, and
// read by workers after they have seen `round` change, which the owner does after the write.
unsafe impl Sync for Shared {}
// SAFETY: as above; the job itself is `Sync`, so any thread may call it.
unsafe impl Send for Shared {}

impl Shared {
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_round(index, seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the round has begun, so the job is written and stays until `running` falls to 0.
            if let Some(job) = unsafe { *self.job.get() } {
                self.call(job, index);
            }
            self.running.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a round other than `seen`: spins first, because decode steps follow each other closely.
    fn next_round(&self, index: usize, seen: u32) -> u32 {
        let begin = Instant::now();
        loop {
            let round = self.round.0.load(Ordering::SeqCst);
            if round != seen {
                return round;
            }
            if begin.elapsed() < SPIN {
                (0..16).for_each(|_| std::hint::spin_loop());
                continue;
            }
            let parked = &self.parked[index - 1].0;
            parked.store(true, Ordering::SeqCst);
            if self.round.0.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            parked.store(false, Ordering::SeqCst);
        }
    }

    fn call(&self, job: &(dyn Fn(Worker<'_>) + Sync), index: usize) {
        let worker = Worker { index, threads: self.parked.len() + 1, barrier: &self.barrier };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            self.barrier.poison(text_of(&*panic));
        }
    }
}

/// Where the threads of a run wait for each other.
struct Barrier {
    threads: u32,
    arrived: Padded<AtomicU32>,
    generation: Padded<AtomicU32>,
    poisoned: AtomicBool,
    panic: std::sync::Mutex<Option<String>>,
}

impl Barrier {
    fn new(threads: u32) -> Self {
        Self {
            threads,
            arrived: Padded(AtomicU32::new(0)),
            generation: Padded(AtomicU32::new(0)),
            poisoned: AtomicBool::new(false),
            panic: std::sync::Mutex::new(None),
        }
    }

    /// Makes the barrier whole again; no thread waits at it.
    fn reset(&self) {
        self.arrived.0.store(0, Ordering::Relaxed);
        self.poisoned.store(false, Ordering::Relaxed);
    }

    fn wait(&self) -> Result<(), Poisoned> {
        let generation = self.generation.0.load(Ordering::Acquire);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.generation.0.store(generation.wrapping_add(1), Ordering::Release);
        } else {
            wait_until(|| {
                self.generation.0.load(Ordering::Acquire) != generation || self.poisoned.load(Ordering::Relaxed)
            });
        }
        if self.poisoned.load(Ordering::Relaxed) { Err(Poisoned) } else { Ok(()) }
    }

    fn poison(&self, text: String) {
        self.panic.lock().unwrap_or_else(|poison| poison.into_inner()).get_or_insert(text);
        self.poisoned.store(true, Ordering::Relaxed);
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
struct Padded<T>(T);

/// How long a worker waits awake for the next run. Longer than the pause between two decode steps on one machine, short
/// enough that an idle engine costs nothing.
const SPIN: Duration = Duration::from_micros(40);

/// Looks at a barrier before the core is offered to other threads: some ten microseconds.
const SPINS_BEFORE_YIELD: u32 = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_thread_runs_every_job_once() {
        for threads in [1, 2, 3, 7] {
            let mut pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..100 {
                pool.run(&|worker| {
                    counts[worker.index].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 100));
        }
    }

    #[test]
    fn nobody_passes_the_barrier_before_all_have_arrived() {
        let mut pool = Pool::new(4).unwrap();
        let arrived = AtomicUsize::new(0);
        pool.run(&|worker| {
            for phase in 1..=50 {
                arrived.fetch_add(1, Ordering::Relaxed);
                worker.meet().unwrap();
                assert_eq!(arrived.load(Ordering::Relaxed), 4 * phase);
                worker.meet().unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn a_panic_frees_the_waiting_threads_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        for culprit in 0..3 {
            let freed = AtomicUsize::new(0);
            let result = pool.run(&|worker| {
                if worker.index == culprit {
                    panic!("thread {culprit} gives up");
                }
                if worker.meet() == Err(Poisoned) {
                    freed.fetch_add(1, Ordering::Relaxed);
                }
            });
            assert_eq!(result, Err(format!("thread {culprit} gives up")));
            assert_eq!(freed.load(Ordering::Relaxed), 2);
            pool.run(&|worker| worker.meet().unwrap()).unwrap();
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            let runs = AtomicUsize::new(0);
            thread::sleep(SPIN * 20);
            pool.run(&|_| {
                runs.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(runs.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn shares_are_disjoint_and_whole() {
        for items in [0, 1, 2, 3, 10, 31] {
            assert!((0..3).flat_map(|index| share(items, index, 3)).eq(0..items));
        }
    }
}
