//! What is known of the nodes' pace and links, and what follows for a token.
//!
//! A node measures its layers when it has loaded them, whatever else its machine does then, and a ping is answered on its
//! link. What it takes for tokens while it serves (`served.rs`) counts more than both: computing becomes its layers' pace, and
//! the rest of an answer is its hop, which later pings lengthen and shorten.

use std::time::Duration;

use crate::core::{Core, NodeId};
use crate::placement::{Offer, Part, Scales};
use crate::predict::{CODING_NS, HOP_NS, Predicted, predict, token_bytes};
use crate::served::TokenTime;

impl Core {
    /// A ping to `node` was answered in this time.
    pub fn round_trip(&mut self, now: Duration, node: NodeId, took: Duration) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        // A node that computes answers late, behind what it computed. And what is shorter is right at once, what is longer
        // only if it stays so.
        let is_late = node.heard > now.saturating_sub(took);
        let known = match node.round_trip {
            Some(known) if took >= known && is_late => known,
            Some(known) if took >= known => (known * 7 + took) / 8,
            _ => took,
        };
        node.round_trip = Some(known);
        if let Some(hop) = &mut node.hop {
            hop.ping.get_or_insert(known);
        }
        if let Some(offer) = &mut node.offer {
            offer.hop_ns = hop_ns(Some(known), node.hop);
        }
    }

    /// Takes over what a node's answers tell of its pace and its link since the last time.
    pub(crate) fn refine(&mut self, id: NodeId) {
        let news = self.nodes.get_mut(&id).and_then(|node| Some((node.served.news()?, node.shard.as_ref()?)));
        let Some((TokenTime { answer_ns, compute_ns, byte_ns }, shard)) = news else { return };
        let layers = shard.layers.clone();
        let demand = self.demand(self.config.format);
        let head = if layers.end == demand.spec.layers { Scales::new(&demand).head_layers() } else { 0.0 };
        let (count, bytes) = (layers.len() as f64 + head, token_bytes(&demand, &layers));
        let Some(offer) = self.nodes.get_mut(&id).and_then(|node| node.offer.as_mut()) else { return };
        // Where it has not told what it computes, it cannot be more than all.
        let compute_ns = compute_ns.unwrap_or_else(|| (offer.layer_ns as f64 * count).min(answer_ns));
        offer.layer_ns = (compute_ns / count).round().max(1.0) as u64;
        offer.bytes_per_s = byte_ns.map(|byte_ns| (1e9 / byte_ns).max(1.0) as u64);
        // What is left when its bytes are taken off, which other layers have others of.
        let entering_ns = byte_ns.map_or(0.0, |byte_ns| byte_ns * bytes as f64);
        let ns = (answer_ns - compute_ns - entering_ns).max(0.0).round() as u64;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.hop = Some(Hop { ns, ping: node.round_trip });
        if let Some(offer) = &mut node.offer {
            offer.hop_ns = hop_ns(node.round_trip, node.hop);
        }
    }

    /// The same for every node of the chain.
    pub(crate) fn refine_chain(&mut self) {
        for id in self.chain_nodes() {
            self.refine(id);
        }
    }

    /// A node has its layers, and takes so long for a token in each of them on average, the head counted where it has it:
    /// more certain than what it measured before it had any, and less than what it took for tokens.
    pub(crate) fn measured(&mut self, node: NodeId, layer_ns: u64) {
        let scales = Scales::new(&self.demand(self.config.format));
        let layers = self.config.spec.layers;
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let may_tell = layer_ns > 0 && node.hop.is_none();
        let Some((shard, offer)) = node.shard.as_ref().zip(node.offer.as_mut()).filter(|_| may_tell) else {
            return;
        };
        let head = if shard.layers.end == layers { scales.head_layers() } else { 0.0 };
        let count = shard.layers.len() as f64;
        offer.layer_ns = ((layer_ns as f64 * count / (count + head)).round() as u64).max(1);
    }

    /// What a token takes on the chain, by all that is known now.
    pub(crate) fn predicted(&self) -> Option<Predicted> {
        let chain = self.chain.as_ref()?;
        let offer = |id: &NodeId| self.nodes.get(id)?.offer;
        let offers: Vec<Offer> = chain.parts.iter().map(|part| offer(&part.0)).collect::<Option<_>>()?;
        let part = |(node, part): (usize, &(NodeId, std::ops::Range<usize>))| Part { node, layers: part.1.clone() };
        let parts: Vec<Part> = chain.parts.iter().enumerate().map(part).collect();
        Some(predict(&self.demand(self.config.format), &offers, &parts))
    }
}

/// What a hop took for tokens, computing left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hop {
    /// Nanoseconds.
    pub(crate) ns: u64,
    /// In which time a ping was answered then, or the first one since.
    pub(crate) ping: Option<Duration>,
}

/// What a hop takes over a link on which a ping was answered in this time, if one was, and which took `hop` for tokens, if
/// any have passed it.
pub(crate) fn hop_ns(ping: Option<Duration>, hop: Option<Hop>) -> u64 {
    let nanos = |ping: Duration| u64::try_from(ping.as_nanos()).unwrap_or(u64::MAX);
    match (hop, ping) {
        (Some(Hop { ns, ping: Some(then) }), Some(ping)) => ns.saturating_add(nanos(ping)).saturating_sub(nanos(then)),
        (Some(Hop { ns, .. }), _) => ns,
        (None, Some(ping)) => nanos(ping).saturating_add(CODING_NS),
        (None, None) => HOP_NS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_what_tokens_took_and_pings_tell_what_its_link_takes_more_or_less_since() {
        let ms = Duration::from_millis;
        assert_eq!(hop_ns(None, None), HOP_NS);
        assert_eq!(hop_ns(Some(ms(20)), None), 20_000_000 + CODING_NS);
        let hop = |ping| Some(Hop { ns: 25_000_000, ping });
        assert_eq!(hop_ns(Some(ms(20)), hop(Some(ms(20)))), 25_000_000);
        assert_eq!(hop_ns(Some(ms(50)), hop(Some(ms(20)))), 55_000_000);
        assert_eq!(hop_ns(Some(ms(1)), hop(Some(ms(40)))), 0);
        assert_eq!(hop_ns(Some(ms(50)), hop(None)), 25_000_000, "no ping to compare with");
        assert_eq!(hop_ns(Some(Duration::MAX), hop(Some(ms(0)))), u64::MAX);
    }
}
