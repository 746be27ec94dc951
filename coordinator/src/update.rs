//! What the coordinator tells people: a request's tokens and figures, and the swarm's comings and goings.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syn1_model::plan::WeightFormat;

use crate::timing::Traffic;

/// One step in the life of a request. The last one is `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A token, and the text that it finished. The text may be empty: half a character, or the beginning of a stop string.
    Token {
        /// The token.
        id: u32,
        /// Text that is now certain.
        text: String,
        /// Where they were asked for.
        logprobs: Option<Logprobs>,
    },
    /// All that was told of the request so far is void: a node computed garbage, and another token than one of these is the
    /// right one. They follow from the first on.
    Again,
    /// The request is complete.
    Finished(Finished),
    /// The request failed; names the node or the rule.
    Failed(String),
}

/// The log-probability of a token by the model alone, and of the likeliest ones at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The token's.
    pub chosen: f32,
    /// As many as were asked for, the likeliest first: ids and their log-probabilities.
    pub likeliest: Vec<(u32, f32)>,
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Text that was held back.
    pub text: String,
    /// Why it ended.
    pub reason: Finish,
    /// What it took.
    pub figures: Figures,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended the text, or a stop string did.
    Stop,
    /// The asked-for number of tokens is reached.
    Length,
    /// The context is full.
    Context,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them an earlier request had left in the KV caches.
    pub cached: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// Tokens that were guessed ahead.
    pub guessed: usize,
    /// How many of the guesses were right.
    pub accepted: usize,
    /// From its arrival to its start: behind others, or until the model was ready.
    pub waited: Duration,
    /// From the request's start to its first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// From the request's start to its last token.
    pub total: Duration,
    /// Spent in the nodes' engines, as they report it when they give the KV caches back; `None` where these are kept for
    /// another request.
    pub compute: Option<Duration>,
    /// Spent in the coordinator: relaying, sampling, detokenizing.
    pub coordinator: Duration,
    /// SYN1 data frames sent and received by the coordinator.
    pub frames: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

impl Figures {
    /// Tokens per second after the first token; `None` with fewer than two tokens.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.decode.as_secs_f64();
        (self.tokens > 1 && seconds > 0.0).then(|| (self.tokens - 1) as f64 / seconds)
    }

    /// Time that was neither computing nor the coordinator's: sockets, schedulers and the wire.
    pub fn wire(&self) -> Option<Duration> {
        Some(self.total.saturating_sub(self.compute?).saturating_sub(self.coordinator))
    }
}

/// What happens in the swarm.
///
/// Serialised it is `{"event": .., "data": {..}}`: the variant's and the fields' names in snake case, which stay.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event {
    /// A node told what it is.
    Joined {
        /// Its name, unique among the nodes.
        node: String,
        /// What it computes with.
        device: String,
        /// Bytes it offers.
        memory_bytes: u64,
        /// Bytes per second it reads.
        read_bytes_per_s: u64,
        /// Nanoseconds a layer takes.
        layer_ns: u64,
    },
    /// A node was sent away, or its link was.
    Refused {
        /// Its name or address.
        node: String,
        /// Why.
        why: String,
    },
    /// A node is gone.
    Left {
        /// Its name.
        node: String,
        /// Why.
        why: String,
    },
    /// The model is cut: every node's layers, in chain order.
    Placed(#[serde(serialize_with = "parts")] Vec<(String, Range<usize>)>),
    /// Layers move while the model is served.
    Rebalanced {
        /// Who takes which, and what a token gains.
        why: String,
    },
    /// There is no chain.
    Unplaced {
        /// Why, and what would help.
        why: String,
        /// Whether it may come by itself: a node is to join, or the model is being placed anew.
        waiting: bool,
    },
    /// The nodes' memory does not hold the model as it is: it is packed in a smaller format.
    Packing {
        /// The smaller format.
        format: WeightFormat,
        /// Bytes of weights and KV caches in it.
        needed_bytes: u64,
        /// What was needed before, and what the nodes offer.
        why: String,
    },
    /// A node is getting its shard.
    Loading {
        /// Its name.
        node: String,
        /// Bytes it has.
        done_bytes: u64,
        /// Bytes it needs.
        total_bytes: u64,
    },
    /// A node has its shard.
    Loaded {
        /// Its name.
        node: String,
        /// Bytes that had to be fetched for it; 0 when all were cached or local.
        fetched_bytes: u64,
    },
    /// A node cannot take the layers it was given, and takes no further part.
    Unable {
        /// Its name.
        node: String,
        /// Why.
        why: String,
    },
    /// Two nodes computed the same rows and do not agree; a third one is asked as soon as there is one.
    Disputed {
        /// The node of the chain.
        node: String,
        /// The node that checked it.
        checker: String,
        /// What came of it, as these two see it.
        evidence: Evidence,
    },
    /// A node computed garbage, as two others found: it is sent away, and its key is not let in again.
    Quarantined {
        /// Its name.
        node: String,
        /// The two that agree.
        against: [String; 2],
        /// What shows it.
        evidence: Evidence,
    },
    /// A real token has passed through every layer.
    Ready {
        /// Milliseconds that token took.
        token_ms: f64,
    },
}

