//! What a node takes for tokens while it serves, by when its answers come and what it says that it computed.
//!
//! A token that the node has for itself is answered after its link, computing, and what SYN1 takes around them. How much of
//! it was computing a node says when a request is closed, in one sum for all of that request's frames. So a request tells of
//! tokens if none of its frames shared the node with others', and if so little of its prompt went in chunks that it does not
//! matter what a chunk's row takes beside a token. Where that is known, the rest of what a chunk computes is known, too, and
//! by how much longer its answer takes than a token's, the rate at which bytes enter the link.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::limits::MAX_TIMED;
use crate::timing::Answer;

/// What the latest tokens of a node took, since it has its layers.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Nanoseconds to the answers of tokens that it had for itself, the newest last.
    answers: VecDeque<f64>,
    /// Requests that it has open.
    open: BTreeMap<u32, Spell>,
    /// The share of tokens' answers in which it computed, by requests that were closed, the newest last.
    computing: VecDeque<f64>,
    /// Nanoseconds that a byte more took on its link, by chunks of such requests, the newest last.
    per_byte: VecDeque<f64>,
    /// Something came since it was asked last.
    has_news: bool,
}

/// What a node takes for a token that it has for itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TokenTime {
    /// Nanoseconds from the frame to its answer.
    pub(crate) answer_ns: f64,
    /// Those of them in which it computes, where it has told so.
    pub(crate) compute_ns: Option<f64>,
    /// Nanoseconds that each byte takes to enter its link, where that takes any time beside the rest.
    pub(crate) byte_ns: Option<f64>,
}

/// Frames of one request.
#[derive(Debug, Default)]
struct Spell {
    /// Those with one row.
    tokens: u32,
    token_ns: f64,
    token_bytes: u64,
    /// Those with more, and their rows.
    chunks: u32,
    rows: u32,
    chunk_ns: f64,
    chunk_bytes: u64,
    /// Others' frames came between.
    crowded: bool,
}

impl Served {
    /// A frame was answered. One for which no time passed was not timed.
    pub(crate) fn answered(&mut self, answer: &Answer) {
        if answer.took.is_zero() {
            return;
        }
        if self.open.len() == MAX_TIMED && !self.open.contains_key(&answer.request) {
            self.open.pop_first();
        }
        let spell = self.open.entry(answer.request).or_default();
        let took = answer.took.as_nanos() as f64;
        spell.crowded |= !answer.alone;
        if answer.rows > 1 {
            (spell.chunks, spell.rows) = (spell.chunks + 1, spell.rows.saturating_add(answer.rows.into()));
            (spell.chunk_ns, spell.chunk_bytes) = (spell.chunk_ns + took, spell.chunk_bytes + answer.bytes);
            return;
        }
        (spell.tokens, spell.token_ns) = (spell.tokens + 1, spell.token_ns + took);
        spell.token_bytes += answer.bytes;
        if answer.alone {
            push(&mut self.answers, took, ANSWERS);
            self.has_news = true;
        }
    }

    /// The node has computed so long for a request, which is closed.
    pub(crate) fn closed(&mut self, request: u32, compute: Duration) {
        let Some(spell) = self.open.remove(&request) else { return };
        let Some(answer_ns) = usual(&self.answers) else { return };
        if let Some(share) = spell.computing(compute) {
            push(&mut self.computing, share, CLOSED);
            self.has_news = true;
        }
        let known = median(&self.computing).map(|share| share * answer_ns);
        if let Some(byte_ns) = known.and_then(|compute_ns| spell.byte_ns(compute, compute_ns, answer_ns - compute_ns)) {
            push(&mut self.per_byte, byte_ns, CLOSED);
            self.has_news = true;
        }
    }

    /// What a token takes, if enough have passed, and some since this was asked last.
    pub(crate) fn news(&mut self) -> Option<TokenTime> {
        if self.answers.len() < LEAST || !std::mem::take(&mut self.has_news) {
            return None;
        }
        let answer_ns = usual(&self.answers)?;
        let compute_ns = median(&self.computing).map(|share| share * answer_ns);
        let byte_ns = median(&self.per_byte).filter(|byte_ns| *byte_ns > 0.0);
        Some(TokenTime { answer_ns, compute_ns, byte_ns })
    }
}

