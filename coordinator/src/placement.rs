//! Which node holds which layers: a pure function of what the nodes offer and what the model needs.
//!
//! A token passes the nodes one after another, so its time is the sum of every node's layers at that node's pace plus a
//! hop for each node (`predict.rs`). More nodes never make one stream faster than the fastest node alone; they make the
//! model fit. So nodes are left out that the model does not need and that would slow its tokens.

use std::cmp::Reverse;
use std::ops::Range;

use syn1_model::plan::{Piece, Plan, WeightFormat, piece_bytes};
use syn1_model::spec::Spec;

use crate::predict::predict;
use crate::wire::Wire;

/// How many nodes share the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The nodes on which a token is the fastest.
    Auto,
    /// Exactly this many, layers in proportion to their pace.
    Exactly(usize),
}

/// What a node brings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offer {
    /// Bytes for weights and KV caches.
    pub memory_bytes: u64,
    /// Nanoseconds for one layer and one token.
    pub layer_ns: u64,
    /// Nanoseconds that a frame to it and its answer take besides computing, however few bytes they have.
    pub hop_ns: u64,
    /// Bytes per second that its link takes in each direction, where that is known and matters.
    pub bytes_per_s: Option<u64>,
}

/// What the model needs besides layers.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The model.
    pub spec: &'a Spec,
    /// How its weights are stored.
    pub format: WeightFormat,
    /// Positions of one KV cache.
    pub max_positions: usize,
    /// KV caches a node should have room for.
    pub slots: usize,
    /// How activations travel.
    pub wire: &'a Wire,
}

impl Demand<'_> {
    /// Bytes of the weights of any layer by itself.
    pub fn layer_weight_bytes(&self) -> u64 {
        Scales::new(self).block_weights
    }

    /// Bytes of all weights and KV caches.
    pub(crate) fn bytes(&self) -> u64 {
        Scales::new(self).bytes(0..self.spec.layers)
    }
}

/// One node's part: the index of its offer, and its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index into the offers.
    pub node: usize,
    /// Its layers.
    pub layers: Range<usize>,
}

/// Why the model cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// More nodes are asked for than are here.
    #[error("{missing} more node{} of {wanted} must join", if *missing == 1 { "" } else { "s" })]
    Nodes {
        /// Nodes still to come.
        missing: usize,
        /// Nodes asked for.
        wanted: usize,
    },
    /// More nodes are asked for than the model has layers.
    #[error(
        "{wanted} nodes for a model of {layers} layers: every node needs one layer at least, ask for {layers} nodes or fewer"
    )]
    Layers {
        /// Nodes asked for.
        wanted: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The nodes' memory does not hold it.
    #[error("{}: join another device or take a smaller context", memory(needs, *offered, *nodes))]
    Memory {
        /// Bytes of weights and KV caches with weights of each format that was tried.
        needs: Vec<(WeightFormat, u64)>,
        /// Bytes that the nodes offer together.
        offered: u64,
        /// Nodes that offer them.
        nodes: usize,
    },
}

/// Cuts the model into contiguous parts, in order of layers.
///
/// With [`Policy::Exactly`] nodes are tried fastest first, and biggest first where the fast ones are too small; where only
/// the ends are too big for some, the two biggest nodes take those; and they share the layers by their pace. With
/// [`Policy::Auto`] the same is tried with one node, two and so on, and with layers going to the fastest first; what predicts
/// the fastest token is taken, and of equals the one with fewer nodes. A node with no room for a single layer takes no part.
///
/// # Errors
/// What is missing, in numbers.
pub fn place(demand: &Demand<'_>, offers: &[Offer], policy: Policy) -> Result<Vec<Part>, Unplaced> {
    let layers = demand.spec.layers;
    let scales = Scales::new(demand);
    let useful: Vec<usize> = (0..offers.len()).filter(|&node| scales.block <= offers[node].memory_bytes).collect();
    let found = match policy {
        Policy::Exactly(wanted) if wanted > layers => return Err(Unplaced::Layers { wanted, layers }),
        Policy::Exactly(wanted) if wanted > offers.len() => {
            return Err(Unplaced::Nodes { missing: wanted - offers.len(), wanted });
        }
        Policy::Exactly(wanted) if wanted > useful.len() => None,
        Policy::Exactly(wanted) => {
            let shared = |nodes: &Vec<usize>| share(&scales, offers, nodes, BY_PACE);
            orders(demand, offers, &useful, wanted).iter().find_map(shared)
        }
        Policy::Auto if offers.is_empty() => return Err(Unplaced::Nodes { missing: 1, wanted: 1 }),
        Policy::Auto => fastest(demand, offers, &useful),
    };
    found.ok_or_else(|| {
        let offered = offers.iter().fold(0u64, |sum, offer| sum.saturating_add(offer.memory_bytes));
        Unplaced::Memory { needs: vec![(demand.format, scales.bytes(0..layers))], offered, nodes: offers.len() }
    })
}

