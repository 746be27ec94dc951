//! How often each client may ask: a token bucket for each, refilled evenly, that holds ten seconds' worth.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::access::Client;
use crate::limits::{MAX_CLIENTS, RATE_BURST};

/// The buckets of all clients that asked lately.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Between two requests of one that asks evenly.
    every: Duration,
    /// When each client's bucket is full again; the longer that is, the emptier it is now.
    full_at: HashMap<Client, Duration>,
}

impl Rate {
    /// So many requests in a minute from each client.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        Self { every: Duration::from_secs(60) / per_minute.get(), full_at: HashMap::new() }
    }

    /// Takes a request from the client's bucket.
    ///
    /// # Errors
    /// It is empty: how long to wait.
    pub(crate) fn take(&mut self, client: Client, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at.get(&client).copied().unwrap_or(now).max(now) + self.every;
        // One request is possible however small the rate is.
        let deepest = now + RATE_BURST.max(self.every);
        if let Some(wait) = full_at.checked_sub(deepest).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        if self.full_at.len() >= MAX_CLIENTS && !self.full_at.contains_key(&client) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_CLIENTS {
                // So many at once are one crowd: whoever is new waits until an earlier one's bucket is full.
                return Err(self.full_at.values().min().map_or(self.every, |first| first.saturating_sub(now)));
            }
        }
        self.full_at.insert(client, full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(number: u32) -> Client {
        Client::Address(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn rate(per_minute: u32) -> Rate {
        Rate::new(NonZeroU32::new(per_minute).unwrap())
    }

    #[test]
    fn a_burst_is_allowed_and_then_an_even_flow() {
        let (mut rate, mut now) = (rate(60), Duration::ZERO);
        for _ in 0..10 {
            assert_eq!(rate.take(client(1), now), Ok(()));
        }
        assert_eq!(rate.take(client(1), now), Err(Duration::from_secs(1)));
        // Others have a bucket of their own, and being refused costs nothing.
        assert_eq!(rate.take(client(2), now), Ok(()));
        for _ in 0..100 {
            now += Duration::from_secs(1);
            assert_eq!(rate.take(client(1), now), Ok(()));
            assert!(rate.take(client(1), now).is_err());
        }
    }

    #[test]
    fn a_small_rate_lets_one_pass() {
        let mut rate = rate(1);
        assert_eq!(rate.take(client(1), Duration::ZERO), Ok(()));
        assert_eq!(rate.take(client(1), Duration::from_secs(20)), Err(Duration::from_secs(40)));
        assert_eq!(rate.take(client(1), Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn a_crowd_takes_bounded_memory_and_is_forgotten() {
        let mut rate = rate(60);
        for number in 0..MAX_CLIENTS as u32 {
            assert_eq!(rate.take(client(number), Duration::ZERO), Ok(()));
        }
        let late = client(u32::MAX);
        assert_eq!(rate.take(late, Duration::ZERO), Err(Duration::from_secs(1)));
        assert_eq!(rate.take(client(0), Duration::ZERO), Ok(()));
        assert_eq!(rate.take(late, Duration::from_secs(3)), Ok(()));
        assert_eq!(rate.full_at.len(), 1);
    }
}
