//! What is known of the nodes' pace while they serve, and what follows for a token.

use std::time::Duration;

use crate::core::{Core, NodeId};
use crate::placement::{Offer, Part, Scales};
use crate::predict::{CODING_NS, HOP_NS, Predicted, predict};

impl Core {
    /// A ping to `node` was answered in this time.
    pub fn round_trip(&mut self, node: NodeId, took: Duration) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        // A node that computes answers late: what is shorter is right at once, what is longer only if it stays so.
        let known = node.round_trip.map_or(took, |known| if took < known { took } else { (known * 7 + took) / 8 });
        node.round_trip = Some(known);
        if let Some(offer) = &mut node.offer {
            offer.hop_ns = hop_ns(Some(known));
        }
    }

    /// A node has its layers, and takes so long for a token in each of them on average, the head counted where it has it:
    /// more certain than what it measured before it had any.
    pub(crate) fn measured(&mut self, node: NodeId, layer_ns: u64) {
        let scales = Scales::new(&self.demand(self.config.format));
        let layers = self.config.spec.layers;
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let Some((shard, offer)) = node.shard.as_ref().zip(node.offer.as_mut()).filter(|_| layer_ns > 0) else {
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

/// What a hop takes over a link on which a ping was answered in this time, if one was.
pub(crate) fn hop_ns(ping: Option<Duration>) -> u64 {
    let nanos = |ping: Duration| u64::try_from(ping.as_nanos()).unwrap_or(u64::MAX);
    ping.map_or(HOP_NS, |ping| nanos(ping).saturating_add(CODING_NS))
}
