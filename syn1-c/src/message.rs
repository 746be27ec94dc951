//! What the two ends say to each other beside tensors, as structs of C.
//!
//! Fields mean what those of [`syn1_core::control`] mean. Texts that were read lie in the payload that they were read from.

use crate::header::{syn1_codec, syn1_flags};
use crate::view::syn1_text;

/// Which message it is: one of `SYN1_MESSAGE_...`.
pub type syn1_message = u8;

/// Who is there and what it can do; `body.hello`.
pub const SYN1_MESSAGE_HELLO: syn1_message = 0;
/// The sender closes the link; `body.bye`.
pub const SYN1_MESSAGE_BYE: syn1_message = 1;
/// To be answered with a Pong of the same number; `body.number`.
pub const SYN1_MESSAGE_PING: syn1_message = 2;
/// The answer to a Ping; `body.number`.
pub const SYN1_MESSAGE_PONG: syn1_message = 3;
/// Coordinator to node: what will run; `body.model`.
pub const SYN1_MESSAGE_MODEL: syn1_message = 4;
/// Node to coordinator: what it is and how fast; `body.profile`.
pub const SYN1_MESSAGE_PROFILE: syn1_message = 5;
/// Coordinator to node: which layers to hold; `body.assign`.
pub const SYN1_MESSAGE_ASSIGN: syn1_message = 6;
/// Node to coordinator: how much of its shard is there; `body.loading`.
pub const SYN1_MESSAGE_LOADING: syn1_message = 7;
/// Node to coordinator: the shard is verified and the engine warmed up; `body.loaded`.
pub const SYN1_MESSAGE_LOADED: syn1_message = 8;
/// Coordinator to node: a request begins; `body.open`.
pub const SYN1_MESSAGE_OPEN: syn1_message = 9;
/// Coordinator to node: a request ends; `body.request`.
pub const SYN1_MESSAGE_CLOSE: syn1_message = 10;
/// Node to coordinator: a request can't go on; `body.failed`.
pub const SYN1_MESSAGE_FAILED: syn1_message = 11;
/// Node to coordinator: an assignment can't be taken; `body.unable`.
pub const SYN1_MESSAGE_UNABLE: syn1_message = 12;
/// Node to coordinator: a request is closed; `body.closed`.
pub const SYN1_MESSAGE_CLOSED: syn1_message = 13;
/// The sender holds the key that its Hello names; `body.signature`.
pub const SYN1_MESSAGE_PROVE: syn1_message = 14;
/// Node to coordinator: that many more data frames may come; `body.frames`.
pub const SYN1_MESSAGE_GRANT: syn1_message = 15;

/// What an end of a link is: one of `SYN1_ROLE_...`.
pub type syn1_role = u8;

/// Tokenizes, places, routes, samples.
pub const SYN1_ROLE_COORDINATOR: syn1_role = 0;
/// Runs layers.
pub const SYN1_ROLE_NODE: syn1_role = 1;

/// Why a link is closed: one of `SYN1_REASON_...`.
pub type syn1_reason = u8;

/// Nothing is left to do.
pub const SYN1_REASON_DONE: syn1_reason = 0;
/// No version in common.
pub const SYN1_REASON_VERSION: syn1_reason = 1;
/// The peer broke a rule.
pub const SYN1_REASON_PROTOCOL: syn1_reason = 2;
/// The peer said nothing for too long.
pub const SYN1_REASON_TIMEOUT: syn1_reason = 3;
/// The peer is not wanted here: joining again does not help.
pub const SYN1_REASON_REFUSED: syn1_reason = 4;
/// The same peer has connected again.
pub const SYN1_REASON_REPLACED: syn1_reason = 5;
/// The sender is being stopped.
pub const SYN1_REASON_SHUTDOWN: syn1_reason = 6;
/// The sender has failed.
pub const SYN1_REASON_INTERNAL: syn1_reason = 7;

/// What the last node of a route answers with: one of `SYN1_OUTPUT_...`.
pub type syn1_output = u8;

/// The k most likely tokens.
pub const SYN1_OUTPUT_TOP: syn1_output = 0;
/// All logits.
pub const SYN1_OUTPUT_FULL: syn1_output = 1;

/// Who is there and what it can do.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_hello {
    /// Program and version, for logs.
    pub agent: syn1_text,
    /// The codecs that the sender can receive: the bits `1 << SYN1_CODEC_...`.
    pub codecs: u32,
    /// Longest data payload that the sender can receive, in bytes.
    pub max_payload: u32,
    /// Most rows of a data frame that the sender can receive.
    pub max_rows: u16,
    /// Data frames that a node takes before it grants more.
    pub credit: u16,
    /// Lowest protocol minor that the sender speaks.
    pub minor_min: u8,
    /// Highest protocol minor that the sender speaks.
    pub minor_max: u8,
    /// What the sender is.
    pub role: syn1_role,
    /// The negotiable flags that the sender can receive.
    pub flags: syn1_flags,
    /// SHA-256 of the manifest of the only model that the sender wants; zeros: any.
    pub model: [u8; 32],
    /// The sender's public key; zeros: none.
    pub key: [u8; 32],
    /// Fresh random bytes, which the peer's proof must name.
    pub nonce: [u8; 32],
}

