//! How long a node waits for frames that it could compute together with those that it has.
//!
//! Requests whose steps were computed together are answered together, so their next frames come together, one behind the other
//! in the same microseconds. A node that began with the first of them would compute the rest in a second pass, and the group
//! would be torn for good: each part computes while the other one is on its way. So it waits for those that it answered last,
//! but only a part of the time that a pass takes, and where they did not come in time it does not try again soon: they are
//! busy elsewhere in the chain, or far away.

/// Whom a node waits for, and how long.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// The requests of the last pass.
    last: Vec<u32>,
    /// Microseconds that it took.
    pass_us: u64,
    /// Passes in a row for which somebody was waited for in vain.
    vain: u32,
    /// Passes before the next wait.
    pause: u32,
}

impl Linger {
    /// Microseconds that the pass in front of which `here` are waiting may begin later, because others are expected; 0 where
    /// nobody is.
    pub(crate) fn patience_us(&self, here: impl Fn(u32) -> bool) -> u64 {
        if self.pause > 0 || self.last.iter().all(|&request| here(request)) { 0 } else { self.pass_us / PART }
    }

    /// The node has waited for all of its patience, and somebody is still missing.
    pub(crate) fn in_vain(&mut self) {
        self.vain = (self.vain + 1).min(MOST_VAIN);
        // This pass takes one off at once.
        self.pause = (1 << self.vain) + 1;
    }

    /// The node has waited; not in vain, unless it was told so.
    pub(crate) fn waited(&mut self) {
        if self.pause == 0 {
            self.vain = 0;
        }
    }

    /// A pass is over: `requests` were answered after `pass_us` microseconds.
    pub(crate) fn passed(&mut self, requests: impl Iterator<Item = u32>, pass_us: u64) {
        self.last.clear();
        self.last.extend(requests);
        self.pass_us = pass_us;
        self.pause = self.pause.saturating_sub(1);
    }

    /// A request has ended: nothing is expected of it.
    pub(crate) fn closed(&mut self, request: u32) {
        self.last.retain(|&last| last != request);
    }
}

/// A pass may begin this part of its time later: what that costs in vain is less than what a pass for every request saves.
const PART: u64 = 4;

/// At most 64 passes without a wait: those who come together now are found within a second or so.
const MOST_VAIN: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_the_last_pass_are_waited_for_and_only_while_they_are_open() {
        let mut linger = Linger::default();
        assert_eq!(linger.patience_us(|_| false), 0);
        linger.passed([1, 2].into_iter(), 4000);
        assert_eq!(linger.patience_us(|request| request == 1), 1000);
        assert_eq!(linger.patience_us(|_| true), 0);
        linger.closed(2);
        assert_eq!(linger.patience_us(|request| request == 1), 0);
        linger.passed([3].into_iter(), 400);
        assert_eq!(linger.patience_us(|request| request == 1), 100);
    }

    #[test]
    fn who_waits_in_vain_waits_less_and_less_often_until_somebody_comes() {
        let mut linger = Linger::default();
        linger.passed([1, 2].into_iter(), 4000);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            linger.in_vain();
            let mut passes = 0;
            linger.passed([1, 2].into_iter(), 4000);
            while linger.patience_us(|_| false) == 0 {
                passes += 1;
                linger.passed([1, 2].into_iter(), 4000);
            }
            pauses.push(passes);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 64, 64]);
        linger.waited();
        linger.in_vain();
        assert_eq!(linger.pause, 3);
    }
}