/// What shows that a node computed something else than another one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// First layer and one behind the last.
    pub layers: (usize, usize),
    /// The request that was checked.
    pub request: u32,
    /// The first position at which they do not agree.
    pub position: u32,
    /// How far they lie apart there: a share of the values' usual size, or a difference of logits behind the last layer.
    pub error: f32,
    /// How far two nodes that compute the same may.
    pub allowed: f32,
}

/// A node as others see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// What it computes with.
    pub device: String,
    /// Bytes it offers.
    pub memory_bytes: u64,
    /// Bytes per second it reads.
    pub read_bytes_per_s: u64,
    /// Microseconds a layer takes.
    pub layer_us: f64,
    /// Microseconds that a frame to it and its answer take besides computing: its link's round trip, and what SYN1 takes.
    pub hop_us: f64,
    /// Bytes per second that enter its link, where prompts have shown that they take their time.
    pub link_bytes_per_s: Option<u64>,
    /// First layer and one behind the last, where it has any.
    pub layers: Option<(usize, usize)>,
    /// `joining`, `spare`, `loading`, `loaded` or `unable`.
    pub state: &'static str,
    /// Why it takes no part, where it said so.
    pub unable: Option<String>,
    /// Bytes of its shard that it has, while it is loading.
    pub done_bytes: u64,
    /// What passes over its link; `None` before the first data frame.
    pub traffic: Option<Traffic>,
}

/// The swarm as others see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Topology {
    /// The model's name.
    pub model: String,
    /// Its layers.
    pub layers: usize,
    /// How its weights are stored.
    pub weights: WeightFormat,
    /// Whether a real token has passed through every layer.
    pub ready: bool,
    /// What it waits for, while it is not ready.
    pub waiting_for: Option<String>,
    /// Bytes of all its weights and KV caches.
    pub needed_bytes: u64,
    /// Positions of a request: its prompt and what follows.
    pub max_positions: usize,
    /// Whether it can answer messages: its model has a chat template.
    pub chat: bool,
    /// Why the layers lie where they lie, while they lie anywhere.
    pub reason: Option<String>,
    /// Predicted microseconds of a token of one text, computing and links.
    pub predicted_us: Option<f64>,
    /// Running requests.
    pub running: usize,
    /// Requests that wait for the model or for room.
    pub queued: usize,
    /// Every node.
    pub nodes: Vec<NodeView>,
}

/// The nodes' layers as objects.
fn parts<S: serde::Serializer>(parts: &[(String, Range<usize>)], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Part<'a> {
        node: &'a str,
        layers: (usize, usize),
    }
    to.collect_seq(parts.iter().map(|(node, layers)| Part { node, layers: (layers.start, layers.end) }))
}
