//! How the threads of a run divide work and memory.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::{Padded, Poisoned, Worker};

/// Deals out the items of every phase of a step; a phase begins when all items of the one before are done.
///
/// Each worker begins with a contiguous range of its own, so that it reads memory in order; who is done early takes
/// from the others, because the cores of one machine are rarely equally fast and rarely all free. A phase waits for
/// items, never for threads: one that the system has put aside between two items holds nobody up. Who computes an item
/// has no influence on the result.
pub(super) struct Dealer {
    threads: usize,
    /// `[phase][worker]`: items taken from the worker's range.
    taken: Vec<Padded<AtomicUsize>>,
    /// `[phase]`: items done.
    done: Vec<Padded<AtomicUsize>>,
}

impl Dealer {
    /// For steps of up to `phases`, run by up to `threads`.
    pub(super) fn new(phases: usize, threads: usize) -> Self {
        let zeros = |count| (0..count).map(|_| Padded(AtomicUsize::new(0))).collect();
        Self { threads, taken: zeros(phases * threads), done: zeros(phases) }
    }

    /// Before a step: nothing is taken.
    pub(super) fn reset(&mut self) {
        self.taken.iter_mut().chain(&mut self.done).for_each(|count| *count.0.get_mut() = 0);
    }

    /// One worker's part of `phase`: calls `compute` for items as long as there are any, then waits until all are done.
    /// What any thread wrote in the phase is visible behind it. Every item of `0..items` is dealt once; all workers name
    /// the same number.
    ///
    /// Memory that other phases write may be touched only inside `compute`: a late worker may find its phase long over.
    ///
    /// # Errors
    /// [`Poisoned`] when another thread panicked.
    pub(super) fn phase(
        &self,
        phase: usize,
        worker: Worker<'_>,
        items: usize,
        mut compute: impl FnMut(usize),
    ) -> Result<(), Poisoned> {
        let taken = &self.taken[phase * self.threads..][..self.threads];
        let mut own = 0;
        for distance in 0..self.threads {
            let owner = (worker.index + distance) % self.threads;
            let range = share(items, owner, self.threads);
            let taken = &taken[owner].0;
            // The load keeps those who look for leftovers from taking the cache line away.
            while taken.load(Ordering::Relaxed) < range.len() {
                let item = range.start + taken.fetch_add(1, Ordering::Relaxed);
                if item < range.end {
                    compute(item);
                    own += 1;
                }
            }
        }
        let done = &self.done[phase].0;
        if own > 0 {
            done.fetch_add(own, Ordering::Release);
        }
        worker.wait(|| done.load(Ordering::Acquire) == items)
    }
}

/// The share of thread `index` of `threads` in `items`: contiguous, as even as can be.
fn share(items: usize, index: usize, threads: usize) -> Range<usize> {
    items * index / threads..items * (index + 1) / threads
}

/// A slice that several threads write at once, each its own part, with a phase's end between writing and reading.
pub(super) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out `&T` and `&mut T` of the slice; that no two overlap is the duty of `at` and `at_mut`'s callers.
unsafe impl<T: Send + Sync> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, no thread has a mutable reference into `range`.
    pub(super) unsafe fn at(&self, range: Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, as asserted; not written meanwhile, as the caller promises.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// The elements of `range`, to be written.
    ///
    /// # Safety
    /// While the result lives, no other reference into `range` exists.
    #[allow(clippy::mut_from_ref)] // That is what this type is for.
    pub(super) unsafe fn at_mut(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice, as asserted; nobody else refers to it, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pool::Pool;

    #[test]
    fn every_item_is_dealt_once_even_when_a_worker_sleeps() {
        let mut pool = Pool::new(3).unwrap();
        let mut dealer = Dealer::new(2, 3);
        for items in [0, 1, 2, 3, 100] {
            dealer.reset();
            let dealt: Vec<AtomicUsize> = (0..2 * items).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|worker| {
                for phase in 0..2 {
                    let deal = |item: usize| {
                        dealt[phase * items + item].fetch_add(1, Ordering::Relaxed);
                        if worker.index == 1 {
                            std::thread::yield_now();
                        }
                    };
                    dealer.phase(phase, worker, items, deal).unwrap();
                    assert!(dealt[phase * items..][..items].iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn what_a_phase_writes_is_read_in_the_next() {
        let mut pool = Pool::new(4).unwrap();
        let mut dealer = Dealer::new(2, 4);
        for _ in 0..50 {
            let mut values = vec![0; 103];
            let parts = Parts::new(&mut values);
            dealer.reset();
            pool.run(&|worker| {
                // SAFETY: an item is dealt once, and writes its own element.
                let write = |item| unsafe { parts.at_mut(item..item + 1) }[0] = item * item;
                dealer.phase(0, worker, 103, write).unwrap();
                let read = |_| {
                    // SAFETY: nobody writes in this phase.
                    let all = unsafe { parts.at(0..103) };
                    assert!(all.iter().enumerate().all(|(index, value)| *value == index * index));
                };
                dealer.phase(1, worker, 8, read).unwrap();
            })
            .unwrap();
        }
    }

    #[test]
    fn shares_are_disjoint_and_whole() {
        for items in [0, 1, 2, 3, 10, 31] {
            assert!((0..3).flat_map(|index| share(items, index, 3)).eq(0..items));
        }
    }
}
