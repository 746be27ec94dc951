//! The model on this machine: alone on a device, or a coordinator and nodes.

use std::sync::Arc;

use anyhow::Result;
use syn1_coordinator::request::Generate;
use syn1_coordinator::wire::Wire;
use syn1_kernels::sampling::Sampler;

use crate::alone::{self, Alone};
use crate::answer::{By, Updates};
use crate::context;
use crate::model::Prepared;
use crate::options::TextOptions;
use crate::show;
use crate::swarm::{self, Swarm};

/// What answers.
pub(crate) enum Local {
    /// The engine's own token loop.
    Alone(Alone),
    /// A coordinator, and how activations travel between its nodes.
    Swarm(Box<Swarm>, Wire),
}

impl Local {
    /// Starts what answers best and waits until it is ready: the device's own token loop for one node, whose sampler can do
    /// what is asked and which has room for the model; else a swarm of `nodes`. What is to run `for_long` may measure first.
    pub(crate) async fn ready(prepared: &Arc<Prepared>, nodes: u16, how: &TextOptions, for_long: bool) -> Result<Self> {
        let swarm = async || {
            let (swarm, wire) = swarm::ready_for(prepared, nodes, how).await?;
            Ok(Self::Swarm(Box::new(swarm), wire))
        };
        if nodes > 1 {
            return swarm().await;
        }
        let Some(sampler) = alone::sampler(&how.sampling.sampling()) else {
            show::say("one node behind a coordinator: the device's own sampler cannot do what is asked");
            return swarm().await;
        };
        // What measuring finds is for the likeliest tokens only.
        let for_long = for_long && sampler == Sampler::Greedy;
        let Some(alone) = Alone::start(prepared, &how.device, for_long).await? else {
            show::say("one node behind a coordinator: the device has no room for the weights as they are");
            return swarm().await;
        };
        show::say("one device for the whole model: it runs the token loop itself, without coordinator and wire");
        show::say(&context::cost(prepared, 1, None));
        show::say(alone.device().describe());
        if how.speculate > 0 {
            show::say("nothing is guessed ahead: --speculate is for tokens that pass through a coordinator");
        }
        Ok(Self::Alone(alone))
    }

    /// Takes a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn generate(&self, ask: Generate) -> Result<Updates> {
        match self {
            Self::Alone(alone) => Ok(alone.generate(ask).into()),
            Self::Swarm(swarm, _) => Ok(swarm.server().generate(ask).map_err(anyhow::Error::msg)?.into()),
        }
    }

    /// Who answers, for a report.
    pub(crate) fn by(&self) -> By<'_> {
        match self {
            Self::Alone(alone) => By::Device(alone.device().name()),
            Self::Swarm(swarm, wire) => By::Coordinator(swarm.server(), wire),
        }
    }
}
