//! Where a token's time goes, as both engines say it.

use std::time::Duration;

/// What one kind of op takes for a token, over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTime {
    /// Its name in the plan.
    pub op: &'static str,
    /// Ops of this kind.
    pub ops: usize,
    /// Dispatches of all of them on a GPU; an attention over a long context has two. On a CPU, how often its threads wait for
    /// each other.
    pub dispatches: usize,
    /// Bytes that all of them read, as the plan has it.
    pub bytes: u64,
    /// What all of them take.
    pub time: Duration,
}

/// A token, by its ops and as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTimes {
    /// The kinds of ops, in the order in which the plan has them first.
    pub ops: Vec<OpTime>,
    /// A token of the loop; on a GPU without submit and readback.
    pub token: Duration,
}

/// The middle of an odd number of times, the upper middle of an even one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
