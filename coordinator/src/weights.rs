//! Which format the weights have: the best one that the nodes' memory holds.
//!
//! The coordinator begins with its best format. Where the model cannot be placed for want of memory, and a smaller format
//! would fit what is offered, it has that one packed, announces it to every node, and places it when they have measured
//! themselves anew. Devices that join later do not bring a better format back: who wants to wait for them says how many
//! are to come ([`Policy::Exactly`](crate::placement::Policy)).

use std::time::Duration;

use syn1_core::control::{Control, Model};
use syn1_model::plan::WeightFormat;

use crate::core::{Action, Core, NodeId};
use crate::limits::PLACE_SETTLE;
use crate::placement::{Demand, Offer, Unplaced, memory, place, size};
use crate::update::Event;

impl Core {
    /// What the model needs besides layers, with weights of this format.
    pub(crate) fn demand(&self, format: WeightFormat) -> Demand<'_> {
        let config = &self.config;
        Demand {
            spec: &config.spec,
            format,
            max_positions: config.max_positions,
            slots: config.slots,
            wire: &config.wire,
        }
    }

    /// Whether the model may be placed: not while another format is being packed, nor while nodes measure themselves anew
    /// that have told before what they offer.
    pub(crate) fn may_place(&self) -> bool {
        self.packing.is_none() && !self.nodes.values().any(|node| node.owes_profile && node.offer.is_some())
    }

    /// Has the best smaller format packed that the `offers` hold, where memory is what is missing. If there is none, `why`
    /// comes back, with what each smaller format would need.
    pub(crate) fn fall_back(&mut self, why: Unplaced, offers: &[Offer]) -> Result<(), Unplaced> {
        let Unplaced::Memory { mut needs, offered, nodes } = why else { return Err(why) };
        for format in self.config.smaller.clone() {
            match place(&self.demand(format), offers, self.config.policy) {
                Err(Unplaced::Memory { needs: its, .. }) => needs.extend(its),
                Err(other) => return Err(other),
                Ok(_) => {
                    let needed_bytes = self.demand(format).bytes();
                    let why = memory(&needs, offered, nodes);
                    self.unplaced = format!("{why}: packing {format} ({})", size(needed_bytes));
                    self.packing = Some(format);
                    self.event(Event::Packing { format, needed_bytes, why });
                    self.actions.push_back(Action::Pack(format));
                    return Ok(());
                }
            }
        }
        Err(Unplaced::Memory { needs, offered, nodes })
    }

    /// The format that [`Action::Pack`] asked for is there: its manifest has this SHA-256 and is served from now on.
    pub fn packed(&mut self, now: Duration, format: WeightFormat, manifest_sha256: [u8; 32]) {
        if self.packing != Some(format) {
            return;
        }
        self.packing = None;
        // Those that were skipped did not fit, and do not come back.
        let passed = self.config.smaller.iter().take_while(|smaller| **smaller != format).count() + 1;
        self.config.smaller = self.config.smaller.split_off(passed.min(self.config.smaller.len()));
        (self.config.format, self.config.manifest_sha256) = (format, manifest_sha256);
        self.unplaced = format!("the nodes measure themselves with {format} weights");
        self.place_at = Some(now + PLACE_SETTLE);
        // One that still owes the Profile for the model before is told when that has come: so every Profile is known to
        // answer the last Model.
        let free: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| !node.owes_profile).map(|(id, _)| *id).collect();
        for id in free {
            self.announce(now, id);
        }
    }

    /// The format that [`Action::Pack`] asked for cannot be had. It is tried again when a node joins or leaves.
    pub fn not_packed(&mut self, format: WeightFormat, why: &str) {
        if self.packing == Some(format) {
            self.packing = None;
            self.cannot_place(format!("{}, which failed: {why}", self.unplaced), false);
        }
    }

    /// Tells a node what is served, which it answers with a Profile.
    pub(crate) fn announce(&mut self, now: Duration, id: NodeId) {
        let (name, spec) = (self.config.name.clone(), &self.config.spec);
        let model = Model {
            name: &name,
            manifest_sha256: self.config.manifest_sha256,
            http_port: self.config.http_port,
            width: spec.width as u16,
            vocab: spec.vocab as u32,
            layers: spec.layers as u16,
        };
        let announced = self.config.format;
        if let Some(node) = self.nodes.get_mut(&id) {
            // What it could not take was of another format.
            (node.announced, node.owes_profile, node.unable, node.progressed) = (announced, true, None, now);
            node.shard = None;
        }
        self.send(id, &Control::Model(model));
    }
}
