//! The swarm as others see it.

use crate::core::{Core, Node, NodeId};
use crate::timing::Pass;
use crate::update::{NodeView, Topology};

impl Core {
    /// The swarm as others see it.
    pub fn topology(&self) -> Topology {
        let ready = self.chain.as_ref().is_some_and(|chain| chain.ready);
        Topology {
            model: self.config().name.clone(),
            layers: self.config().spec.layers,
            weights: self.config().format,
            ready,
            waiting_for: (!ready).then(|| self.waits_for()),
            needed_bytes: self.demand(self.config().format).bytes(),
            max_positions: self.config().max_positions,
            chat: self.config().tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.chat_template().is_some()),
            reason: self.chain.as_ref().map(|chain| chain.reason.clone()),
            predicted_us: self.predicted().map(|predicted| predicted.token_ns() as f64 / 1e3),
            running: self.requests.values().filter(|request| !request.is_proof).count(),
            queued: self.waiting.len(),
            nodes: self.nodes.iter().map(|(id, node)| self.view(*id, node)).collect(),
        }
    }

    /// The passes through the chain after the one with this number, as far as they are still known, oldest first.
    pub fn passes_after(&self, number: u64) -> Vec<Pass> {
        self.timings.passes_after(number, |node| self.name(node))
    }

    /// What stands between now and a ready model.
    pub(crate) fn waits_for(&self) -> String {
        let Some(chain) = self.chain.as_ref().filter(|chain| self.is_held(chain)) else { return self.unplaced.clone() };
        let missing = chain.parts.iter().filter(|part| !chain.loaded.contains(&part.0));
        let missing: Vec<String> = missing.map(|part| self.name(part.0)).collect();
        if missing.is_empty() {
            "the first token is on its way through the chain".into()
        } else {
            format!("{} load{} the weights", missing.join(", "), if missing.len() == 1 { "s" } else { "" })
        }
    }

    fn view(&self, id: NodeId, node: &Node) -> NodeView {
        let part = self.chain.as_ref().and_then(|chain| chain.parts.iter().find(|part| part.0 == id));
        let loaded = self.chain.as_ref().is_some_and(|chain| chain.loaded.contains(&id));
        let state = match (&node.unable, part) {
            _ if node.owes_profile => "joining",
            (Some(_), _) => "unable",
            (_, Some(_)) if loaded => "loaded",
            (_, Some(_)) => "loading",
            _ => "spare",
        };
        NodeView {
            name: node.name.clone(),
            device: node.device.clone(),
            memory_bytes: node.offer.map_or(0, |offer| offer.memory_bytes),
            read_bytes_per_s: node.read_bytes_per_s,
            layer_us: node.offer.map_or(0.0, |offer| offer.layer_ns as f64 / 1e3),
            hop_us: node.offer.map_or(0.0, |offer| offer.hop_ns as f64 / 1e3),
            link_bytes_per_s: node.offer.and_then(|offer| offer.bytes_per_s),
            layers: part.map(|part| (part.1.start, part.1.end)),
            state,
            unable: node.unable.clone(),
            done_bytes: node.done_bytes,
            traffic: self.timings.traffic(id),
        }
    }
}
