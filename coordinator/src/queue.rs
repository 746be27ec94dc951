//! What waits for a KV cache, in turns by who asks: whoever asks for much waits behind itself, not in front of others.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::access::Client;
use crate::limits::{MAX_RETRY_AFTER, MAX_WAITING, MAX_WAITING_EACH, RETRY_AFTER};

/// A line for each client that waits.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// Whoever had no turn for the longest stands first.
    turns: VecDeque<Client>,
    lines: BTreeMap<Client, VecDeque<T>>,
    len: usize,
}

/// Why nobody can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The client's own line is as long as it may be.
    Line,
    /// All lines together are.
    All,
}

impl<T> Queue<T> {
    /// Nobody waits.
    pub(crate) fn new() -> Self {
        Self { turns: VecDeque::new(), lines: BTreeMap::new(), len: 0 }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many clients they are of.
    pub(crate) fn clients(&self) -> usize {
        self.turns.len()
    }

    /// Whether a client can add one more.
    ///
    /// # Errors
    /// What is full.
    pub(crate) fn room(&self, client: &Client) -> Result<(), Full> {
        match self.lines.get(client).map_or(0, VecDeque::len) {
            MAX_WAITING_EACH.. => Err(Full::Line),
            _ if self.len >= MAX_WAITING => Err(Full::All),
            _ => Ok(()),
        }
    }

    /// Adds one behind the client's others.
    pub(crate) fn push(&mut self, client: Client, waits: T) {
        if !self.lines.contains_key(&client) {
            self.turns.push_back(client);
        }
        self.lines.entry(client).or_default().push_back(waits);
        self.len += 1;
    }

    /// The next: of those clients that have the fewest `running`, the one that had no turn for the longest.
    pub(crate) fn pop(&mut self, running: impl Fn(&Client) -> usize) -> Option<T> {
        let turn = (0..self.turns.len()).min_by_key(|&turn| running(&self.turns[turn]))?;
        let client = self.turns.remove(turn)?;
        let line = self.lines.get_mut(&client)?;
        let next = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        self.len -= 1;
        Some(next)
    }

    /// Takes out those for which `gone` says so.
    pub(crate) fn take(&mut self, mut gone: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for line in self.lines.values_mut() {
            let (out, stay) = std::mem::take(line).into_iter().partition(&mut gone);
            *line = stay;
            taken.extend::<VecDeque<T>>(out);
        }
        self.lines.retain(|_, line| !line.is_empty());
        self.turns.retain(|client| self.lines.contains_key(client));
        self.len -= taken.len();
        taken
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.lines.values_mut().flatten()
    }
}

/// How long requests have held their KV caches lately, so that those who are turned away hear when to come again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turnover {
    seconds: Option<f64>,
}

impl Turnover {
    /// A KV cache was given back that was held so long.
    pub(crate) fn ended(&mut self, held: Duration) {
        let held = held.as_secs_f64();
        self.seconds = Some(self.seconds.map_or(held, |seconds| seconds + (held - seconds) * NEW_SHARE));
    }

    /// When so many of `slots` KV caches will have been given back.
    pub(crate) fn after(&self, ends: usize, slots: usize) -> Duration {
        let Some(seconds) = self.seconds else { return RETRY_AFTER };
        let seconds = seconds * ends.max(1) as f64 / slots.max(1) as f64;
        Duration::from_secs_f64(seconds.clamp(0.001, MAX_RETRY_AFTER.as_secs_f64()))
    }
}

/// How much of what is known of the time a new request's replaces.
const NEW_SHARE: f64 = 0.125;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(number: u32) -> Client {
        Client::Address(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn queue(waits: &[(u32, u32)]) -> Queue<u32> {
        let mut queue = Queue::new();
        waits.iter().for_each(|(number, waits)| queue.push(client(*number), *waits));
        queue
    }

    fn all(queue: &mut Queue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(|_| 0)).collect()
    }

    #[test]
    fn clients_have_their_turns_whatever_each_asks_for() {
        let mut queue = queue(&[(1, 10), (1, 11), (1, 12), (1, 13), (2, 20), (3, 30), (3, 31)]);
        assert_eq!((queue.len(), queue.clients()), (7, 3));
        assert_eq!(all(&mut queue), [10, 20, 30, 11, 31, 12, 13]);
        assert_eq!((queue.len(), queue.clients()), (0, 0));
    }

    #[test]
    fn whoever_has_fewer_running_is_first() {
        let mut queue = queue(&[(1, 10), (1, 11), (2, 20), (3, 30)]);
        let running = |asks: &Client| if *asks == client(1) { 2 } else { usize::from(*asks == client(2)) };
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop(running)).collect();
        assert_eq!(order, [30, 20, 10, 11]);
    }

    #[test]
    fn a_line_and_all_lines_together_are_bounded() {
        let mut queue = Queue::new();
        for waits in 0..MAX_WAITING_EACH {
            assert_eq!(queue.room(&client(1)), Ok(()));
            queue.push(client(1), waits);
        }
        assert_eq!((queue.room(&client(1)), queue.room(&client(2))), (Err(Full::Line), Ok(())));
        for waits in MAX_WAITING_EACH..MAX_WAITING {
            queue.push(client(waits as u32), waits);
        }
        assert_eq!(queue.room(&client(2)), Err(Full::All));
    }

    #[test]
    fn who_goes_away_leaves_the_others_in_their_order() {
        let mut queue = queue(&[(1, 10), (2, 20), (1, 11), (2, 21), (3, 30)]);
        assert_eq!(queue.take(|waits| *waits == 10 || *waits == 30), [10, 30]);
        queue.iter_mut().for_each(|waits| *waits += 100);
        assert_eq!((queue.len(), queue.clients()), (3, 2));
        assert_eq!(all(&mut queue), [111, 120, 121]);
    }

    #[test]
    fn who_is_turned_away_hears_when_a_place_will_be_free() {
        let mut turnover = Turnover::default();
        assert_eq!(turnover.after(1, 4), RETRY_AFTER, "nothing has been measured");
        turnover.ended(Duration::from_secs(8));
        assert_eq!(turnover.after(1, 4), Duration::from_secs(2));
        assert_eq!(turnover.after(3, 4), Duration::from_secs(6));
        turnover.ended(Duration::from_secs(16));
        assert_eq!(turnover.after(2, 2), Duration::from_secs(9));
        assert_eq!(turnover.after(1000, 1), MAX_RETRY_AFTER);
    }
}