/// The last message of a link.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_bye {
    /// Why, for people.
    pub text: syn1_text,
    /// Why, for programs.
    pub reason: syn1_reason,
}

/// What will run.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_model {
    /// The model's name.
    pub name: syn1_text,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Where the coordinator's host serves shards over HTTP.
    pub http_port: u16,
    /// Elements of an activation row.
    pub width: u16,
    /// Transformer blocks.
    pub layers: u16,
    /// SHA-256 of the manifest, which names every piece by its own SHA-256.
    pub manifest_sha256: [u8; 32],
}

/// What a node is and how fast.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_profile {
    /// The node's name.
    pub name: syn1_text,
    /// The device that computes.
    pub device: syn1_text,
    /// Bytes that the node could allocate for weights and KV cache.
    pub memory_bytes: u64,
    /// Measured read bandwidth, bytes per second.
    pub read_bytes_per_s: u64,
    /// Measured nanoseconds per layer of the model's shape, one row.
    pub layer_ns: u64,
}

/// Which layers to hold.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_assign {
    /// Number of the placement; a higher one replaces a lower one.
    pub generation: u32,
    /// Positions of KV cache per request.
    pub max_positions: u32,
    /// First layer.
    pub first_layer: u16,
    /// One behind the last layer.
    pub end_layer: u16,
    /// Requests open at a time.
    pub slots: u16,
    /// Most rows of one data frame.
    pub max_rows: u16,
}

/// How much of a shard is there.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_loading {
    /// Bytes there.
    pub done_bytes: u64,
    /// Bytes of the shard.
    pub total_bytes: u64,
    /// The placement.
    pub generation: u32,
}

/// A shard is verified and the engine warmed up.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_loaded {
    /// Bytes that had to be fetched.
    pub fetched_bytes: u64,
    /// Measured nanoseconds per layer with the real weights, one row.
    pub layer_ns: u64,
    /// The placement.
    pub generation: u32,
    /// Requests that fit at a time.
    pub slots: u16,
}

/// A request begins.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_open {
    /// The request, a number that is unique on this link while it is open.
    pub request: u32,
    /// Rows at this position and later give outputs.
    pub wanted_from: u32,
    /// How many of the most likely tokens; with `SYN1_OUTPUT_TOP`.
    pub k: u16,
    /// What the last node answers with.
    pub output: syn1_output,
    /// The incarnation of its route.
    pub epoch: u8,
    /// The codec of the activations that the node sends.
    pub codec: syn1_codec,
    /// How the node makes those activations: compressed, delta.
    pub flags: syn1_flags,
}

/// A request can't go on.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_failed {
    /// Why, for people.
    pub text: syn1_text,
    /// The request.
    pub request: u32,
    /// The incarnation of its route.
    pub epoch: u8,
}

/// An assignment can't be taken.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_unable {
    /// Why, for people.
    pub text: syn1_text,
    /// The placement.
    pub generation: u32,
}

/// A request is closed and its KV cache free.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_closed {
    /// Microseconds that the engine computed for it.
    pub compute_us: u64,
    /// The request.
    pub request: u32,
}

/// The fields of a message: those that its number says.
#[derive(Clone, Copy)]
#[repr(C)]
pub union syn1_body {
    /// A Hello's.
    pub hello: syn1_hello,
    /// A Bye's.
    pub bye: syn1_bye,
    /// A Ping's or Pong's.
    pub number: u64,
    /// A Model's.
    pub model: syn1_model,
    /// A Profile's.
    pub profile: syn1_profile,
    /// An Assign's.
    pub assign: syn1_assign,
    /// A Loading's.
    pub loading: syn1_loading,
    /// A Loaded's.
    pub loaded: syn1_loaded,
    /// An Open's.
    pub open: syn1_open,
    /// A Close's.
    pub request: u32,
    /// A Failed's.
    pub failed: syn1_failed,
    /// An Unable's.
    pub unable: syn1_unable,
    /// A Closed's.
    pub closed: syn1_closed,
    /// A Prove's: Ed25519 over what the session chose.
    pub signature: [u8; 64],
    /// A Grant's: data frames.
    pub frames: u16,
}

/// A control message.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct syn1_control {
    /// Which it is.
    pub message: syn1_message,
    /// Its fields.
    pub body: syn1_body,
}