impl Spell {
    /// The share of tokens' answers in which the node computed, if that follows from what it computed for all frames.
    ///
    /// A chunk takes as long as a token at least, and as that many tokens at most.
    fn computing(&self, compute: Duration) -> Option<f64> {
        let compute = compute.as_nanos() as f64;
        let (least, most) = (
            compute / (f64::from(self.tokens) + f64::from(self.rows)),
            compute / (f64::from(self.tokens) + f64::from(self.chunks)),
        );
        let tells = self.tokens as usize >= LEAST && !self.crowded && compute > 0.0 && most <= least * CERTAIN;
        // A clock of the node's own is not believed beyond this one.
        tells.then(|| ((least * most).sqrt() * f64::from(self.tokens) / self.token_ns).min(1.0))
    }

    /// Nanoseconds that each byte of its chunks took which tokens have not, where tokens take so long to compute and on their
    /// hop; 0 where it was no time that could be told from how much answers differ.
    fn byte_ns(&self, compute: Duration, compute_ns: f64, hop_ns: f64) -> Option<f64> {
        let (tokens, chunks) = (f64::from(self.tokens), f64::from(self.chunks));
        let computed = compute.as_nanos() as f64 - tokens * compute_ns;
        let bytes = self.chunk_bytes as f64 - chunks * self.token_bytes as f64 / tokens;
        // A chunk computes no less than a token.
        if self.crowded || self.tokens == 0 || self.rows < MIN_ROWS || computed < chunks * compute_ns || bytes <= 0.0 {
            return None;
        }
        let entering = self.chunk_ns - computed - chunks * hop_ns;
        Some(if entering > NOISE * self.chunk_ns { entering / bytes } else { 0.0 })
    }
}

fn push(times: &mut VecDeque<f64>, time: f64, most: usize) {
    if times.len() == most {
        times.pop_front();
    }
    times.push_back(time);
}

/// The mean without those for which the machine was busy elsewhere.
fn usual(times: &VecDeque<f64>) -> Option<f64> {
    let most = OUTLIER * median(times)?;
    let (sum, count) =
        times.iter().filter(|time| **time <= most).fold((0.0, 0.0), |(sum, count), time| (sum + time, count + 1.0));
    Some(sum / count)
}

