//! How long a thread looks for a result before it goes to sleep for it.
//!
//! A thread that sleeps until the device is done wakes 20 to 40 us later than the device was: longer than a small shard
//! computes. So where the last results came soon, it looks again and again; and where they did not, it sleeps at once.

use std::time::Duration;

use web_time::Instant;

/// Knows how long the last results took.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// Looking again and again takes a core: on a software adapter one that computes, and in a browser the one that would
    /// bring the result.
    looks: bool,
    recent: [Duration; RECENT],
    next: usize,
}

impl Patience {
    /// For a device of which nothing is known: it sleeps until [`RECENT`] results came. Never looks for a `software` one's.
    pub(super) fn new(software: bool) -> Self {
        Self { looks: !software && !cfg!(target_family = "wasm"), recent: [Duration::MAX; RECENT], next: 0 }
    }

    /// None: it sleeps at once.
    pub(super) fn none() -> Self {
        Self::new(true)
    }

    /// How long to look for the next result before sleeping: twice as long as the soonest of the last results took, and
    /// not at all where none of them came within [`MOST`], so that one late result changes nothing and a slow device costs
    /// no more than [`RECENT`] times [`MOST`].
    pub(super) fn look(&self) -> Duration {
        let soonest = self.recent.iter().min().copied().unwrap_or(Duration::MAX);
        if self.looks && soonest <= MOST { (soonest * 2).min(MOST) } else { Duration::ZERO }
    }

    /// A result came after `waited`.
    pub(super) fn came(&mut self, waited: Duration) {
        self.recent[self.next] = waited;
        self.next = (self.next + 1) % RECENT;
    }

    /// Asks `is_there` again and again for as long as [`Patience::look`] says; gives its last answer.
    pub(super) fn look_for(&self, mut is_there: impl FnMut() -> bool) -> bool {
        let most = self.look();
        let begun = Instant::now();
        while begun.elapsed() < most {
            if is_there() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }
}

/// Results that the next one is judged by.
const RECENT: usize = 4;

/// Longer waits are slept through: what waking costs is then less than a tenth.
const MOST: Duration = Duration::from_micros(400);

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn after(waits: &[u32]) -> Patience {
        let mut patience = Patience::new(false);
        waits.iter().for_each(|&us| patience.came(us * US));
        patience
    }

    #[test]
    fn it_looks_twice_as_long_as_the_soonest_of_the_last_results_took() {
        assert_eq!(after(&[]).look(), Duration::ZERO);
        assert_eq!(after(&[100]).look(), 200 * US);
        assert_eq!(after(&[100, 60, 90, 5000]).look(), 120 * US);
        assert_eq!(after(&[60, 100, 90, 80, 70]).look(), 140 * US, "the oldest counts no more");
    }

    #[test]
    fn it_never_looks_longer_than_its_bound() {
        for waited in [0, 1, 199, 200, 201, 399, 400] {
            assert!(after(&[waited]).look() <= MOST, "{waited}");
        }
        assert_eq!(after(&[300]).look(), MOST);
    }

    #[test]
    fn a_slow_device_is_slept_for_after_as_many_late_results_as_are_remembered() {
        let late = [401, 2000, 30_000, 401];
        assert!(after(&[100, 401, 2000, 30_000]).look() > Duration::ZERO);
        assert_eq!(after(&late).look(), Duration::ZERO);
        let mut patience = after(&late);
        patience.came(50 * US);
        assert_eq!(patience.look(), 100 * US, "and looked for again once it is fast");
    }

    #[test]
    fn software_is_never_looked_for() {
        let mut patience = Patience::new(true);
        patience.came(US);
        assert_eq!(patience.look(), Duration::ZERO);
        assert!(!patience.look_for(|| panic!("it was asked")));
    }

    #[test]
    fn looking_ends_with_the_answer_or_with_the_bound() {
        let mut asked = 0;
        let found = after(&[400]).look_for(|| {
            asked += 1;
            asked == 2
        });
        assert!(found || asked < 2, "found the second time, unless this thread was kept from asking twice");
        assert!(!after(&[1]).look_for(|| false));
    }
}
