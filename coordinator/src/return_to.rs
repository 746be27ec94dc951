//! A coordinator that was started again: its nodes come back one by one, and the layers go where they lay.
//!
//! Whoever comes back has its shard still, so that nothing has to be fetched or placed anew. Who has not come back within
//! [`RETURN_GRACE`] of the first one is not waited for.

use std::ops::Range;
use std::time::Duration;

use syn1_identity::Key;

use crate::core::Core;
use crate::limits::RETURN_GRACE;
use crate::placement::{Part, Policy, Scales};
use crate::store::Placement;

/// Where the layers lay.
pub(crate) struct ReturnTo {
    parts: Vec<(Key, Range<usize>)>,
    /// When it is not waited for any more, from the first node on.
    until: Option<Duration>,
}

impl Core {
    /// Lets the layers go where they lay before, if it is this model that lay there and its nodes come back.
    pub fn return_to(&mut self, placement: &Placement) {
        let key = |(key, first, end): &(String, usize, usize)| Some((key.parse().ok()?, *first..*end));
        let Some(parts) = placement.parts.iter().map(key).collect::<Option<Vec<(Key, Range<usize>)>>>() else { return };
        let layers = self.config.spec.layers;
        let whole = parts.first().is_some_and(|part| part.1.start == 0)
            && parts.last().is_some_and(|part| part.1.end == layers)
            && parts.windows(2).all(|pair| pair[0].1.end == pair[1].1.start)
            && parts.iter().all(|part| !part.1.is_empty());
        let count = match self.config.policy {
            Policy::Exactly(count) => count == parts.len(),
            Policy::Auto => true,
        };
        if whole && count && placement.manifest == self.manifest() {
            self.return_to = Some(ReturnTo { parts, until: None });
        }
    }

    /// Where the layers lie, by the nodes' keys; nothing while one of them has none.
    pub fn placement(&self) -> Option<Placement> {
        let parts = self.chain.as_ref()?.parts.iter().map(|(id, layers)| {
            let key = self.nodes.get(id)?.key?;
            Some((key.to_string(), layers.start, layers.end))
        });
        Some(Placement { manifest: self.manifest(), parts: parts.collect::<Option<_>>()? })
    }

    /// The key of the node with this name.
    pub(crate) fn key_of(&self, name: &str) -> Option<Key> {
        self.nodes.values().find(|node| node.name == name)?.key
    }

    fn manifest(&self) -> String {
        self.config.manifest_sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the layers go, or are about to go, where they lay before.
    pub(crate) fn returns(&mut self, now: Duration) -> bool {
        let Some(ReturnTo { parts, until }) = &mut self.return_to else { return false };
        if now >= *until.get_or_insert(now + RETURN_GRACE) {
            self.return_to = None;
            return false;
        }
        let (until, parts) = (*until, parts.clone());
        let (ids, offers) = self.able(0);
        let scales = Scales::new(&self.demand(self.config.format));
        let with = |key: &Key| ids.iter().position(|id| self.nodes.get(id).is_some_and(|node| node.key == Some(*key)));
        let found: Option<Vec<Part>> =
            parts.iter().map(|(key, layers)| Some(Part { node: with(key)?, layers: layers.clone() })).collect();
        let Some(found) = found else {
            let missing = parts.iter().filter(|(key, _)| with(key).is_none()).count();
            self.unplaced =
                format!("{missing} of the {} nodes that had the layers before have not come back yet", parts.len());
            self.place_at = until;
            return true;
        };
        self.return_to = None;
        if found.iter().any(|part| scales.bytes(part.layers.clone()) > offers[part.node].memory_bytes) {
            return false;
        }
        let reason = String::from("The layers lie where they lay before this coordinator was started again.");
        self.place_at = None;
        self.lay(now, &ids, &offers, found, reason);
        true
    }
}
