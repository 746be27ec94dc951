//! KV caches of requests that are over, kept for the next one that begins with the same tokens.
//!
//! Such a request stays open on the nodes under its number, and the next one takes the number over: it opens the route anew
//! with the next epoch, which leaves the KV caches as they are, and sends only the rest of its prompt, whose first frame cuts
//! off what is other than before. So no message is needed for it, and a row's bits are those that it had: on the CPU, those
//! that it would have again (GPUs may round differently for other numbers of rows).
//!
//! What somebody asked shows in how fast the next answer begins. So a cache goes to nobody but the client that filled it,
//! unless the operator has said that clients may share.

use std::collections::VecDeque;
use std::time::Duration;

use crate::access::Client;
use crate::core::{Action, Core};
use crate::limits::MIN_PREFIX;
use crate::request::Request;
use crate::update::{Finish, Finished, Update};

/// Who takes over the KV caches of requests that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrefixCache {
    /// Nobody: they are given back at once.
    Off,
    /// Whoever filled them: who sends the same API key, or where there are no keys asks from the same address.
    #[default]
    Own,
    /// Everybody. Whoever asks can find out by the time it takes whether somebody else has asked the same lately.
    Shared,
}

/// Figures of KV caches that were kept, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// KV caches that are kept now.
    pub kept: usize,
    /// Requests that took one over.
    pub hits: u64,
    /// Tokens of prompts that were not computed again.
    pub tokens: u64,
    /// Those that were given back for a request that had nothing of it.
    pub evicted: u64,
    /// Those that were given back because the chain changed.
    pub dropped: u64,
}

/// A KV cache that is kept.
#[derive(Debug)]
pub(crate) struct Parked {
    /// The request's number on the nodes.
    pub(crate) id: u32,
    client: Client,
    /// What its rows were computed from.
    tokens: Vec<u32>,
    /// With which it is open.
    pub(crate) epoch: u8,
}

/// All that are kept, and what came of them.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// Whoever was used last stands last.
    parked: VecDeque<Parked>,
    figures: Prefixes,
}

impl Parking {
    pub(crate) fn len(&self) -> usize {
        self.parked.len()
    }

    /// The one that has the most of a prompt's beginning, and how many of its rows: all of the prompt's but the last, which
    /// has to be computed for its output.
    fn longest(&mut self, client: &Client, prompt: &[u32], sharing: PrefixCache) -> Option<(Parked, usize)> {
        let most = prompt.len().saturating_sub(1);
        let shared = |parked: &Parked| {
            let is_own = sharing == PrefixCache::Shared || parked.client == *client;
            let same = parked.tokens.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
            if is_own { same } else { 0 }
        };
        // Of equals the one that was used last.
        let (at, rows) = self.parked.iter().map(shared).enumerate().max_by_key(|(_, rows)| *rows)?;
        if rows < MIN_PREFIX {
            return None;
        }
        self.figures.hits += 1;
        self.figures.tokens += rows as u64;
        Some((self.parked.remove(at)?, rows))
    }
}

impl Core {
    /// What is kept of requests that are over, and what it was good for.
    pub fn prefixes(&self) -> Prefixes {
        Prefixes { kept: self.parking.len(), ..self.parking.figures }
    }

    /// Gives a request that is about to start the KV cache of an earlier one, if one has enough of its prompt. Where no KV
    /// cache is free otherwise, the one is given back that nobody has used for the longest.
    pub(crate) fn unpark(&mut self, request: &mut Request) {
        let sharing = self.config.prefix_cache;
        if let Some((parked, rows)) = self.parking.longest(&request.client, &request.ask.prompt, sharing) {
            return request.resume(&parked, rows);
        }
        let slots = self.chain.as_ref().map_or(0, |chain| chain.slots);
        while self.requests.len() + self.parking.len() >= slots {
            let Some(oldest) = self.parking.parked.pop_front() else { return };
            self.close(oldest.id);
            self.parking.figures.evicted += 1;
        }
    }

