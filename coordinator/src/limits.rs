//! Every limit of the coordinator, with its reason.

use std::time::Duration;

/// A coordinator that was started again waits so long for the nodes that its layers lay on: one that was cut off tries again
/// every 30 s at the latest.
pub(crate) const RETURN_GRACE: Duration = Duration::from_secs(35);

/// Devices that join within this time are placed together.
pub(crate) const PLACE_SETTLE: Duration = Duration::from_millis(300);

/// Tokens of the coordinator's own that pass a chain nobody asks anything of: the first proves it, and by the time of the last
/// those that were slow because everything was cold no longer count.
pub(crate) const PROOF_TOKENS: usize = 40;

/// They end behind this time: on a slow chain a few tell enough, and nobody is to be kept at work for figures.
pub(crate) const PROOF_TIME: Duration = Duration::from_secs(1);

/// From Hello to Profile: a node measures itself in about a second, a slow one with a cold GPU driver in ten.
pub(crate) const PROFILE_TIMEOUT: Duration = Duration::from_secs(60);

/// A shard that does not grow for so long does not come: a node retries a download by itself much sooner.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two reports of one node's download: people do not read faster.
pub(crate) const LOADING_EVERY: Duration = Duration::from_millis(250);

/// A node that answers no frame for so long is sent away, however slow it was before; steps are cut to [`STEP_BUDGET_NS`].
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// A node is given so many times the longest that it took for a frame lately, a slow machine's bad moment.
pub(crate) const PATIENCE: u32 = 8;

/// And at least so long: a few of the largest steps that a frame is cut to, while a link that is dead is noticed by its
/// session in the same time.
pub(crate) const LEAST_PATIENCE: Duration = Duration::from_secs(12);

/// A running request whose chain has lost a node waits so long for another one that can take the layers: a node that comes
/// back by itself tries every 30 s.
pub(crate) const HEAL_GRACE: Duration = Duration::from_secs(60);

/// Behind a node that joins, whether layers should move is looked at: those that come together are looked at together.
pub(crate) const REBALANCE_SETTLE: Duration = Duration::from_secs(2);

/// And then again and again, since links change and nodes measure themselves anew.
pub(crate) const REBALANCE_EVERY: Duration = Duration::from_secs(30);

/// A token must become so many times as fast that layers move: what is predicted is off by some percent, and chains that
/// change for those would change all the time.
pub(crate) const REBALANCE_GAIN: f64 = 1.1;

/// And so many times behind a move, for [`REBALANCE_REST`]: what was predicted of a node is seen only when it serves, and
/// layers are not to go back and forth between two that take turns in being a little faster.
pub(crate) const REBALANCE_GAIN_AGAIN: f64 = 1.3;

/// Long enough to have seen figures change with the hour, and not with the minute.
pub(crate) const REBALANCE_REST: Duration = Duration::from_secs(600);

/// Layers that can move only while nothing runs wait so long for that before requests wait for them.
pub(crate) const REBALANCE_PATIENCE: Duration = Duration::from_secs(20);

/// And requests wait so long for them at most: whoever asks is not to wait for the end of somebody's long text.
pub(crate) const REBALANCE_HOLD: Duration = Duration::from_secs(10);

/// Layers that could not move then wait so many times as long before requests wait for them again.
pub(crate) const REBALANCE_WEARIER: u32 = 4;

/// Nodes that may be lost one after the other without a token between them: a request that brings down whoever takes it is not
/// to bring down everybody.
pub(crate) const MAX_LOSSES: u32 = 8;

/// Nodes that load the same layers: the one that computes them, and two that could at once. More would only cost them memory.
pub(crate) const MAX_COPIES: usize = 3;

/// Frames of a request's replay that a node has at a time: one at work, one that waits, and frames of others between them.
pub(crate) const REPLAYS_AHEAD: usize = 2;

/// Rows that are checked in one frame: a node computes 32 for the price of a few single ones, and up to 32 GPUs use the kernels
/// that they use for one.
pub(crate) const CHECK_ROWS: u16 = 32;

/// Of the likeliest tokens, so many are compared: those that a sampler takes.
pub(crate) const CHECK_TOP: u16 = 32;

/// What is kept of one request that is checked, for a third node to judge by: 4,096 rows of 4,096 values in f16.
pub(crate) const CHECK_BYTES: usize = 32 << 20;

/// Where a part of the chain has no node that can check it, one is looked for so often: there may be thousands to look at.
pub(crate) const CHECK_LOOK: Duration = Duration::from_millis(50);

/// A check that gets no answer for so long is given up: the node may have other work, and none that anybody waits for.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that passes between two ticks at most; when it was more, the coordinator's machine itself stood still, and nobody
/// else is to blame for what did not come.
pub(crate) const TICK_GAP: Duration = Duration::from_secs(5);

/// What a prefill chunk may take on the slowest node, by its own measurement: well under the session's limit for
/// silence, since a node that computes answers no ping.
pub(crate) const STEP_BUDGET_NS: u64 = 2_000_000_000;

