//! How fast this machine reads memory: the limit of a decode step, which reads every weight once.

use std::time::Duration;

use syn1_model::Lines;
use web_time::Instant;

use super::kernels::{Kernels, Sum};
use super::lanes::Lanes;
use super::pool::Pool;
use super::share::Dealer;
use crate::engine::EngineError;

/// Bytes per second that `threads` threads together read from a buffer of `bytes`, again and again, with the widest
/// loads of this CPU: the best of several loops, each the median of its runs.
///
/// A buffer that fits the caches is read from them, as the weights of a small model are. Takes about a third of a
/// second.
///
/// # Errors
/// [`EngineError::Memory`] when there is no room for the buffer, [`EngineError::Device`] when the system refuses a thread
/// or one panics.
pub fn read_bandwidth(bytes: usize, threads: usize) -> Result<f64, EngineError> {
    let device = || "the CPU".to_owned();
    let failed = |what: String| EngineError::Device { device: device(), what };
    let blocks = (bytes / (4 * BLOCK)).max(threads);
    let mut buffer = Lines::zeroed::<f32>(blocks * BLOCK).ok_or_else(|| EngineError::Memory {
        device: device(),
        what: "the bandwidth measurement",
        bytes: 4 * (blocks * BLOCK) as u64,
    })?;
    let mut pool = Pool::new(threads).map_err(|error| failed(format!("no thread: {error}")))?;
    buffer.of_mut::<f32>().fill(1.0);
    let kernels = Kernels::best();
    let mut dealer = Dealer::new(1, pool.threads());
    let mut rate = |sum: Sum| {
        let mut times = Vec::new();
        let first = Instant::now();
        while times.len() < RUNS_AT_LEAST || first.elapsed() < TIME_PER_LOOP {
            let begin = Instant::now();
            dealer.reset();
            let read = |block: usize| {
                std::hint::black_box(kernels.sum(sum, &buffer.of::<f32>()[block * BLOCK..(block + 1) * BLOCK]));
            };
            let ran = pool.run(&|worker| {
                // Only a panic ends a phase early, and the pool reports it.
                let _ = dealer.phase(0, worker, blocks, read);
            });
            ran.map_err(|panic| failed(format!("a thread panicked ({panic})")))?;
            times.push(begin.elapsed());
        }
        times.sort();
        Ok((blocks * BLOCK * 4) as f64 / times[times.len() / 2].as_secs_f64())
    };
    [Sum::InOrder, Sum::FourStreams, Sum::Prefetched].into_iter().try_fold(0.0, |best, sum| Ok(rate(sum)?.max(best)))
}

/// The sum of `values`, whole [`GROUP`]s, read as `STREAMS` contiguous parts side by side, or with prefetches `AHEAD`
/// bytes in front.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn sum<L: Lanes, const STREAMS: usize, const AHEAD: usize>(values: &[f32]) -> f32 {
    assert!(values.len().is_multiple_of(GROUP));
    let stream = values.len() / STREAMS;
    // SAFETY: a stream is whole groups of `GROUP / STREAMS` elements, which are whole steps of four registers.
    unsafe {
        let (one, mut sums) = (L::splat(1.0), [[L::zero(); 4]; STREAMS]);
        for at in (0..stream).step_by(4 * L::N) {
            for (index, sums) in sums.iter_mut().enumerate() {
                let from = values.as_ptr().add(index * stream + at);
                if AHEAD > 0 {
                    for line in (0..4 * L::N).step_by(16) {
                        let line = from.wrapping_add(line).cast::<u8>();
                        L::prefetch::<false>(line.wrapping_add(AHEAD));
                        L::prefetch::<true>(line.wrapping_add(4 * AHEAD));
                    }
                }
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = L::fma(L::load(from.add(i * L::N)), one, *sum);
                }
            }
        }
        sums.as_flattened().iter().map(|&sum| L::sum(sum)).sum()
    }
}

/// Elements that every loop reads whole: four streams of four registers of sixteen.
const GROUP: usize = 256;

/// Elements that a thread reads at once: 64 KiB.
const BLOCK: usize = 64 * GROUP;

/// A loop runs so often at least ...
const RUNS_AT_LEAST: usize = 5;

/// ... and so long.
const TIME_PER_LOOP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_reads_every_element() {
        let values: Vec<f32> = (0..4 * GROUP).map(|i| i as f32).collect();
        let want: f32 = (0..4 * GROUP).sum::<usize>() as f32;
        for kernels in Kernels::usable() {
            for form in [Sum::InOrder, Sum::FourStreams, Sum::Prefetched] {
                assert_eq!(kernels.sum(form, &values), want, "{}", kernels.name);
            }
        }
    }

    #[test]
    fn bandwidth_is_a_rate() {
        let rate = read_bandwidth(1 << 20, 2).unwrap();
        assert!(rate.is_finite() && rate > 0.0);
        assert!(matches!(read_bandwidth(isize::MAX as usize, 1), Err(EngineError::Memory { .. })));
    }
}
