//! A placement for people and programs: who takes which layers, what a token takes, and why who is left out is left out.

use serde::{Deserialize, Serialize};

use crate::core::{Core, CoreConfig, NodeId};
use crate::placement::{Demand, Offer, Part, Policy, Scales, Unplaced, place, size, with_node};
use crate::predict::predict;
use crate::reason::reason;

/// What `syn1 plan` prints and `GET /api/plan` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outline {
    /// The model's name.
    pub model: String,
    /// How its weights are stored.
    pub weights: String,
    /// Bytes of its weights and KV caches.
    pub needed_bytes: u64,
    /// Who takes layers, in their order.
    pub taken: Vec<Taken>,
    /// Who takes none.
    pub left_out: Vec<LeftOut>,
    /// Why the layers lie where they lie, in a sentence or two.
    pub reason: String,
    /// Predicted microseconds from a token of one text to the next.
    pub token_us: f64,
    /// Those of them in which nodes compute.
    pub compute_us: f64,
    /// Those of them that links take.
    pub link_us: f64,
    /// Tokens per second of one text.
    pub tokens_per_second: f64,
    /// Tokens per second of all texts together, if there are so many that the busiest node never waits.
    pub most_tokens_per_second: f64,
}

/// A device and its part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Its name.
    pub name: String,
    /// First layer and one behind the last.
    pub layers: (usize, usize),
    /// Bytes that its part needs.
    pub needs_bytes: u64,
    /// Bytes that it offers.
    pub memory_bytes: u64,
    /// Microseconds that it computes for a token.
    pub compute_us: f64,
    /// Microseconds that its link takes for a token.
    pub link_us: f64,
}

/// A device without a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// The plan for devices of these names and offers.
///
/// # Errors
/// What is missing, in numbers.
pub fn outline(
    model: &str,
    policy: Policy,
    demand: &Demand<'_>,
    names: &[String],
    offers: &[Offer],
) -> Result<Outline, Unplaced> {
    let parts = place(demand, offers, policy)?;
    let name = |node: usize| names.get(node).cloned().unwrap_or_else(|| format!("#{node}"));
    let reason = reason(policy, demand, offers, &parts, name);
    Ok(describe(model, policy, demand, &name, offers, &parts, reason))
}

impl Core {
    /// The plan that is served, for all that is known now; nothing while there is none.
    pub fn outline(&self) -> Option<Outline> {
        let chain = self.chain.as_ref()?;
        let (ids, offers): (Vec<NodeId>, Vec<Offer>) =
            self.nodes.iter().filter_map(|(id, node)| Some((*id, node.offer?))).unzip();
        let part = |(id, layers): &(NodeId, std::ops::Range<usize>)| {
            Some(Part { node: ids.iter().position(|of| of == id)?, layers: layers.clone() })
        };
        let parts: Vec<Part> = chain.parts.iter().map(part).collect::<Option<_>>()?;
        let CoreConfig { name, format, policy, .. } = &self.config;
        let node_name = |node: usize| self.name(ids[node]);
        let demand = self.demand(*format);
        let mut outline = describe(name, *policy, &demand, &node_name, &offers, &parts, chain.reason.clone());
        // What a node said of itself counts more than what it could be.
        for left in &mut outline.left_out {
            let node = self.nodes.values().find(|node| node.name == left.name);
            if let Some(unable) = node.and_then(|node| node.unable.as_ref()) {
                left.why = unable.clone();
            } else if node.is_some_and(|node| node.max_rows < chain.widest) {
                left.why = format!("its link takes no frames of {} rows, as they are served here", chain.widest);
            }
        }
        let silent = self.nodes.values().filter(|node| node.offer.is_none());
        outline.left_out.extend(
            silent.map(|node| LeftOut { name: node.name.clone(), why: "it has not told yet what it is".into() }),
        );
        Some(outline)
    }
}

fn describe(
    model: &str,
    policy: Policy,
    demand: &Demand<'_>,
    name: &dyn Fn(usize) -> String,
    offers: &[Offer],
    parts: &[Part],
    reason: String,
) -> Outline {
    let scales = Scales::new(demand);
    let predicted = predict(demand, offers, parts);
    let us = |ns: u64| ns as f64 / 1e3;
    let taken = parts.iter().zip(&predicted.hops).map(|(part, hop)| Taken {
        name: name(part.node),
        layers: (part.layers.start, part.layers.end),
        needs_bytes: scales.bytes(part.layers.clone()),
        memory_bytes: offers[part.node].memory_bytes,
        compute_us: us(hop.compute_ns),
        link_us: us(hop.link_ns),
    });
    let left = (0..offers.len()).filter(|node| parts.iter().all(|part| part.node != *node));
    Outline {
        model: model.into(),
        weights: demand.format.name().into(),
        needed_bytes: demand.bytes(),
        taken: taken.collect(),
        left_out: left
            .map(|node| LeftOut { name: name(node), why: why_not(policy, demand, offers, parts, node) })
            .collect(),
        reason,
        token_us: us(predicted.token_ns()),
        compute_us: us(predicted.compute_ns()),
        link_us: us(predicted.link_ns()),
        tokens_per_second: 1e9 / predicted.token_ns().max(1) as f64,
        most_tokens_per_second: 1e9 / predicted.busiest_ns().max(1) as f64,
    }
}

