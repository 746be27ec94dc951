//! Every limit of the coordinator, with its reason.

use std::time::Duration;

/// Devices that join within this time are placed together.
pub(crate) const PLACE_SETTLE: Duration = Duration::from_millis(300);

/// From Hello to Profile: a node measures itself in about a second, a slow one with a cold GPU driver in ten.
pub(crate) const PROFILE_TIMEOUT: Duration = Duration::from_secs(60);

/// A shard that does not grow for so long does not come: a node retries a download by itself much sooner.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two reports of one node's download: people do not read faster.
pub(crate) const LOADING_EVERY: Duration = Duration::from_millis(250);

/// A frame unanswered for so long ends its node's link; steps are cut to [`STEP_BUDGET_NS`].
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// What a prefill chunk may take on the slowest node, by its own measurement: well under the session's limit for
/// silence, since a node that computes answers no ping.
pub(crate) const STEP_BUDGET_NS: u64 = 2_000_000_000;

/// A finished request's last figures: a round trip, and whatever steps of others are in front of it.
pub(crate) const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that finds no ready model for so long is told why.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests in the queue: behind so many nobody waits with patience.
pub(crate) const MAX_WAITING: usize = 256;

/// Stop strings of a request: each is searched for at every token.
pub(crate) const MAX_STOPS: usize = 16;

/// Bytes of a stop string: so much text may be held back.
pub(crate) const MAX_STOP_BYTES: usize = 256;

/// Tokens that may be guessed ahead: beyond this every further guess is hardly ever reached.
pub(crate) const MAX_SPECULATE: usize = 64;

/// Links at a time: more than any swarm that one relay can feed.
pub(crate) const MAX_LINKS: usize = 1024;

/// Links that have not said Hello: enough for a room of laptops, too few to exhaust anything.
pub(crate) const MAX_STRANGERS: usize = 64;

/// Frames that wait for one node's socket or credit. A request has at most one more frame in flight than the chain has
/// nodes, so in any swarm of a usual size only a peer that does not read fills it.
pub(crate) const OUTBOX: usize = 4096;

/// Frames of the session itself that wait: what it says once, pings, and the answers to a few.
pub(crate) const OWN: usize = 16;

/// A goodbye that takes longer than this is not waited for.
pub(crate) const GOODBYE: Duration = Duration::from_millis(500);

/// Bytes of an HTTP body for each position of the context: no token is longer in any common tokenizer.
pub(crate) const BODY_BYTES_PER_POSITION: usize = 128;

/// Bytes of an HTTP body beside the prompt.
pub(crate) const BODY_BYTES: usize = 64 << 10;

/// Choices of one HTTP request, over all its prompts: each is a request of its own, and a quarter of the queue is enough
/// for one client.
pub(crate) const MAX_CHOICES: usize = 64;

/// Tokens whose log-probabilities are told at each place: what OpenAI's API gives.
pub(crate) const MAX_LOGPROBS: u8 = 20;

/// Tokens that a request may favour or ban: OpenAI's API takes 300, and a few more cost little.
pub(crate) const MAX_BIASES: usize = 1024;

/// Bytes of an API key at least: shorter ones are guessed.
pub(crate) const MIN_API_KEY_BYTES: usize = 16;

/// Bytes of an API key at most: longer ones are files given by mistake.
pub(crate) const MAX_API_KEY_BYTES: usize = 256;

/// Clients whose rates are kept apart: 64 bytes for each.
pub(crate) const MAX_CLIENTS: usize = 16_384;

/// What a client may ask at once, in the time that it would be allowed for evenly: programs ask in bursts.
pub(crate) const RATE_BURST: Duration = Duration::from_secs(10);

/// Whoever finds no ready model, or a full queue, asks again after so long: a re-placed model is ready in seconds.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Silence on a stream of events that is broken with a comment: proxies cut silent connections after 30 s or more.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
