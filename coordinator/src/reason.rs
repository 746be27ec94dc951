//! Why the model lies where it lies, in a sentence or two for people.

use crate::outline::why_not;
use crate::placement::{Demand, Offer, Part, Policy, size};

/// Explains `parts`, which [`crate::placement::place`] made of `offers`. `name` names the node of an offer.
pub(crate) fn reason(
    policy: Policy,
    demand: &Demand<'_>,
    offers: &[Offer],
    parts: &[Part],
    name: impl Fn(usize) -> String,
) -> String {
    let bytes = demand.bytes();
    let model = format!("{} weights and KV caches take {}", demand.format, size(bytes));
    let fastest = (0..offers.len()).min_by_key(|&node| offers[node].layer_ns);
    let text = match (policy, parts) {
        (Policy::Exactly(1), [part]) => {
            format!("One node was asked for: {} holds the model ({model}).", name(part.node))
        }
        (Policy::Exactly(wanted), _) => format!(
            "{wanted} nodes were asked for: they share the layers by their pace, as far as each one's memory goes \
             ({model})."
        ),
        (Policy::Auto, [part]) => {
            let which = match fastest {
                _ if offers.len() == 1 => "the only node",
                Some(fastest) if offers[part.node].layer_ns == offers[fastest].layer_ns => "the fastest node",
                Some(fastest) if offers[fastest].memory_bytes < bytes => {
                    "the node on which a token is the fastest (the fastest one is too small)"
                }
                _ => "the node on which a token is the fastest (the fastest one's link is slower)",
            };
            format!(
                "{} is {which} and holds the whole model ({model}). A split would make no text faster.",
                name(part.node)
            )
        }
        (Policy::Auto, _) => format!(
            "{} nodes share the layers: of all that was tried and holds the model ({model}), a token is the fastest there.",
            parts.len()
        ),
    };
    let spare = (0..offers.len()).filter(|node| parts.iter().all(|part| part.node != *node));
    let spare: Vec<usize> = spare.collect();
    let mut text = text;
    for &node in spare.iter().take(NAMED) {
        text += &format!(" {} is left out: {}.", name(node), why_not(policy, demand, offers, parts, node));
    }
    match spare.len().saturating_sub(NAMED) {
        0 => text,
        1 => text + " Another one is not needed.",
        more => format!("{text} {more} others are not needed."),
    }
}

/// Nodes that are named with what keeps them out; `GET /api/plan` has all of them.
const NAMED: usize = 3;

#[cfg(test)]
mod tests {
    use syn1_core::{Codec, Form};
    use syn1_model::plan::WeightFormat;
    use syn1_model::spec::Spec;

    use super::*;
    use crate::wire::Wire;

    fn said(policy: Policy, layer_us: &[u64], nodes: &[usize]) -> String {
        let offer = |&us: &u64| Offer { memory_bytes: 1 << 30, layer_ns: us * 1000, ..Offer::default() };
        let offers: Vec<Offer> = layer_us.iter().map(offer).collect();
        said_of(policy, &offers, nodes)
    }

    fn said_of(policy: Policy, offers: &[Offer], nodes: &[usize]) -> String {
        let (spec, wire) = (Spec::gpt2_124m(), Wire::everywhere(Form::plain(Codec::F16)));
        let demand = Demand { spec: &spec, format: WeightFormat::F16, max_positions: 1024, slots: 1, wire: &wire };
        let each = spec.layers / nodes.len();
        let part = |(at, &node): (usize, &usize)| Part { node, layers: at * each..(at + 1) * each };
        let parts: Vec<Part> = nodes.iter().enumerate().map(part).collect();
        reason(policy, &demand, offers, &parts, |node| format!("n{node}"))
    }

    #[test]
    fn one_node_is_named_with_what_made_it_the_one() {
        assert!(said(Policy::Auto, &[5], &[0]).starts_with("n0 is the only node and holds the whole model (f16"));
        let fastest = said(Policy::Auto, &[9, 5, 7], &[1]);
        assert!(fastest.starts_with("n1 is the fastest node"), "{fastest}");
        assert!(fastest.contains("n0 is left out: with it a token would take"), "{fastest}");
        let offer = |memory_bytes, hop_ns| Offer { memory_bytes, layer_ns: 5, hop_ns, ..Offer::default() };
        let slower = Offer { layer_ns: 9, ..offer(1 << 30, 0) };
        assert!(said_of(Policy::Auto, &[offer(1 << 30, 1 << 30), slower], &[1]).contains("link is slower"));
        assert!(said_of(Policy::Auto, &[offer(1 << 26, 0), slower], &[1]).contains("too small"));
    }

    #[test]
    fn a_split_says_who_wanted_it() {
        assert!(said(Policy::Auto, &[9, 5], &[0, 1]).starts_with("2 nodes share the layers"));
        let asked = said(Policy::Exactly(2), &[9, 5, 6], &[0, 1]);
        assert!(asked.starts_with("2 nodes were asked for: they share"), "{asked}");
        assert!(asked.ends_with("n2 is left out: 2 nodes were asked for, and others go before it."), "{asked}");
    }

    #[test]
    fn of_many_spares_only_some_are_named() {
        let many = said(Policy::Auto, &[5, 6, 7, 8, 9, 10], &[0]);
        assert!(many.contains("n3 is left out") && many.ends_with("2 others are not needed."), "{many}");
    }
}
