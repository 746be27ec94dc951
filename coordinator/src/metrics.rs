//! What monitoring asks for, as OpenMetrics text. Labels are names of nodes, of which there are few at a time, and words of
//! ours; nothing that a client sends becomes a label.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::core::Core;
use crate::prefix::Prefixes;
use crate::recovery::Recovery;
use crate::update::Topology;

/// Counters that are counted as things happen, and gauges that are read off when somebody looks. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub(crate) tokens: Counter,
    pub(crate) prompt_tokens: Counter,
    pub(crate) guessed: Counter,
    pub(crate) accepted: Counter,
    /// By how they ended.
    pub(crate) requests: Family<Labels<1>, Counter>,
    /// By HTTP status.
    pub(crate) refused: Family<Labels<1>, Counter>,
    /// From arrival to start.
    pub(crate) waited: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) next_token: Histogram,
    /// By node.
    pub(crate) hop: Family<Labels<1>, Histogram, Seconds>,
    /// By node and direction.
    pub(crate) bytes: Family<Labels<2>, Counter>,
    pub(crate) left: Counter,
    pub(crate) nodes_refused: Counter,
    pub(crate) placed: Counter,
    state: Gauges,
}

/// Names and values.
pub(crate) type Labels<const N: usize> = [(&'static str, String); N];

/// Makes histograms of seconds.
#[derive(Clone)]
pub(crate) struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    /// From 0.1 ms, below which no hop is, to 200 s, by which every deadline has passed.
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(1e-4, 2.0, 22))
    }
}

type Float = Gauge<f64, AtomicU64>;