/// The placement on some of these nodes that predicts the fastest token.
fn fastest(demand: &Demand<'_>, offers: &[Offer], useful: &[usize]) -> Option<Vec<Part>> {
    let mut best: Option<(u64, Vec<Part>)> = None;
    let mut since = 0;
    for count in 1..=useful.len().min(demand.spec.layers) {
        if let Some(found) = fastest_of(demand, offers, useful, count) {
            let better = best.as_ref().is_none_or(|best| found.0 < best.0);
            since = if better { 0 } else { since + 1 };
            if better {
                best = Some(found);
            }
        }
        // More nodes help where they spare a slow one that was needed for its memory.
        if since >= MORE_NODES {
            break;
        }
    }
    best.map(|best| best.1)
}

/// The same with `count` of them, and what it predicts.
fn fastest_of(demand: &Demand<'_>, offers: &[Offer], useful: &[usize], count: usize) -> Option<(u64, Vec<Part>)> {
    let scales = Scales::new(demand);
    let orders = orders(demand, offers, useful, count);
    let shared =
        orders.iter().flat_map(|nodes| [BY_PACE, FASTEST_FIRST].map(|skew| share(&scales, offers, nodes, skew)));
    let timed = shared.flatten().map(|parts| (predict(demand, offers, &parts).token_ns(), parts));
    timed.min_by_key(|found| found.0)
}

/// The placement that predicts the fastest token of those in which a node takes part beside those of `parts`.
pub(crate) fn with_node(
    demand: &Demand<'_>,
    offers: &[Offer],
    parts: &[Part],
    node: usize,
) -> Option<(u64, Vec<Part>)> {
    let nodes: Vec<usize> = parts.iter().map(|part| part.node).chain([node]).collect();
    if nodes.len() > demand.spec.layers { None } else { fastest_of(demand, offers, &nodes, nodes.len()) }
}

/// Orders in which `count` nodes may follow each other, the ones to be preferred first.
fn orders(demand: &Demand<'_>, offers: &[Offer], useful: &[usize], count: usize) -> [Vec<usize>; 6] {
    let part = (demand.spec.layers / count.max(1)).max(1) as u64;
    let time = |node: usize| offers[node].layer_ns.saturating_mul(part).saturating_add(offers[node].hop_ns);
    let (mut fastest, mut biggest) = (useful.to_vec(), useful.to_vec());
    fastest.sort_by_key(|&node| (time(node), Reverse(offers[node].memory_bytes), node));
    biggest.sort_by_key(|&node| (Reverse(offers[node].memory_bytes), time(node), node));
    fastest.truncate(count);
    biggest.truncate(count);
    // Nodes keep the order in which they came, so that neighbours stay neighbours, unless only another order fits.
    let mut joined = fastest.clone();
    joined.sort_unstable();
    // Embedding and head go to the biggest: a microcontroller has room for a layer between them.
    let with_ends = |nodes: &[usize]| {
        let mut ends = nodes.to_vec();
        if let [_, _, _, ..] = ends[..] {
            ends[1..].rotate_left(1);
        }
        ends
    };
    let (ends, fast_ends) = (with_ends(&biggest), with_ends(&fastest));
    // The head is where it is read the fastest.
    let fast_head = fastest.iter().rev().copied().collect();
    [joined, fastest, biggest, ends, fast_head, fast_ends]
}

/// What parts of the model weigh, KV caches included.
pub(crate) struct Scales {
    layers: usize,
    /// Any layer by itself.
    pub(crate) block: u64,
    /// The weights of it alone.
    block_weights: u64,
    /// What the first layer brings with it.
    embed: u64,
    /// What the last layer brings with it.
    head: u64,
    /// What a range with both ends needs only once.
    shared: u64,
}