fn median(times: &VecDeque<f64>) -> Option<f64> {
    let mut times: Vec<f64> = times.iter().copied().collect();
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Answers that are looked at: a second or less of one text, on most devices.
const ANSWERS: usize = 32;
/// Closed requests that are looked at: one in three may be off.
const CLOSED: usize = 5;
/// Tokens without which nothing is said: of a chain's first tokens one is slow for everything is cold.
const LEAST: usize = 4;
/// An answer that took so many times the usual time says nothing of the next one.
const OUTLIER: f64 = 3.0;
/// How far apart what a token takes at most and at least may lie: half of that is how far the middle is off at most.
const CERTAIN: f64 = 1.2;

/// Rows of chunks whose bytes tell of a link's rate: as many as make a token's own bytes few beside them.
const MIN_ROWS: u32 = 8;
/// The share of a chunk's answer that may come of anything.
const NOISE: f64 = 0.15;

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// Frames of a request, by rows and microseconds.
    fn answered(served: &mut Served, request: u32, frames: &[(u16, u64)]) {
        for &(rows, took) in frames {
            served.answered(&Answer { request, rows, took: us(took), bytes: 0, alone: true });
        }
    }

    fn told(served: &mut Served) -> Option<(f64, Option<f64>)> {
        served.news().map(|token| (token.answer_ns / 1e3, token.compute_ns.map(|ns| (ns / 1e3).round())))
    }

    #[test]
    fn a_token_takes_what_the_answers_took_and_computing_is_the_share_that_the_node_told() {
        let mut served = Served::default();
        answered(&mut served, 1, &[(1, 500); 3]);
        assert_eq!(told(&mut served), None, "three tokens are too few");
        answered(&mut served, 1, &[(1, 500); 5]);
        assert_eq!(told(&mut served), Some((500.0, None)));
        assert_eq!(told(&mut served), None, "nothing is new");
        served.closed(1, us(8 * 400));
        assert_eq!(told(&mut served), Some((500.0, Some(400.0))));
        served.closed(1, us(8 * 100));
        assert_eq!(told(&mut served), None, "it is closed once");
    }

    #[test]
    fn a_slow_first_token_and_a_moment_elsewhere_change_nothing() {
        let mut served = Served::default();
        // The first one computed for 4.5 ms of 5.
        answered(&mut served, 1, &[(1, 5_000)]);
        answered(&mut served, 1, &[(1, 500); 9]);
        served.closed(1, us(4_500 + 9 * 450));
        assert_eq!(told(&mut served), Some((500.0, Some(450.0))));
    }

    #[test]
    fn what_shared_the_node_with_others_tells_nothing() {
        let mut served = Served::default();
        for rows in [1, 1, 1, 1, 1, 1] {
            served.answered(&Answer { request: 1, rows, took: us(700), bytes: 0, alone: false });
        }
        served.closed(1, us(6 * 100));
        assert_eq!(told(&mut served), None);
        answered(&mut served, 2, &[(1, 500); 6]);
        served.answered(&Answer { request: 2, rows: 1, took: us(700), bytes: 0, alone: false });
        served.closed(2, us(6 * 100));
        assert_eq!(told(&mut served), Some((500.0, None)), "its tokens do, its sum does not");
    }

    #[test]
    fn a_prompt_in_chunks_tells_of_tokens_only_where_it_is_short_beside_them() {
        let computed = |rows: u16, tokens: usize| {
            let mut served = Served::default();
            answered(&mut served, 1, &[(rows, 3_000)]);
            answered(&mut served, 1, &vec![(1, 500); tokens]);
            served.closed(1, us(2_000 + 400 * tokens as u64));
            told(&mut served).unwrap().1
        };
        let near = computed(8, 60).unwrap();
        assert!((near / 400.0 - 1.0).abs() < 0.1, "{near}");
        assert_eq!(computed(64, 60), None);
        assert_eq!(computed(8, 20), None);
    }

    #[test]
    fn a_chunk_tells_the_links_rate_once_tokens_have_told_the_rest() {
        // A link of 20 Mbit/s: 400 ns a byte. Rows of 2,000 bytes, 400 us of computing a token, 100 a row, 50 us besides.
        let frames = |served: &mut Served, request, byte_ns: u64| {
            let took = |rows: u64| us(300 + 100 * rows + 50 + 2 * 2 * rows * byte_ns);
            let mut frame = |rows: u16| {
                let (took, bytes) = (took(rows.into()), 2 * 2_000 * u64::from(rows));
                served.answered(&Answer { request, rows, took, bytes, alone: true });
            };
            frame(32);
            (0..8).for_each(|_| frame(1));
            served.closed(request, us(300 + 3_200 + 8 * 400));
        };
        for byte_ns in [400, 2] {
            let mut served = Served::default();
            let told = 8 * 400 + 8;
            for _ in 0..8 {
                let took = us(450 + 4 * byte_ns);
                served.answered(&Answer { request: 1, rows: 1, took, bytes: 4_000, alone: true });
            }
            served.closed(1, us(told));
            assert_eq!(served.news().unwrap().byte_ns, None);
            frames(&mut served, 2, byte_ns);
            let found = served.news().unwrap().byte_ns;
            assert_eq!(found.map(|ns| (ns / 10.0).round() * 10.0), (byte_ns == 400).then_some(400.0), "{found:?}");
        }
    }

    #[test]
    fn the_newest_count_and_of_closed_requests_most() {
        let mut served = Served::default();
        for (request, computed) in [(1, 300), (2, 300), (3, 300), (4, 900), (5, 100)] {
            answered(&mut served, request, &[(1, 1_000); 8]);
            served.closed(request, us(8 * computed));
        }
        assert_eq!(told(&mut served), Some((1_000.0, Some(300.0))));
        // The device has become faster.
        for request in 6..11 {
            answered(&mut served, request, &[(1, 500); 8]);
            served.closed(request, us(8 * 200));
        }
        assert_eq!(told(&mut served), Some((500.0, Some(200.0))));
    }

    #[test]
    fn a_clock_that_is_not_believed_and_one_that_stands_still_break_nothing() {
        let mut served = Served::default();
        answered(&mut served, 1, &[(1, 500); 8]);
        served.closed(1, Duration::MAX);
        assert_eq!(told(&mut served), Some((500.0, Some(500.0))));
        answered(&mut served, 2, &[(1, 0); 8]);
        served.closed(2, us(100));
        assert_eq!(told(&mut served), None);
        for request in 0..3 * MAX_TIMED as u32 {
            answered(&mut served, request, &[(1, 500)]);
        }
        assert_eq!((served.open.len(), served.answers.len()), (MAX_TIMED, ANSWERS));
    }
}
