//! Which node holds which layers: a pure function of what the nodes offer and what the model needs.
//!
//! A token passes the nodes one after another, so its time is the sum of every node's layers at that node's pace plus a
//! hop for each node. More nodes never make one stream faster than the fastest node alone; they make the model fit.

use std::cmp::Reverse;
use std::ops::Range;

use syn1_model::plan::{Piece, Plan, WeightFormat, piece_bytes};
use syn1_model::spec::Spec;

/// How many nodes share the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As few nodes as the model needs, fastest first.
    Auto,
    /// Exactly this many, layers in proportion to their pace.
    Exactly(usize),
}

/// What a node brings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Bytes for weights and KV caches.
    pub memory_bytes: u64,
    /// Nanoseconds for one layer and one token.
    pub layer_ns: u64,
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
}

impl Demand<'_> {
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
/// Nodes are tried fastest first, and biggest first where the fast ones are too small; where only the ends are too big for
/// some, the two biggest nodes take those. A node with no room for a single layer takes no part.
///
/// # Errors
/// What is missing, in numbers.
pub fn place(demand: &Demand<'_>, offers: &[Offer], policy: Policy) -> Result<Vec<Part>, Unplaced> {
    let layers = demand.spec.layers;
    let scales = Scales::new(demand);
    let useful: Vec<usize> = (0..offers.len()).filter(|&node| scales.block <= offers[node].memory_bytes).collect();
    let counts = match policy {
        Policy::Exactly(wanted) if wanted > layers => return Err(Unplaced::Layers { wanted, layers }),
        Policy::Exactly(wanted) if wanted > offers.len() => {
            return Err(Unplaced::Nodes { missing: wanted - offers.len(), wanted });
        }
        Policy::Exactly(wanted) => wanted..=wanted.min(useful.len()),
        Policy::Auto if offers.is_empty() => return Err(Unplaced::Nodes { missing: 1, wanted: 1 }),
        Policy::Auto => 1..=useful.len().min(layers),
    };
    let (mut fastest, mut biggest) = (useful.clone(), useful);
    fastest.sort_by_key(|&node| (offers[node].layer_ns, Reverse(offers[node].memory_bytes), node));
    biggest.sort_by_key(|&node| (Reverse(offers[node].memory_bytes), offers[node].layer_ns, node));
    for count in counts {
        // Nodes keep the order in which they came, so that neighbours stay neighbours, unless only another order fits.
        let mut joined = fastest[..count].to_vec();
        joined.sort_unstable();
        let (fast, big) = (fastest[..count].to_vec(), biggest[..count].to_vec());
        // Embedding and head go to the biggest: a microcontroller has room for a layer between them.
        let mut ends = big.clone();
        if let [_, _, _, ..] = ends[..] {
            ends[1..].rotate_left(1);
        }
        let orders = [joined, fast, big, ends];
        if let Some(parts) = orders.iter().find_map(|nodes| share(&scales, offers, nodes)) {
            return Ok(parts);
        }
    }
    let offered = offers.iter().fold(0u64, |sum, offer| sum.saturating_add(offer.memory_bytes));
    Err(Unplaced::Memory { needs: vec![(demand.format, scales.bytes(0..layers))], offered, nodes: offers.len() })
}

/// Nanoseconds a token spends computing on this placement.
pub fn predicted_ns(offers: &[Offer], parts: &[Part]) -> u64 {
    let part_ns = |part: &Part| (part.layers.len() as u64).saturating_mul(offers[part.node].layer_ns);
    parts.iter().fold(0, |sum, part| sum.saturating_add(part_ns(part)))
}

/// What parts of the model weigh, KV caches included.
pub(crate) struct Scales {
    layers: usize,
    /// Any layer by itself.
    block: u64,
    /// What the first layer brings with it.
    embed: u64,
    /// What the last layer brings with it.
    head: u64,
    /// What a range with both ends needs only once.
    shared: u64,
}