impl Scales {
    pub(crate) fn new(demand: &Demand<'_>) -> Self {
        let Demand { spec, format, max_positions, slots, .. } = *demand;
        let weigh = |pieces: &[Piece]| pieces.iter().map(|piece| piece_bytes(spec, format, *piece)).sum::<u64>();
        let kv = Plan::new(spec, format, 0..1).kv_bytes(max_positions, slots);
        let embed = Plan::new(spec, format, 0..1).pieces;
        let ends = |keep: fn(&Piece) -> bool| weigh(&embed.iter().copied().filter(keep).collect::<Vec<_>>());
        let tokens = weigh(&[Piece::Tokens]);
        Self {
            layers: spec.layers,
            block: weigh(&[Piece::Block(0)]) + kv,
            block_weights: weigh(&[Piece::Block(0)]),
            embed: ends(|piece| matches!(piece, Piece::Tokens | Piece::Positions)),
            head: weigh(&[Piece::Head]) + if spec.tied_head { tokens } else { 0 },
            shared: if spec.tied_head { tokens } else { 0 },
        }
    }

    /// How many layers have as many weights as the head reads for a token.
    pub(crate) fn head_layers(&self) -> f64 {
        self.head as f64 / self.block_weights.max(1) as f64
    }

    /// Bytes that a layer range takes.
    pub(crate) fn bytes(&self, layers: Range<usize>) -> u64 {
        let (first, last) = (layers.start == 0, layers.end == self.layers);
        let ends = if first { self.embed } else { 0 } + if last { self.head } else { 0 };
        self.block * layers.len() as u64 + ends - if first && last { self.shared } else { 0 }
    }
}

/// What is needed with each format and what `nodes` nodes offer, for people.
pub(crate) fn memory(needs: &[(WeightFormat, u64)], offered: u64, nodes: usize) -> String {
    let needs: Vec<String> = needs.iter().map(|(format, bytes)| format!("{} ({format})", size(*bytes))).collect();
    let nodes = if nodes == 1 { "node offers".into() } else { format!("{nodes} nodes offer") };
    format!("the model needs {}, the {nodes} {}", needs.join(", "), size(offered))
}

/// `bytes` for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Shares the layers among `nodes` in proportion to the `skew`th power of their pace, within each one's memory. The head
/// counts as layers of the last node.
fn share(scales: &Scales, offers: &[Offer], nodes: &[usize], skew: i32) -> Option<Vec<Part>> {
    let best = nodes.iter().map(|&node| offers[node].layer_ns.max(1)).min()? as f64;
    let pace = |node: usize| (best / offers[node].layer_ns.max(1) as f64).powi(skew);
    let mut parts = Vec::with_capacity(nodes.len());
    let mut start = 0;
    for (index, &node) in nodes.iter().enumerate() {
        let later = &nodes[index + 1..];
        let left = scales.layers - start;
        let pace_left: f64 = nodes[index..].iter().map(|&node| pace(node)).sum();
        let fair = ((left as f64 + scales.head_layers()) * pace(node) / pace_left).round() as usize;
        let most = left.checked_sub(later.len())?;
        let wish = if later.is_empty() { left } else { fair.clamp(1, most.max(1)) };
        // What the later nodes cannot hold has to go here, as far as it fits.
        let least = (wish..=most).find(|&count| rest_fits(scales, offers, later, start + count))?;
        let fits = |count: &usize| scales.bytes(start..start + count) <= offers[node].memory_bytes;
        let count = (1..=least).rev().find(fits)?;
        parts.push(Part { node, layers: start..start + count });
        start += count;
    }
    (start == scales.layers).then_some(parts)
}

/// Whether `nodes`, each filled to the brim, hold the layers from `start` on.
fn rest_fits(scales: &Scales, offers: &[Offer], nodes: &[usize], start: usize) -> bool {
    let mut at = start;
    for &node in nodes {
        let fits = |end: &usize| scales.bytes(at..*end) <= offers[node].memory_bytes;
        let Some(end) = (at + 1..=scales.layers).rev().find(fits) else { break };
        at = end;
    }
    at == scales.layers
}

/// Everybody is as long at work: texts that run at the same time are the fastest.
const BY_PACE: i32 = 1;

/// As much as the fastest nodes hold, and the rest to the others: one text is the fastest.
const FASTEST_FIRST: i32 = 16;

