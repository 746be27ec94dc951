//! How many data frames a coordinator may send before its node grants more.
//!
//! Both ends count alike: the node's Hello gives the first frames, each data frame takes one, each Grant gives some back,
//! and there are never more than the Hello gave.

/// The count at one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(crate) struct Credit {
    /// What the node's Hello gave.
    limit: u16,
    /// Data frames that may still be sent.
    left: u16,
    /// At the node: data frames that it has finished with and not granted again.
    owed: u16,
}

impl Credit {
    pub(crate) const fn new(limit: u16) -> Self {
        Self { limit, left: limit, owed: 0 }
    }

    /// Whether one more data frame may be sent, or come; takes it.
    pub(crate) fn take(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// The coordinator was granted `frames`; false if the Hello gave fewer than there would be.
    pub(crate) fn granted(&mut self, frames: u16) -> bool {
        let left = self.left.saturating_add(frames);
        let fits = left <= self.limit;
        if fits {
            self.left = left;
        }
        fits
    }

    /// The node has finished with one data frame. Calls beyond the frames that came say nothing.
    pub(crate) fn done(&mut self) {
        let taken = self.limit.saturating_sub(self.left);
        self.owed = self.owed.saturating_add(1).min(taken);
    }

    /// What the node should grant now: nothing until half of its credit is used up, so that grants are few.
    pub(crate) fn due(&self) -> Option<u16> {
        // SPEC 6.26
        (self.owed >= (self.limit / 2).max(1)).then_some(self.owed)
    }

    /// What was due is on its way.
    pub(crate) fn grant(&mut self) {
        self.left = self.left.saturating_add(self.owed).min(self.limit);
        self.owed = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_node_grants_when_half_of_its_credit_is_owed() {
        for (limit, after) in [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let mut node = Credit::new(limit);
            for frame in 1..=after {
                assert_eq!((node.take(), node.due()), (true, None));
                node.done();
                assert_eq!(node.due(), (frame == after).then_some(after));
            }
        }
    }

    #[test]
    fn finishing_more_than_came_grants_nothing() {
        let mut node = Credit::new(2);
        node.done();
        assert_eq!(node.due(), None);
        assert!(node.take());
        node.done();
        node.done();
        assert_eq!(node.due(), Some(1));
    }

    proptest! {
        #[test]
        fn both_ends_count_alike_and_never_stall(limit in 1..=20u16, steps: Vec<u8>) {
            let (mut coordinator, mut node) = (Credit::new(limit), Credit::new(limit));
            let (mut on_the_way, mut at_work, mut grants) = (0, 0, Vec::new());
            for step in steps {
                match step % 4 {
                    0 if coordinator.take() => on_the_way += 1,
                    1 if on_the_way > 0 => {
                        prop_assert!(node.take());
                        (on_the_way, at_work) = (on_the_way - 1, at_work + 1);
                    }
                    2 if at_work > 0 => {
                        at_work -= 1;
                        node.done();
                        if let Some(frames) = node.due() {
                            node.grant();
                            grants.push(frames);
                        }
                    }
                    3 => grants.drain(..).for_each(|frames| assert!(coordinator.granted(frames))),
                    _ => {}
                }
                prop_assert!(on_the_way + at_work <= u32::from(limit));
                if (on_the_way, at_work) == (0, 0) && grants.is_empty() {
                    prop_assert!(coordinator.left > 0, "nobody would ever move again");
                }
            }
        }
    }
}
