//! Prompts beside other people's tokens: how many rows a node is given at a time, and when.
//!
//! A node answers its frames in order, so a token waits for whatever stands in front of it. While somebody gets tokens, the
//! prompts of all others together have one frame at each node, as long as [`CHUNK_TOKENS`] tokens there; the rest waits at
//! the coordinator, where tokens pass it. Where nobody gets tokens, chunks are as large as the chain takes them.
//!
//! On the CPU a row's bits do not depend on the rows beside it, so a text does not depend on who else is there. GPUs may
//! round differently in other kernels for more rows. In delta forms what is sent depends on the frames before: there chunks
//! stay whole, and only their turns are kept.

use std::time::Duration;

use crate::core::Core;
use crate::limits::CHUNK_TOKENS;
use crate::request::Request;

/// What a node's answers tell of its pace.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Seconds that a token takes there.
    token: Option<f64>,
    /// They are those of tokens that nothing stood in front of, so the link's latency is in them.
    alone: bool,
    /// Seconds that each further row of a frame takes.
    row: Option<f64>,
    /// Rows of its last chunk.
    tried: u16,
}

impl Pace {
    /// A token was answered so long after it was sent, or after the answer before it. `alone` says that nothing was in front
    /// of it.
    pub(crate) fn token(&mut self, took: Duration, alone: bool) {
        if self.alone && !alone {
            return;
        }
        let known = self.token.filter(|_| self.alone == alone);
        self.token = Some(smooth(known, took.as_secs_f64(), NEW_TOKEN));
        self.alone = alone;
    }

    /// The same of a prompt's rows.
    pub(crate) fn chunk(&mut self, rows: u16, took: Duration) {
        let Some(token) = self.token else { return };
        let before = std::mem::replace(&mut self.tried, rows);
        self.row = match (rows, self.row) {
            // One row tells nothing of a second. So that a slow moment is forgotten, more are tried again in the end.
            (..=1, row) => row.map(|row| row * FORGOTTEN),
            (_, row) => {
                let new = (took.as_secs_f64() - token).max(0.0) / f64::from(rows - 1);
                // What was half forgotten is no measurement to go on with.
                Some(smooth(row.filter(|_| before > 1), new, NEW_ROW))
            }
        };
    }

    /// Rows that a chunk may have there while somebody gets tokens. More than twice what was tried would be a leap.
    pub(crate) fn rows(&self) -> usize {
        let (Some(token), most) = (self.token, 2 * usize::from(self.tried.max(1))) else { return 1 };
        self.row.map_or(most, |row| 1 + (token * (CHUNK_TOKENS - 1.0) / row.max(1e-9)) as usize).min(most)
    }
}

fn smooth(known: Option<f64>, new: f64, share: f64) -> f64 {
    known.map_or(new, |known| known + (new - known) * share)
}

/// What a request with a prompt to compute may do beside others that get tokens.
pub(crate) struct Restraint {
    /// Rows of its chunks at most.
    pub(crate) rows: usize,
    /// Whether a prompt's frame may go to the node of a hop.
    pub(crate) free: Vec<bool>,
}

impl Core {
    /// How a request's prompt is held back; nothing where it has none left, or nobody else gets tokens.
    pub(crate) fn restraint(&self, request: &Request) -> Option<Restraint> {
        let chain = self.chain.as_ref().filter(|_| request.has_prompt())?;
        let running = || self.requests.values().filter(|other| other.closing.is_none());
        if !running().any(|other| other.id != request.id && other.gets_tokens()) {
            return None;
        }
        let paces = chain.parts.iter().filter_map(|(node, _)| self.nodes.get(node)).map(|node| node.pace.rows());
        let rows = if request.route.is_delta() { usize::MAX } else { paces.min().unwrap_or(1) };
        let free = |hop| !running().any(|other| other.route.has_prompt_at(hop));
        Some(Restraint { rows, free: (0..chain.parts.len()).map(free).collect() })
    }

    /// A node has answered a prompt's frame of `answered`: others' prompts have their turn before that one's next.
    pub(crate) fn next_prompts(&mut self, now: Duration, answered: u32) {
        let later = self.requests.range(answered.saturating_add(1)..);
        let others = later.chain(self.requests.range(..answered)).filter(|(_, request)| request.has_prompt());
        for id in others.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.pump(now, id);
        }
    }
}

/// How much of what is known a new token's time replaces, and a new chunk's.
const NEW_TOKEN: f64 = 0.125;
const NEW_ROW: f64 = 0.25;
/// What a chunk of one row leaves of the time that others are believed to take.
const FORGOTTEN: f64 = 0.98;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1e3)
    }

    /// The rows of 200 chunks to a node that takes `fixed` ms for a frame and `row` ms for each row, smallest first.
    fn settled(fixed: f64, row: f64, first: u16) -> Vec<f64> {
        let mut pace = Pace::default();
        pace.token(ms(fixed + row), true);
        pace.chunk(first, ms(fixed + row * f64::from(first)));
        let mut chunk = || {
            let rows = pace.rows().min(64) as u16;
            pace.chunk(rows, ms(fixed + row * f64::from(rows)));
            f64::from(rows)
        };
        for _ in 0..20 {
            chunk();
        }
        let mut rows: Vec<f64> = (0..200).map(|_| chunk()).collect();
        rows.sort_by(f64::total_cmp);
        rows
    }

    #[test]
    fn chunks_come_to_take_as_long_as_they_may() {
        for (fixed, row) in [(1.0, 1.25), (2.0, 0.1), (2.0, 0.5), (5.0, 0.2), (0.0, 1.0), (0.3, 7.0)] {
            for first in [1, 8, 64] {
                let (rows, may) = (settled(fixed, row, first), CHUNK_TOKENS * (fixed + row));
                let (middle, nearly_most) = (rows[100], rows[191]);
                assert!(middle == 1.0 || fixed + row * middle <= may * 1.001, "{fixed} {row} {first}: {middle}");
                assert!(fixed + row * (middle + 1.0) >= may * 0.999, "{fixed} {row} {first}: {middle}");
                // More are tried now and then: the less it costs, the more often.
                assert!(fixed + row * nearly_most <= may * 1.2, "{fixed} {row} {first}: {nearly_most}");
            }
        }
    }

    #[test]
    fn a_slow_moment_is_forgotten() {
        let mut pace = Pace::default();
        pace.token(ms(2.0), true);
        pace.chunk(4, ms(200.0));
        assert_eq!(pace.rows(), 1);
        for _ in 0..500 {
            let rows = pace.rows() as u16;
            pace.chunk(rows, ms(1.9 + 0.1 * f64::from(rows)));
        }
        assert!((10..=12).contains(&pace.rows()), "{}", pace.rows());
    }

    #[test]
    fn a_node_that_nothing_is_known_of_gets_a_row() {
        let mut pace = Pace::default();
        assert_eq!(pace.rows(), 1);
        pace.chunk(64, ms(1.0));
        assert_eq!(pace.rows(), 1, "what a token takes there is not known");
    }

    #[test]
    fn a_token_that_waited_behind_others_says_less_than_one_that_did_not() {
        let mut pace = Pace::default();
        pace.token(ms(2.0), false);
        assert_eq!(pace.token, Some(0.002));
        pace.token(ms(20.0), true);
        assert_eq!(pace.token, Some(0.02), "with the link's latency");
        pace.token(ms(2.0), false);
        assert_eq!(pace.token, Some(0.02));
        pace.token(ms(28.0), true);
        assert_eq!(pace.token, Some(0.021));
    }
}