/// So many nodes more than the best number so far are tried.
const MORE_NODES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use syn1_core::{Codec, Form};
    use syn1_model::spec::{Activation, Attention, Family, Norm, NormKind, Position};

    fn spec() -> Spec {
        Spec {
            family: Family::Gpt2,
            layers: 8,
            width: 256,
            heads: 4,
            kv_heads: 4,
            head_dim: 64,
            ffn: 1024,
            vocab: 4096,
            max_positions: 512,
            norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
            position: Position::Learned,
            activation: Activation::GeluTanh,
            gated: false,
            attention: Attention::default(),
            post_norms: false,
            embed_scale: None,
            logit_softcap: None,
            tied_head: true,
            eos: vec![0],
        }
    }

    fn lengths(parts: &[Part]) -> Vec<usize> {
        parts.iter().map(|part| part.layers.len()).collect()
    }

    fn offer(memory_mb: u64, layer_ns: u64) -> Offer {
        Offer { memory_bytes: memory_mb * 1_000_000, layer_ns, ..Offer::default() }
    }

    /// Nanoseconds of layers alone.
    fn layers_ns(offers: &[Offer], parts: &[Part]) -> u64 {
        parts.iter().map(|part| part.layers.len() as u64 * offers[part.node].layer_ns).sum()
    }

    fn with_demand<R>(run: impl FnOnce(&Demand<'_>) -> R) -> R {
        let wire = Wire::everywhere(Form::plain(Codec::F16));
        run(&Demand { spec: &spec(), format: WeightFormat::F16, max_positions: 512, slots: 4, wire: &wire })
    }

    #[test]
    fn one_fast_node_that_holds_the_model_gets_all_of_it() {
        with_demand(|demand| {
            let offers = [offer(1000, 900), offer(1000, 100), offer(1000, 500)];
            let parts = place(demand, &offers, Policy::Auto).unwrap();
            assert_eq!(parts, [Part { node: 1, layers: 0..8 }]);
            assert_eq!(layers_ns(&offers, &parts), 800);
        });
    }

    #[test]
    fn a_node_too_small_for_either_end_gets_a_layer_between_them_whenever_it_joins() {
        with_demand(|demand| {
            let one_layer = Scales::new(demand).block;
            let small = Offer { memory_bytes: one_layer, layer_ns: 1_000_000, ..Offer::default() };
            let big = offer(1000, 100);
            for offers in [[small, big, big], [big, small, big], [big, big, small]] {
                let parts = place(demand, &offers, Policy::Exactly(3)).unwrap();
                assert_eq!(offers[parts[1].node], small);
                assert_eq!(parts[1].layers.len(), 1);
            }
        });
    }

    #[test]
    fn exactly_n_nodes_share_in_proportion_to_their_pace() {
        with_demand(|demand| {
            let even = place(demand, &[offer(1000, 100); 8], Policy::Exactly(8)).unwrap();
            assert_eq!(lengths(&even), [1; 8]);
            let three = place(demand, &[offer(1000, 100); 3], Policy::Exactly(3)).unwrap();
            assert_eq!(lengths(&three).iter().sum::<usize>(), 8);
            let uneven = place(demand, &[offer(1000, 100), offer(1000, 300)], Policy::Exactly(2)).unwrap();
            assert_eq!(lengths(&uneven), [7, 1], "the head counts as 1.3 layers");
        });
    }

    #[test]
    fn a_node_is_left_out_that_would_slow_the_group() {
        with_demand(|demand| {
            let half = Scales::new(demand).bytes(0..5);
            let far = Offer { hop_ns: 100_000_000, ..offer(1000, 1_000_000) };
            let near = |layer_ns| Offer { memory_bytes: half, layer_ns, hop_ns: 150_000, ..Offer::default() };
            // Alone the far one takes more than two that are near: 109 ms against 10.
            let offers = [far, near(1_000_000), near(1_100_000)];
            let parts = place(demand, &offers, Policy::Auto).unwrap();
            assert!(parts.len() == 2 && parts.iter().all(|part| part.node != 0), "{parts:?}");
            // Where one of those is too slow, it is the other way round.
            let offers = [far, near(1_000_000), near(1_000_000_000)];
            assert_eq!(place(demand, &offers, Policy::Auto).unwrap(), [Part { node: 0, layers: 0..8 }]);
        });
    }

    #[test]
    fn one_text_is_the_fastest_where_the_fastest_node_has_all_that_it_holds() {
        with_demand(|demand| {
            let six = Scales::new(demand).bytes(0..6);
            let offers = [Offer { memory_bytes: six, ..offer(0, 100_000) }, offer(1000, 300_000)];
            let parts = place(demand, &offers, Policy::Auto).unwrap();
            let of_fastest = parts.iter().find(|part| part.node == 0).unwrap();
            assert_eq!((parts.len(), of_fastest.layers.len()), (2, 6));
        });
    }

    #[test]
    fn the_head_goes_where_it_is_read_the_fastest() {
        with_demand(|demand| {
            let some = |layer_ns| Offer { memory_bytes: Scales::new(demand).bytes(0..5), ..offer(0, layer_ns) };
            for offers in [[some(100), some(500)], [some(500), some(100)]] {
                let parts = place(demand, &offers, Policy::Auto).unwrap();
                assert_eq!(offers[parts[1].node].layer_ns, 100, "{parts:?}");
            }
        });
    }

    #[test]
    fn a_third_node_is_taken_if_it_spares_a_slow_one_its_layers() {
        with_demand(|demand| {
            let some =
                |layers, layer_ns| Offer { memory_bytes: Scales::new(demand).bytes(0..layers), ..offer(0, layer_ns) };
            let offers = [some(3, 100), some(3, 110), some(7, 10_000)];
            let parts = place(demand, &offers, Policy::Auto).unwrap();
            assert_eq!(parts.len(), 3, "two of them hold it too, and are slower: {parts:?}");
        });
    }

    #[test]
    fn memory_limits_a_fast_node() {
        with_demand(|demand| {
            let three_layers = Scales::new(demand).bytes(0..3);
            let offers = [Offer { memory_bytes: three_layers, layer_ns: 1, ..Offer::default() }, offer(1000, 1_000)];
            assert_eq!(lengths(&place(demand, &offers, Policy::Exactly(2)).unwrap()), [3, 5]);
        });
    }

    #[test]
    fn a_small_later_node_pushes_layers_to_an_earlier_one() {
        with_demand(|demand| {
            let one_layer = Scales::new(demand).bytes(7..8);
            let offers = [offer(1000, 1_000), Offer { memory_bytes: one_layer, layer_ns: 1, ..Offer::default() }];
            assert_eq!(lengths(&place(demand, &offers, Policy::Exactly(2)).unwrap()), [7, 1]);
        });
    }

    #[test]
    fn a_node_without_room_for_a_layer_stands_aside() {
        with_demand(|demand| {
            let parts = place(demand, &[offer(1, 1), offer(1000, 1_000)], Policy::Auto).unwrap();
            assert_eq!(parts, [Part { node: 1, layers: 0..8 }]);
            let three = [offer(1, 1), offer(1000, 1_000), offer(1000, 1_000)];
            assert_eq!(lengths(&place(demand, &three, Policy::Exactly(2)).unwrap()), [5, 3]);
        });
    }

    #[test]
    fn ranges_weigh_what_their_plans_hold() {
        with_demand(|demand| {
            for range in [0..8, 0..1, 2..5, 7..8] {
                let plan = Plan::new(demand.spec, demand.format, range.clone());
                let bytes = plan.weight_bytes() + plan.kv_bytes(512, 4);
                assert_eq!(Scales::new(demand).bytes(range), bytes);
            }
        });
    }

    #[test]
    fn absurd_offers_overflow_nothing() {
        with_demand(|demand| {
            let most = u64::MAX;
            let absurd = [Offer { memory_bytes: most, layer_ns: most, hop_ns: most, bytes_per_s: Some(0) }; 3];
            for policy in [Policy::Exactly(3), Policy::Auto] {
                let parts = place(demand, &absurd, policy).unwrap();
                assert_eq!(predict(demand, &absurd, &parts).token_ns(), most);
            }
        });
    }

    #[test]
    fn what_is_missing_is_said_in_numbers() {
        with_demand(|demand| {
            let small = place(demand, &[offer(5, 1), offer(6, 1)], Policy::Auto).unwrap_err().to_string();
            assert!(small.contains("the 2 nodes offer 11.0 MB"), "{small}");
            let many = place(demand, &[offer(1000, 1); 9], Policy::Exactly(9)).unwrap_err().to_string();
            assert!(many.contains("9 nodes for a model of 8 layers"), "{many}");
            let few = place(demand, &[offer(1000, 1)], Policy::Exactly(2)).unwrap_err();
            assert_eq!(few, Unplaced::Nodes { missing: 1, wanted: 2 });
        });
    }

    #[test]
    fn every_placement_covers_every_layer_once_and_fits() {
        with_demand(|demand| {
            for a in [4, 8, 12, 20, 30] {
                for b in [4, 8, 12, 20, 30] {
                    for pace in [1, 10, 100] {
                        let offers = [offer(a, 10), offer(b, pace), offer(12, 50)];
                        let Ok(parts) = place(demand, &offers, Policy::Auto) else { continue };
                        let mut next = 0;
                        for part in &parts {
                            assert_eq!(part.layers.start, next);
                            assert!(Scales::new(demand).bytes(part.layers.clone()) <= offers[part.node].memory_bytes);
                            next = part.layers.end;
                        }
                        assert_eq!(next, 8);
                    }
                }
            }
        });
    }
}
