//! The messages' fields, in the order in which they travel.

use core::fmt;

/// Who is there and what it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Hello<'a> {
    /// Lowest protocol minor that the sender speaks.
    pub minor_min: u8,
    /// Highest protocol minor that the sender speaks.
    pub minor_max: u8,
    /// What the sender is.
    pub role: Role,
    /// The negotiable [`Flags`](crate::Flags) that the sender can receive.
    pub flags: u8,
    /// The [`CodecSet`](crate::CodecSet) that the sender can receive.
    pub codecs: u32,
    /// Longest data payload that the sender can receive, in bytes.
    pub max_payload: u32,
    /// Most rows of a data frame that the sender can receive.
    pub max_rows: u16,
    /// Data frames that a node takes before it grants more; a coordinator's is ignored.
    pub credit: u16,
    /// SHA-256 of the manifest of the only model that the sender wants; zeros: any.
    pub model: [u8; 32],
    /// The sender's public key, which it proves to hold by a Prove; zeros: none.
    pub key: [u8; 32],
    /// Fresh random bytes, which the peer's proof must name.
    pub nonce: [u8; 32],
    /// Program and version, for logs.
    pub agent: &'a str,
}

/// What an end of a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Role {
    /// Tokenizes, places, routes, samples.
    Coordinator,
    /// Runs layers.
    Node,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
        })
    }
}

/// The last message of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Bye<'a> {
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub text: &'a str,
}

/// Why a link is closed. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Reason {
    /// Nothing is left to do.
    Done,
    /// No version in common.
    Version,
    /// The peer broke a rule.
    Protocol,
    /// The peer said nothing for too long.
    Timeout,
    /// The peer is not wanted here: joining again does not help.
    Refused,
    /// The same peer has connected again.
    Replaced,
    /// The sender is being stopped.
    Shutdown,
    /// The sender has failed.
    Internal,
}

/// What will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Model<'a> {
    /// The model's name.
    pub name: &'a str,
    /// SHA-256 of the manifest, which names every piece by its own SHA-256.
    pub manifest_sha256: [u8; 32],
    /// Where the coordinator's host serves shards over HTTP.
    pub http_port: u16,
    /// Elements of an activation row.
    pub width: u16,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Transformer blocks.
    pub layers: u16,
}

/// What a node is and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Profile<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The device that computes.
    pub device: &'a str,
    /// Bytes that the node could allocate for weights and KV cache.
    pub memory_bytes: u64,
    /// Measured read bandwidth, bytes per second.
    pub read_bytes_per_s: u64,
    /// Measured nanoseconds per layer of the model's shape, one row.
    pub layer_ns: u64,
}

/// Which layers to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Assign {
    /// Number of the placement; a higher one replaces a lower one.
    pub generation: u32,
    /// First layer. The node of layer 0 also embeds tokens.
    pub first_layer: u16,
    /// One behind the last layer. The node of the model's last layer also computes logits.
    pub end_layer: u16,
    /// Positions of KV cache per request.
    pub max_positions: u32,
    /// Requests open at a time.
    pub slots: u16,
    /// Most rows of one data frame.
    pub max_rows: u16,
}

/// How much of a shard is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Loading {
    /// The placement.
    pub generation: u32,
    /// Bytes there.
    pub done_bytes: u64,
    /// Bytes of the shard.
    pub total_bytes: u64,
}

/// A shard is verified and the engine warmed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Loaded {
    /// The placement.
    pub generation: u32,
    /// Bytes that had to be fetched.
    pub fetched_bytes: u64,
    /// Measured nanoseconds per layer with the real weights, one row.
    pub layer_ns: u64,
    /// Requests that fit at a time.
    pub slots: u16,
}

/// A request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Open {
    /// The request, a number that is unique on this link while it is open.
    pub request: u32,
    /// The incarnation of its route.
    pub epoch: u8,
    /// The [`Codec`](crate::Codec) byte of the activations that the node sends.
    pub codec: u8,
    /// The [`Flags`](crate::Flags) that say how the node makes those activations: compressed, delta.
    pub flags: u8,
    /// What the last node answers with.
    pub output: Output,
    /// Rows at this position and later give outputs.
    pub wanted_from: u32,
}

/// What the last node of a route answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Output {
    /// The k most likely tokens.
    Top(u16),
    /// All logits.
    Full,
}

/// A request can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Failed<'a> {
    /// The request.
    pub request: u32,
    /// The incarnation of its route.
    pub epoch: u8,
    /// Why, for people.
    pub text: &'a str,
}

/// An assignment can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Unable<'a> {
    /// The placement.
    pub generation: u32,
    /// Why, for people.
    pub text: &'a str,
}

/// A request is closed and its KV cache free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Closed {
    /// The request.
    pub request: u32,
    /// Microseconds that the engine computed for it.
    pub compute_us: u64,
}
