//! What a session has to say of itself, and in which order.

/// A message of the session itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Hello,
    Prove,
    Ping,
    Grant(u16),
    Pong(u64),
}

/// What waits to be said. All but the answers to pings is there at most once, whatever the peer does.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) struct Outbox {
    hello: bool,
    pub(super) prove: bool,
    pub(super) ping: bool,
    /// The numbers of the pings to answer; the first `waiting` count.
    pongs: [u64; PONGS],
    waiting: u8,
}

impl Outbox {
    pub(super) const fn new() -> Self {
        // SPEC 6.1
        Self { hello: true, prove: false, ping: false, pongs: [0; PONGS], waiting: 0 }
    }

    /// What to say next: a Hello before a Prove, and a Prove before all else.
    pub(super) fn first(&self) -> Option<Own> {
        let [pong, ..] = self.pongs;
        // SPEC 6.19
        match self {
            Self { hello: true, .. } => Some(Own::Hello),
            Self { prove: true, .. } => Some(Own::Prove),
            Self { ping: true, .. } => Some(Own::Ping),
            Self { waiting, .. } => (*waiting > 0).then_some(Own::Pong(pong)),
        }
    }

    /// What was [`first`](Self::first) is on its way.
    pub(super) fn said(&mut self, own: Own) {
        match own {
            Own::Hello => self.hello = false,
            Own::Prove => self.prove = false,
            Own::Ping => self.ping = false,
            Own::Pong(_) => {
                let [_, second, third, fourth] = self.pongs;
                self.pongs = [second, third, fourth, 0];
                self.waiting = self.waiting.saturating_sub(1);
            }
            Own::Grant(_) => {}
        }
    }

    /// A ping to answer, unless too many wait.
    pub(super) fn pong(&mut self, number: u64) {
        if let Some(free) = self.pongs.get_mut(usize::from(self.waiting)) {
            *free = number;
            self.waiting += 1;
        }
    }
}

/// Pings that may wait for their answers: those of 20 s. More is a flood, and the surplus answers are worth nothing.
const PONGS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut outbox: Outbox) -> Vec<Own> {
        core::iter::from_fn(|| outbox.first().inspect(|own| outbox.said(*own))).collect()
    }

    #[test]
    fn the_hello_comes_first_and_the_proof_before_anything_else() {
        let mut outbox = Outbox::new();
        (outbox.prove, outbox.ping) = (true, true);
        outbox.pong(9);
        assert_eq!(all(outbox), [Own::Hello, Own::Prove, Own::Ping, Own::Pong(9)]);
    }

    #[test]
    fn pings_are_answered_in_order_and_those_beyond_four_never() {
        let mut outbox = Outbox { hello: false, ..Outbox::new() };
        (1..=9).for_each(|number| outbox.pong(number));
        assert_eq!(all(outbox), [1, 2, 3, 4].map(Own::Pong));
        outbox.said(Own::Pong(1));
        outbox.pong(7);
        assert_eq!(all(outbox), [2, 3, 4, 7].map(Own::Pong));
    }
}