impl Scales {
    pub(crate) fn new(demand: &Demand<'_>) -> Self {
        let Demand { spec, format, max_positions, slots } = *demand;
        let weigh = |pieces: &[Piece]| pieces.iter().map(|piece| piece_bytes(spec, format, *piece)).sum::<u64>();
        let kv = Plan::new(spec, format, 0..1).kv_bytes(max_positions, slots);
        let embed = Plan::new(spec, format, 0..1).pieces;
        let ends = |keep: fn(&Piece) -> bool| weigh(&embed.iter().copied().filter(keep).collect::<Vec<_>>());
        let tokens = weigh(&[Piece::Tokens]);
        Self {
            layers: spec.layers,
            block: weigh(&[Piece::Block(0)]) + kv,
            embed: ends(|piece| matches!(piece, Piece::Tokens | Piece::Positions)),
            head: weigh(&[Piece::Head]) + if spec.tied_head { tokens } else { 0 },
            shared: if spec.tied_head { tokens } else { 0 },
        }
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

/// Shares the layers among `nodes` in proportion to their pace, within each one's memory.
fn share(scales: &Scales, offers: &[Offer], nodes: &[usize]) -> Option<Vec<Part>> {
    let pace = |node: usize| 1.0 / offers[node].layer_ns.max(1) as f64;
    let mut parts = Vec::with_capacity(nodes.len());
    let mut start = 0;
    for (index, &node) in nodes.iter().enumerate() {
        let later = &nodes[index + 1..];
        let left = scales.layers - start;
        let pace_left: f64 = nodes[index..].iter().map(|&node| pace(node)).sum();
        let fair = (left as f64 * pace(node) / pace_left).round() as usize;
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

#[cfg(test)]
mod tests {
    use super::*;
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
        Offer { memory_bytes: memory_mb * 1_000_000, layer_ns }
    }

    fn with_demand<R>(run: impl FnOnce(&Demand<'_>) -> R) -> R {
        run(&Demand { spec: &spec(), format: WeightFormat::F16, max_positions: 512, slots: 4 })
    }

    #[test]
    fn one_fast_node_that_holds_the_model_gets_all_of_it() {
        with_demand(|demand| {
            let offers = [offer(1000, 900), offer(1000, 100), offer(1000, 500)];
            let parts = place(demand, &offers, Policy::Auto).unwrap();
            assert_eq!(parts, [Part { node: 1, layers: 0..8 }]);
            assert_eq!(predicted_ns(&offers, &parts), 800);
        });
    }

    #[test]
    fn a_node_too_small_for_either_end_gets_a_layer_between_them_whenever_it_joins() {
        with_demand(|demand| {
            let one_layer = Scales::new(demand).block;
            let small = Offer { memory_bytes: one_layer, layer_ns: 1_000_000 };
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
            assert_eq!(lengths(&uneven), [6, 2]);
        });
    }

    #[test]
    fn memory_limits_a_fast_node() {
        with_demand(|demand| {
            let three_layers = Scales::new(demand).bytes(0..3);
            let offers = [Offer { memory_bytes: three_layers, layer_ns: 1 }, offer(1000, 1_000)];
            assert_eq!(lengths(&place(demand, &offers, Policy::Exactly(2)).unwrap()), [3, 5]);
        });
    }

    #[test]
    fn a_small_later_node_pushes_layers_to_an_earlier_one() {
        with_demand(|demand| {
            let one_layer = Scales::new(demand).bytes(7..8);
            let offers = [offer(1000, 1_000), Offer { memory_bytes: one_layer, layer_ns: 1 }];
            assert_eq!(lengths(&place(demand, &offers, Policy::Exactly(2)).unwrap()), [7, 1]);
        });
    }

    #[test]
    fn a_node_without_room_for_a_layer_stands_aside() {
        with_demand(|demand| {
            let parts = place(demand, &[offer(1, 1), offer(1000, 1_000)], Policy::Auto).unwrap();
            assert_eq!(parts, [Part { node: 1, layers: 0..8 }]);
            let three = [offer(1, 1), offer(1000, 1_000), offer(1000, 1_000)];
            assert_eq!(lengths(&place(demand, &three, Policy::Exactly(2)).unwrap()), [4, 4]);
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
            let absurd = [Offer { memory_bytes: u64::MAX, layer_ns: u64::MAX }; 3];
            let parts = place(demand, &absurd, Policy::Exactly(3)).unwrap();
            assert_eq!(predicted_ns(&absurd, &parts), u64::MAX);
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
