//! How the threads of a run divide work and memory.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::{Worker, share};

/// Deals out the items of every phase of a step.
///
/// Each worker begins with a contiguous range of its own, so that it reads memory in order; who is done early takes
/// from the others, because the cores of one machine are rarely equally fast and rarely all free. Who computes an item
/// has no influence on the result.
pub(super) struct Dealer {
    threads: usize,
    /// `[phase][worker]`: items taken from the worker's range.
    taken: Vec<Taken>,
}

#[repr(align(128))]
struct Taken(AtomicUsize);

impl Dealer {
    /// For steps of up to `phases`, run by `threads`.
    pub(super) fn new(phases: usize, threads: usize) -> Self {
        Self { threads, taken: (0..phases * threads).map(|_| Taken(AtomicUsize::new(0))).collect() }
    }

    /// Before a step: nothing is taken.
    pub(super) fn reset(&mut self) {
        self.taken.iter_mut().for_each(|taken| *taken.0.get_mut() = 0);
    }

    /// The next of `items` for this worker; each is dealt once per phase. All workers name the same number of items.
    pub(super) fn next(&self, phase: usize, worker: Worker<'_>, items: usize) -> Option<usize> {
        let taken = &self.taken[phase * self.threads..][..self.threads];
        (0..self.threads).find_map(|distance| {
            let index = (worker.index + distance) % self.threads;
            let range = share(items, index, self.threads);
            let taken = &taken[index].0;
            // The load keeps those who look for leftovers from taking the cache line away.
            if taken.load(Ordering::Relaxed) >= range.len() {
                return None;
            }
            let item = range.start + taken.fetch_add(1, Ordering::Relaxed);
            (item < range.end).then_some(item)
        })
    }
}

/// A slice that several threads write at once, each its own part, with barriers between writing and reading.
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
                    while let Some(item) = dealer.next(phase, worker, items) {
                        dealt[phase * items + item].fetch_add(1, Ordering::Relaxed);
                        if worker.index == 1 {
                            std::thread::yield_now();
                        }
                    }
                    worker.meet().unwrap();
                    assert!(dealt[phase * items..][..items].iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            })
            .unwrap();
        }
    }

    #[test]
    fn parts_written_by_threads_are_read_by_all_after_the_barrier() {
        let mut pool = Pool::new(4).unwrap();
        let mut values = vec![0usize; 103];
        let parts = Parts::new(&mut values);
        pool.run(&|worker| {
            let share = worker.share(103);
            // SAFETY: shares are disjoint.
            let own = unsafe { parts.at_mut(share.clone()) };
            own.iter_mut().zip(share).for_each(|(value, index)| *value = index * index);
            worker.meet().unwrap();
            // SAFETY: nobody writes after the barrier.
            let all = unsafe { parts.at(0..103) };
            assert!(all.iter().enumerate().all(|(index, value)| *value == index * index));
        })
        .unwrap();
    }
}
