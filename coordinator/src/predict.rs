//! What a token takes on a placement, and on what: computing, and links.
//!
//! A token passes the nodes one after another. Each takes its layers at the pace it has measured, the last one the head
//! besides, whose weights are read at that same pace; and each adds a hop: the round trip of its link, what SYN1 takes
//! around it, and the bytes that enter the link where its rate is known. Once tokens pass a node, all of these are what they
//! took (`speeds.rs`).

use std::ops::Range;

use serde::Serialize;
use syn1_core::Header;

use crate::placement::{Demand, Offer, Part, Scales};

/// What a hop takes besides computing and the link's own round trip: sockets, schedulers and coding, in nanoseconds. What
/// `syn1 bench pipeline` calls 'added per hop' between processes of one machine.
pub const HOP_NS: u64 = 110_000;

/// What a hop takes besides computing and the answer to a ping, which passes the same sockets and schedulers.
pub(crate) const CODING_NS: u64 = 30_000;

/// What a token takes at each node, in chain order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Predicted {
    /// A hop per part.
    pub hops: Vec<Hop>,
}

/// What a token takes at one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Nanoseconds of computing.
    pub compute_ns: u64,
    /// Nanoseconds of its link, both ways.
    pub link_ns: u64,
}

impl Predicted {
    /// Nanoseconds from a token to the next one of the same text.
    pub fn token_ns(&self) -> u64 {
        self.compute_ns().saturating_add(self.link_ns())
    }

    /// Nanoseconds of it that nodes compute.
    pub fn compute_ns(&self) -> u64 {
        self.hops.iter().fold(0, |sum, hop| sum.saturating_add(hop.compute_ns))
    }

    /// Nanoseconds of it that links take.
    pub fn link_ns(&self) -> u64 {
        self.hops.iter().fold(0, |sum, hop| sum.saturating_add(hop.link_ns))
    }

    /// Nanoseconds that the busiest node computes: with enough texts at a time one token comes in so long.
    pub fn busiest_ns(&self) -> u64 {
        self.hops.iter().map(|hop| hop.compute_ns).max().unwrap_or_default()
    }
}

/// What a token takes on `parts`, which are of `offers`.
pub fn predict(demand: &Demand<'_>, offers: &[Offer], parts: &[Part]) -> Predicted {
    let scales = Scales::new(demand);
    let layers = demand.spec.layers;
    let hop = |part: &Part| {
        let offer = &offers[part.node];
        let head = if part.layers.end == layers { scales.head_layers() } else { 0.0 };
        let compute_ns = (part.layers.len() as f64 + head) * offer.layer_ns as f64;
        let bytes = token_bytes(demand, &part.layers) as f64;
        let entering_ns = offer.bytes_per_s.map_or(0.0, |rate| bytes / rate.max(1) as f64 * 1e9);
        // `as` saturates.
        Hop { compute_ns: compute_ns.round() as u64, link_ns: offer.hop_ns.saturating_add(entering_ns.round() as u64) }
    };
    Predicted { hops: parts.iter().map(hop).collect() }
}

/// Bytes of a token's frame to a node with these layers, and of its answer.
pub(crate) fn token_bytes(demand: &Demand<'_>, layers: &Range<usize>) -> u64 {
    let bytes_in = if layers.start == 0 { TOKEN_BYTES } else { row_bytes(demand, layers.start) };
    let bytes_out = if layers.end == demand.spec.layers { OUTPUT_BYTES } else { row_bytes(demand, layers.end) };
    bytes_in + bytes_out
}

/// Bytes of a frame with one row of activations in front of `layer`; of a compressed form those that it has at most.
fn row_bytes(demand: &Demand<'_>, layer: usize) -> u64 {
    let codec = demand.wire.before(layer).codec();
    let width = u16::try_from(demand.spec.width).unwrap_or(u16::MAX);
    let payload = Header::activation(1, 1, 0, codec, 1, width).map_or(0, |header| u64::from(header.payload_len));
    Header::LEN as u64 + payload
}

/// A frame with one token.
const TOKEN_BYTES: u64 = Header::LEN as u64 + 4;

/// A frame with the likeliest tokens that the usual sampling asks for: 40, an id and a logit each.
const OUTPUT_BYTES: u64 = Header::LEN as u64 + 40 * 8;

#[cfg(test)]
mod tests {
    use syn1_core::{Codec, Form};
    use syn1_model::plan::WeightFormat;
    use syn1_model::spec::Spec;

    use super::*;
    use crate::wire::Wire;

    /// GPT-2, whose head weighs 5.4454.. layers in f16.
    fn predicted(offers: &[Offer], parts: &[Part]) -> Predicted {
        let (spec, wire) = (Spec::gpt2_124m(), Wire::everywhere(Form::plain(Codec::F16)));
        let demand = Demand { spec: &spec, format: WeightFormat::F16, max_positions: 1024, slots: 1, wire: &wire };
        predict(&demand, offers, parts)
    }

    fn part(node: usize, layers: std::ops::Range<usize>) -> Part {
        Part { node, layers }
    }

    #[test]
    fn a_token_takes_every_nodes_layers_the_head_and_a_hop_each() {
        let offers = [
            Offer { layer_ns: 1_000_000, hop_ns: 20_000_000, ..Offer::default() },
            Offer { layer_ns: 500_000, hop_ns: 300_000, ..Offer::default() },
        ];
        let predicted = predicted(&offers, &[part(0, 0..4), part(1, 4..12)]);
        assert_eq!(predicted.hops[0], Hop { compute_ns: 4_000_000, link_ns: 20_000_000 });
        // A layer has 12 * 768^2 weights and 13 rows of 768 beside them, the head 50,257 * 768 and two rows.
        let Hop { compute_ns, link_ns } = predicted.hops[1];
        assert_eq!(link_ns, 300_000);
        let head = compute_ns - 8 * 500_000;
        let by_hand = 500_000.0 * f64::from(50_257 * 768) / f64::from(12 * 768 * 768);
        assert!((head as f64 / by_hand - 1.0).abs() < 0.01, "{head} ns, by hand {by_hand}");
        assert_eq!(predicted.token_ns(), 20_300_000 + 4_000_000 + compute_ns);
        assert_eq!((predicted.compute_ns(), predicted.busiest_ns()), (4_000_000 + compute_ns, compute_ns));
    }

    #[test]
    fn a_rate_adds_the_bytes_of_both_directions() {
        // 20 Mbit/s.
        let offer = Offer { layer_ns: 0, hop_ns: 1_000_000, bytes_per_s: Some(2_500_000), ..Offer::default() };
        let predicted = predicted(&[offer; 3], &[part(0, 0..4), part(1, 4..8), part(2, 8..12)]);
        let entering = |bytes: u64| 1_000_000 + bytes * 400;
        let row = 24 + 2 * 768;
        let links: Vec<u64> = predicted.hops.iter().map(|hop| hop.link_ns).collect();
        assert_eq!(links, [entering(28 + row), entering(row + row), entering(row + 24 + 320)]);
    }

    #[test]
    fn absurd_offers_overflow_nothing() {
        let offer = Offer { layer_ns: u64::MAX, hop_ns: u64::MAX, bytes_per_s: Some(0), ..Offer::default() };
        assert_eq!(predicted(&[offer; 2], &[part(0, 0..6), part(1, 6..12)]).token_ns(), u64::MAX);
    }
}