/// What a prompt's chunk may take at a node while others get tokens, in tokens of that node. A token waits for one chunk at
/// most, so the time per token grows to 2.5 of what it is without; less would make prompts slow that need not be.
pub(crate) const CHUNK_TOKENS: f64 = 1.5;

/// Tokens that a KV cache must share with a prompt to be kept for it: fewer are computed in no time.
pub(crate) const MIN_PREFIX: usize = 8;

/// A finished request's last figures: a round trip, and whatever steps of others are in front of it.
pub(crate) const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that finds no ready model for so long is told why.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests in the queue: behind so many nobody waits with patience.
pub(crate) const MAX_WAITING: usize = 256;

/// Requests of one client in the queue: a quarter of it, and as many as one question may have choices.
pub(crate) const MAX_WAITING_EACH: usize = MAX_CHOICES;

/// Whoever is turned away is told to come again within this time, however slow things are: they may be faster by then.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Stop strings of a request: each is searched for at every token.
pub(crate) const MAX_STOPS: usize = 16;

/// Bytes of a stop string: so much text may be held back.
pub(crate) const MAX_STOP_BYTES: usize = 256;

/// Tokens that may be guessed ahead: beyond this every further guess is hardly ever reached.
pub(crate) const MAX_SPECULATE: usize = 64;

/// Links at a time: more than any swarm that one relay can feed. An idle one costs some 20 KiB (`syn1 bench idle`).
pub(crate) const MAX_LINKS: usize = 16_384;

/// Links that have not said Hello: enough for a room of laptops, too few to exhaust anything.
pub(crate) const MAX_STRANGERS: usize = 64;

/// From a node's connection to its first byte, where that may begin TLS, and from there to TLS: as long as a Hello may take.
pub(crate) const TLS_TIMEOUT: Duration = Duration::from_millis(syn1_core::limits::HELLO_TIMEOUT_MS);

/// Frames that wait for one node's socket or credit. A request has at most one more frame in flight than the chain has
/// nodes, so in any swarm of a usual size only a peer that does not read fills it.
pub(crate) const OUTBOX: usize = 4096;

/// Frames that go to a node's socket together: under load that saves most of the system calls, and who has little to say is not
/// held up for long.
pub(crate) const BATCH: usize = 64;

/// Frames of the session itself that wait: what it says once, pings, and the answers to a few.
pub(crate) const OWN: usize = 16;

/// A goodbye that takes longer than this is not waited for.
pub(crate) const GOODBYE: Duration = Duration::from_millis(500);

/// Keys of nodes that left and had computed for texts that still run: more than a chain loses while one text runs.
pub(crate) const MAX_SERVED: usize = 4096;

/// Passes through the chain whose hops' times are kept: a picture of the latest tokens, and medians that a single slow one
/// does not move.
pub(crate) const MAX_PASSES: usize = 48;

/// Frames, and requests, of one node that are timed at once: a node that never answers is not to fill the memory.
pub(crate) const MAX_TIMED: usize = 1024;

/// Events that who comes later still sees.
pub(crate) const MAX_PAST_EVENTS: usize = 100;

/// Events that may wait for one watcher; who is behind by more is told the present state instead.
pub(crate) const WATCHER_BACKLOG: usize = 256;

/// Watchers of the events over HTTP: each costs a state and figures twice a second.
pub(crate) const MAX_WATCHERS: usize = 128;

/// Between two reports of figures: often enough for eyes, seldom enough to cost no token anything.
pub(crate) const FIGURES_EVERY: Duration = Duration::from_millis(500);

/// A watcher hears something at least so often: proxies cut connections that are silent for a minute.
pub(crate) const WATCHER_SILENCE: Duration = Duration::from_secs(15);

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

/// HTTP connections at a time: a browser opens six, so this is a room full of people; each holds some 20 KiB.
pub(crate) const MAX_HTTP: usize = 512;

/// From an HTTP connection's opening, or its last answer, to the next whole request head, TLS included, and between two parts
/// of a body: a connection that says nothing must not hold a place.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// An HTTP client that takes nothing of its answer for so long gives its place back: a phone that was put away comes again.
pub(crate) const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at this machine's addresses and at the certificate's files.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(60);

/// Wrong join codes that an address may send in a [`GUESS_WINDOW`]: more than a person mistypes. Of 31^8 codes a guesser
/// tries so 7,200 in a day, one in 10^8.
pub(crate) const GUESSES: u32 = 5;

/// See [`GUESSES`].
pub(crate) const GUESS_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose wrong codes are counted: when there are more, nobody new is listened to until the window ends.
pub(crate) const MAX_GUESSERS: usize = 1024;

/// Join codes beside the one that is shown: more than anybody keeps track of.
pub(crate) const MAX_CODES: usize = 64;

/// Keys that came in by a code and are remembered: more than any swarm has nodes.
pub(crate) const MAX_MEMBERS: usize = 4096;