/// What is read off the state.
#[derive(Clone, Default)]
struct Gauges {
    ready: Gauge,
    running: Gauge,
    waiting: Gauge,
    clients: Gauge,
    slots: Gauge,
    predicted: Float,
    model: Family<Labels<2>, Gauge>,
    nodes: Family<Labels<1>, Gauge>,
    layers: Family<Labels<1>, Gauge>,
    layer_time: Family<Labels<1>, Float>,
    memory: Family<Labels<1>, Gauge>,
    read: Family<Labels<1>, Gauge>,
    parked: Gauge,
    hits: Counter,
    cached: Counter,
    evicted: Counter,
    dropped: Counter,
    losses: Counter,
    rerouted: Counter,
    restarted: Counter,
    replayed_rows: Counter,
    replays_dropped: Counter,
    rebalanced: Counter,
    lost: Counter,
    checked_rows: Counter,
    disputes: Counter,
    quarantined: Counter,
    kept: Gauge,
    longest_pause: Float,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("syn1");
        let version = env!("CARGO_PKG_VERSION");
        registry.register("build", "The program", Info::new([("version", version)]));
        let state = Gauges::default();
        let gauges = [
            ("ready", "Whether a real token has passed through every layer", &state.ready),
            ("requests_running", "Requests that have a KV cache", &state.running),
            ("requests_waiting", "Requests that wait for the model or for a KV cache", &state.waiting),
            ("clients_waiting", "Clients, by key or address, whose requests wait", &state.clients),
            ("kv_slots_kept", "KV caches that are kept for prompts with the same beginning", &state.parked),
            ("kv_slots", "KV caches that every node of the chain has", &state.slots),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let predicted = "A token of one text, computing and links, as predicted from what the nodes measured";
        registry.register_with_unit("token_predicted", predicted, Unit::Seconds, state.predicted.clone());
        registry.register("model", "What is served, and how its weights are stored", state.model.clone());
        registry.register("nodes", "Nodes by their state", state.nodes.clone());
        registry.register("node_layers", "Layers that a node computes", state.layers.clone());
        let layer = "What a node takes for a layer, by its own measurement";
        registry.register_with_unit("node_layer", layer, Unit::Seconds, state.layer_time.clone());
        let memory = "Memory that a node offers";
        registry.register_with_unit("node_memory", memory, Unit::Bytes, state.memory.clone());
        let read = "Bytes that a node reads in a second, by its own measurement";
        registry.register("node_read_bytes_per_second", read, state.read.clone());

        let recovery = [
            ("losses", "Nodes that were lost while they held layers", &state.losses),
            ("requests_rerouted", "Requests that went on through other nodes", &state.rerouted),
            ("requests_restarted", "Requests that were computed once more from their tokens", &state.restarted),
            ("rows_replayed", "Rows that a node was fed to hold what another one held", &state.replayed_rows),
            (
                "replays_dropped",
                "Requests whose activations are kept no more, so that what is kept stays within its budget",
                &state.replays_dropped,
            ),
            ("rebalanced", "Times that layers moved while the model was served", &state.rebalanced),
            ("prefix_hits", "Requests that took over the KV cache of an earlier one", &state.hits),
            ("tokens_cached", "Tokens of prompts that an earlier request had computed", &state.cached),
            ("prefix_evicted", "Kept KV caches that gave way to another request", &state.evicted),
            ("prefix_dropped", "Kept KV caches that a change of the chain made useless", &state.dropped),
            ("requests_lost", "Requests that ended because no node could be had", &state.lost),
            ("rows_checked", "Rows that two nodes computed and that were compared", &state.checked_rows),
            ("disputes", "Times that two nodes did not agree about a row", &state.disputes),
            ("nodes_quarantined", "Nodes that were sent away for what they computed", &state.quarantined),
        ];
        for (name, help, counter) in recovery {
            registry.register(name, help, counter.clone());
        }
        let kept = "Activations that are kept for replays";
        registry.register_with_unit("replay", kept, Unit::Bytes, state.kept.clone());
        let pause = "The longest time from a loss to the first token behind it";
        registry.register_with_unit("longest_pause", pause, Unit::Seconds, state.longest_pause.clone());

        let metrics = Self {
            registry: Arc::default(),
            tokens: Counter::default(),
            prompt_tokens: Counter::default(),
            guessed: Counter::default(),
            accepted: Counter::default(),
            requests: Family::default(),
            refused: Family::default(),
            waited: Seconds.new_metric(),
            first_token: Seconds.new_metric(),
            next_token: Seconds.new_metric(),
            hop: Family::new_with_constructor(Seconds),
            bytes: Family::default(),
            left: Counter::default(),
            nodes_refused: Counter::default(),
            placed: Counter::default(),
            state,
        };
        let counters = [
            ("tokens_generated", "Tokens that were generated", &metrics.tokens),
            ("tokens_prompt", "Tokens of prompts, those in kept KV caches included", &metrics.prompt_tokens),
            ("tokens_guessed", "Tokens that were guessed ahead", &metrics.guessed),
            ("tokens_accepted", "Guesses that were right", &metrics.accepted),
            ("nodes_left", "Nodes that left or were lost", &metrics.left),
            ("nodes_refused", "Nodes and links that were turned away", &metrics.nodes_refused),
            ("placements", "Times that the model was cut over nodes", &metrics.placed),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("requests", "Requests by how they ended", metrics.requests.clone());
        registry.register(
            "http_refused",
            "HTTP requests for text that were refused, by status",
            metrics.refused.clone(),
        );
        let waited = "From a request's arrival to its start, of those that finished";
        registry.register_with_unit("queue", waited, Unit::Seconds, metrics.waited.clone());
        let first = "From a request's arrival to its first token, waiting included";
        registry.register_with_unit("time_to_first_token", first, Unit::Seconds, metrics.first_token.clone());
        let next = "From a token to the next one of the same request";
        registry.register_with_unit("time_per_token", next, Unit::Seconds, metrics.next_token.clone());
        let hop = "From a frame to a node until its answer: link and computing";
        registry.register_with_unit("hop", hop, Unit::Seconds, metrics.hop.clone());
        let bytes = "Data frames over a node's link, headers included";
        registry.register_with_unit("link", bytes, Unit::Bytes, metrics.bytes.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    /// Reads off the state: what the topology shows, KV caches, who waits, what was lost and regained, and what
    /// spot checks found.
    pub(crate) fn read(&self, core: &Core) {
        let slots = core.chain.as_ref().map_or(0, |chain| chain.slots);
        self.state.read(&core.topology(), slots);
        self.state.clients.set(core.waiting.clients() as i64);
        self.state.prefixes(&core.prefixes());
        self.state.recovery(&core.recovery());
        let checks = core.checks();
        for (counter, count) in [
            (&self.state.checked_rows, checks.rows),
            (&self.state.disputes, checks.disputes),
            (&self.state.quarantined, checks.quarantined),
        ] {
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    /// Everything as text, with the state that was read last.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!("the metrics cannot be written: {error}");
                String::from("# EOF\n")
            }
        }
    }
}

impl Gauges {
    fn prefixes(&self, prefixes: &Prefixes) {
        self.parked.set(prefixes.kept as i64);
        for (counter, count) in [
            (&self.hits, prefixes.hits),
            (&self.cached, prefixes.tokens),
            (&self.evicted, prefixes.evicted),
            (&self.dropped, prefixes.dropped),
        ] {
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    fn recovery(&self, recovery: &Recovery) {
        for (counter, count) in [
            (&self.losses, recovery.losses),
            (&self.rerouted, recovery.rerouted),
            (&self.restarted, recovery.restarted),
            (&self.replayed_rows, recovery.replayed_rows),
            (&self.replays_dropped, recovery.dropped),
            (&self.rebalanced, recovery.rebalanced),
            (&self.lost, recovery.failed),
        ] {
            counter.inner().store(count, Ordering::Relaxed);
        }
        self.kept.set(recovery.kept_bytes as i64);
        self.longest_pause.set(recovery.longest_pause.as_secs_f64());
    }

    fn read(&self, topology: &Topology, slots: usize) {
        self.ready.set(topology.ready.into());
        self.running.set(topology.running as i64);
        self.waiting.set(topology.queued as i64);
        self.slots.set(slots as i64);
        self.predicted.set(topology.predicted_us.map_or(f64::NAN, |us| us / 1e6));
        self.model.clear();
        let labels = [("model", topology.model.clone()), ("weights", topology.weights.to_string())];
        self.model.get_or_create(&labels).set(1);
        for family in [&self.nodes, &self.layers, &self.memory, &self.read] {
            family.clear();
        }
        self.layer_time.clear();
        for node in &topology.nodes {
            self.nodes.get_or_create(&[("state", node.state.to_owned())]).inc();
            let name = [("node", node.name.clone())];
            self.layers.get_or_create(&name).set(node.layers.map_or(0, |(first, end)| end - first) as i64);
            self.layer_time.get_or_create(&name).set(node.layer_us / 1e6);
            self.memory.get_or_create(&name).set(node.memory_bytes as i64);
            self.read.get_or_create(&name).set(node.read_bytes_per_s as i64);
        }
    }
}