/// Why a node has no part.
pub(crate) fn why_not(policy: Policy, demand: &Demand<'_>, offers: &[Offer], parts: &[Part], node: usize) -> String {
    let scales = Scales::new(demand);
    if offers[node].memory_bytes < scales.block {
        let (has, needs) = (size(offers[node].memory_bytes), size(scales.block));
        return format!("it has no room for a single layer: it offers {has}, a layer and its KV caches need {needs}");
    }
    if let Policy::Exactly(wanted) = policy
        && wanted == parts.len()
    {
        return format!("{wanted} nodes were asked for, and others go before it");
    }
    let ms = |ns: u64| ns as f64 / 1e6;
    let without = predict(demand, offers, parts).token_ns();
    match with_node(demand, offers, parts, node) {
        Some((with, _)) if with >= without => {
            format!("with it a token would take {:.2} ms, without it {:.2} ms", ms(with), ms(without))
        }
        Some((with, _)) => {
            let (with, without) = (ms(with), ms(without));
            format!("a token would take {with:.2} ms in place of {without:.2} ms: not enough to move layers for")
        }
        None => "there is no placement with it and all the others".into(),
    }
}

#[cfg(test)]
mod tests {
    use syn1_core::{Codec, Form};
    use syn1_model::plan::WeightFormat;
    use syn1_model::spec::Spec;

    use super::*;
    use crate::wire::Wire;

    /// GPT-2 over devices of (megabytes, microseconds a layer, milliseconds a hop).
    fn planned(policy: Policy, devices: &[(u64, u64, u64)]) -> Result<Outline, Unplaced> {
        let (spec, wire) = (Spec::gpt2_124m(), Wire::everywhere(Form::plain(Codec::F16)));
        let demand = Demand { spec: &spec, format: WeightFormat::F16, max_positions: 1024, slots: 1, wire: &wire };
        let offer = |&(megabytes, us, hop_ms): &(u64, u64, u64)| Offer {
            memory_bytes: megabytes * 1_000_000,
            layer_ns: us * 1000,
            hop_ns: hop_ms * 1_000_000,
            bytes_per_s: None,
        };
        let offers: Vec<Offer> = devices.iter().map(offer).collect();
        let names: Vec<String> = (0..devices.len()).map(|node| format!("n{node}")).collect();
        outline("gpt2", policy, &demand, &names, &offers)
    }

    #[test]
    fn who_is_left_out_is_told_why_in_numbers() {
        let plan = planned(Policy::Auto, &[(8_000, 100, 1), (8_000, 90, 500), (3, 10, 0)]).unwrap();
        assert_eq!(plan.taken.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["n0"]);
        assert_eq!(plan.taken[0].layers, (0, 12));
        let why = |name: &str| &plan.left_out.iter().find(|left| left.name == name).unwrap().why;
        assert!(why("n1").starts_with("with it a token would take 50"), "{}", why("n1"));
        assert!(why("n2").starts_with("it has no room for a single layer: it offers 3.0 MB"), "{}", why("n2"));
        assert!((plan.token_us - plan.compute_us - plan.link_us).abs() < 1e-6);
        assert_eq!(plan.link_us, 1000.0);
        assert!((plan.tokens_per_second * plan.token_us - 1e6).abs() < 1e-3);
    }

    #[test]
    fn who_was_not_asked_for_is_told_so() {
        let plan = planned(Policy::Exactly(2), &[(8_000, 100, 1), (8_000, 300, 1), (8_000, 200, 1)]).unwrap();
        assert_eq!(plan.taken.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["n0", "n2"]);
        assert!(plan.left_out[0].why.contains("2 nodes were asked for"), "{:?}", plan.left_out);
        assert!(plan.most_tokens_per_second > plan.tokens_per_second);
    }

    #[test]
    fn too_little_memory_is_an_error_in_numbers() {
        let error = planned(Policy::Auto, &[(20, 100, 1), (30, 100, 1)]).unwrap_err().to_string();
        assert!(error.contains("the 2 nodes offer 50.0 MB"), "{error}");
    }

    #[test]
    fn a_plan_survives_its_json() {
        let plan = planned(Policy::Auto, &[(8_000, 100, 1), (8_000, 90, 500)]).unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Outline>(&text).unwrap(), plan);
    }
}