    /// Whether a request that has its last token leaves its KV caches as they would be needed: every node of the chain has
    /// all of its rows, each of which is what its tokens alone make of it.
    pub(crate) fn is_parkable(&self, id: u32) -> bool {
        let whole = self.chain.as_ref().is_some_and(|chain| chain.ready && chain.broken.is_none());
        let request = self.requests.get(&id).filter(|request| !request.is_proof && request.closing.is_none());
        let is_good = |request: &Request| {
            request.computed().len() >= MIN_PREFIX && !request.route.is_delta() && !request.route.is_replayed()
        };
        self.config.prefix_cache != PrefixCache::Off && whole && request.is_some_and(is_good)
    }

    /// Ends a request and keeps its KV caches.
    pub(crate) fn park(&mut self, now: Duration, id: u32, text: String, reason: Finish) {
        let Some(request) = self.remove(id) else { return };
        self.turnover.ended(now.saturating_sub(request.started));
        self.parking.parked.push_back(Parked {
            id,
            client: request.client,
            tokens: request.computed().to_vec(),
            epoch: request.route.epoch(),
        });
        // What the nodes computed they say when they give it back.
        let finished = Finished { text, reason, figures: request.figures };
        self.actions.push_back(Action::Update(request.told, Update::Finished(finished)));
        self.refine_chain();
        self.start_waiting(now);
        self.go_on(now);
    }

    /// The chain is about to change: what its nodes keep is given back.
    pub(crate) fn drop_parked(&mut self) {
        for parked in std::mem::take(&mut self.parking.parked) {
            self.close(parked.id);
            self.parking.figures.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(number: u32) -> Client {
        Client::Address(IpAddr::V4(Ipv4Addr::from(number)))
    }

    fn parking(parked: &[(u32, u32, std::ops::Range<u32>)]) -> Parking {
        let parked = parked.iter().map(|(id, owner, tokens)| Parked {
            id: *id,
            client: client(*owner),
            tokens: tokens.clone().collect(),
            epoch: 1,
        });
        Parking { parked: parked.collect(), figures: Prefixes::default() }
    }

    fn taken(parking: &mut Parking, owner: u32, prompt: &[u32], sharing: PrefixCache) -> Option<(u32, usize)> {
        parking.longest(&client(owner), prompt, sharing).map(|(parked, rows)| (parked.id, rows))
    }

    #[test]
    fn the_longest_beginning_wins_and_of_equals_the_one_that_was_used_last() {
        let mut parking = parking(&[(1, 1, 0..20), (2, 1, 0..40), (3, 1, 0..30), (4, 1, 0..40)]);
        let prompt: Vec<u32> = (0..60).collect();
        for expected in [(4, 40), (2, 40), (3, 30), (1, 20)] {
            assert_eq!(taken(&mut parking, 1, &prompt, PrefixCache::Own), Some(expected));
        }
        assert_eq!(taken(&mut parking, 1, &prompt, PrefixCache::Own), None);
        assert_eq!((parking.figures.hits, parking.figures.tokens), (4, 130));
    }

    #[test]
    fn the_last_row_of_a_prompt_is_always_computed() {
        let prompt: Vec<u32> = (0..30).collect();
        assert_eq!(taken(&mut parking(&[(1, 1, 0..30)]), 1, &prompt, PrefixCache::Own), Some((1, 29)));
        assert_eq!(taken(&mut parking(&[(1, 1, 0..99)]), 1, &prompt, PrefixCache::Own), Some((1, 29)));
    }

    #[test]
    fn a_short_or_another_beginning_is_none() {
        let short = MIN_PREFIX as u32 - 1;
        let prompt: Vec<u32> = (0..60).collect();
        assert_eq!(taken(&mut parking(&[(1, 1, 0..short), (2, 1, 1..50)]), 1, &prompt, PrefixCache::Own), None);
        assert_eq!(taken(&mut parking(&[(1, 1, 0..50)]), 1, &[], PrefixCache::Own), None);
    }

    #[test]
    fn nobody_takes_over_what_another_client_filled_unless_all_share() {
        let prompt: Vec<u32> = (0..60).collect();
        let mut parking = parking(&[(1, 1, 0..50)]);
        assert_eq!(taken(&mut parking, 2, &prompt, PrefixCache::Own), None);
        assert_eq!(taken(&mut parking, 2, &prompt, PrefixCache::Shared), Some((1, 50)));
    }
}
