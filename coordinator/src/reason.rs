//! Why the model lies where it lies, in a sentence for people.

use syn1_model::plan::WeightFormat;

use crate::placement::{Offer, Part, Policy, size};

/// Explains `parts`, which [`crate::placement::place`] made of `offers` for a model of `bytes` bytes in `format`, KV caches
/// included. `name` names the node of an offer.
pub(crate) fn reason(
    policy: Policy,
    (format, bytes): (WeightFormat, u64),
    offers: &[Offer],
    parts: &[Part],
    name: impl Fn(usize) -> String,
) -> String {
    let model = format!("{format} weights and KV caches take {}", size(bytes));
    let fastest = offers.iter().map(|offer| offer.layer_ns).min();
    let text = match (policy, parts) {
        (Policy::Exactly(1), [part]) => {
            format!("One node was asked for: {} holds the model ({model}).", name(part.node))
        }
        (Policy::Exactly(wanted), _) => format!(
            "{wanted} nodes were asked for: they share the layers by their pace, as far as each one's memory goes \
             ({model})."
        ),
        (Policy::Auto, [part]) => {
            let which = match offers {
                [_] => "the only node",
                _ if Some(offers[part.node].layer_ns) == fastest => "the fastest node",
                _ => "the node with the most memory (the fastest is too small)",
            };
            format!(
                "{} is {which} and holds the whole model ({model}). A split would make no text faster.",
                name(part.node)
            )
        }
        (Policy::Auto, _) => format!(
            "No fewer than {} nodes hold the model ({model}): they share the layers by their pace, as far as each \
             one's memory goes.",
            parts.len()
        ),
    };
    let spare = (0..offers.len()).filter(|node| parts.iter().all(|part| part.node != *node));
    match &spare.map(name).collect::<Vec<_>>()[..] {
        [] => text,
        [one] => format!("{text} {one} is not needed."),
        more => format!("{text} {} are not needed.", more.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(policy: Policy, layer_ns: &[u64], nodes: &[usize]) -> String {
        let offers: Vec<Offer> = layer_ns.iter().map(|&layer_ns| Offer { memory_bytes: 1 << 30, layer_ns }).collect();
        let parts: Vec<Part> = nodes.iter().map(|&node| Part { node, layers: node..node + 1 }).collect();
        reason(policy, (WeightFormat::F16, 15_000_000), &offers, &parts, |node| format!("n{node}"))
    }

    #[test]
    fn one_node_is_named_with_what_made_it_the_one() {
        assert!(said(Policy::Auto, &[5], &[0]).starts_with("n0 is the only node and holds the whole model (f16"));
        let fastest = said(Policy::Auto, &[9, 5, 7], &[1]);
        assert!(fastest.starts_with("n1 is the fastest node"), "{fastest}");
        assert!(fastest.ends_with("n0, n2 are not needed."), "{fastest}");
        assert!(said(Policy::Auto, &[9, 5], &[0]).contains("most memory"));
    }

    #[test]
    fn a_split_says_who_wanted_it() {
        assert!(said(Policy::Auto, &[9, 5], &[0, 1]).starts_with("No fewer than 2 nodes hold the model"));
        assert!(said(Policy::Exactly(2), &[9, 5, 6], &[0, 1]).starts_with("2 nodes were asked for"));
        assert!(said(Policy::Exactly(2), &[9, 5, 6], &[0, 1]).ends_with("15.0 MB). n2 is not needed."));
    }
}
