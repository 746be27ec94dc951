//! The messages' fields, in the order in which they travel.

use core::fmt;

/// Who is there and what it can do.
///
/// ```
/// use syn1_core::control::Hello;
/// use syn1_core::{CodecSet, Control, Role};
///
/// let message = Hello {
///     minor_min: 0,
///     minor_max: 0,
///     role: Role::Node,
///     flags: 0,
///     codecs: CodecSet::ACTIVATIONS.0,
///     max_payload: 1 << 20,
///     max_rows: 32,
///     credit: 2,
///     model: [0; 32],
///     key: [0; 32],
///     nonce: [0; 32],
///     agent: "example 1.0",
/// };
/// let mut out = [0; 1024];
/// let len = Control::Hello(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Hello(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::{Control, Role};
///
/// assert_eq!(Control::Close { request: 1 }.sender(), Some(Role::Coordinator));
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::{Bye, Reason};
///
/// let message = Bye { reason: Reason::Shutdown, text: "back in a minute" };
/// let mut out = [0; 1024];
/// let len = Control::Bye(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Bye(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Bye<'a> {
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub text: &'a str,
}

/// Why a link is closed. Append-only.
///
/// ```
/// use syn1_core::{Fatal, Reason};
///
/// assert_eq!(Fatal::SecondHello.reason(), Reason::Protocol);
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Model;
///
/// let message = Model {
///     name: "tiny",
///     manifest_sha256: [7; 32],
///     http_port: 8080,
///     width: 768,
///     vocab: 50_257,
///     layers: 12,
/// };
/// let mut out = [0; 1024];
/// let len = Control::Model(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Model(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Profile;
///
/// let message = Profile {
///     name: "shelf",
///     device: "Cortex-M7",
///     memory_bytes: 8 << 20,
///     read_bytes_per_s: 400_000_000,
///     layer_ns: 2_000_000,
/// };
/// let mut out = [0; 1024];
/// let len = Control::Profile(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Profile(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Assign;
///
/// let message = Assign {
///     generation: 1,
///     first_layer: 0,
///     end_layer: 4,
///     max_positions: 512,
///     slots: 1,
///     max_rows: 8,
/// };
/// let mut out = [0; 1024];
/// let len = Control::Assign(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Assign(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Loading;
///
/// let message = Loading { generation: 1, done_bytes: 3 << 20, total_bytes: 7 << 20 };
/// let mut out = [0; 1024];
/// let len = Control::Loading(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Loading(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Loaded;
///
/// let message = Loaded { generation: 1, fetched_bytes: 7 << 20, layer_ns: 2_000_000, slots: 1 };
/// let mut out = [0; 1024];
/// let len = Control::Loaded(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Loaded(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::control::{Open, Output};
/// use syn1_core::{Codec, Control};
///
/// let codec = Codec::Q8 as u8;
/// let message = Open { request: 1, epoch: 0, codec, flags: 0, output: Output::Top(40), wanted_from: 9 };
/// let mut out = [0; 1024];
/// let len = Control::Open(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Open(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::Header;
/// use syn1_core::control::Output;
///
/// /// The header of the answer for one position.
/// fn answer(output: Output, position: u32, vocab: u32) -> Option<Header> {
///     match output {
///         Output::Top(k) => Header::top(1, 0, position, 1, k),
///         Output::Full => Header::full(1, 0, position, vocab),
///     }
/// }
/// assert_eq!(answer(Output::Top(2), 7, 100).map(|header| header.payload_len), Some(24));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Output {
    /// The k most likely tokens.
    Top(u16),
    /// All logits.
    Full,
}

/// A request can't go on.
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Failed;
///
/// let message = Failed { request: 1, epoch: 0, text: "out of memory" };
/// let mut out = [0; 1024];
/// let len = Control::Failed(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Failed(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
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
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Unable;
///
/// let message = Unable { generation: 1, text: "4 layers do not fit" };
/// let mut out = [0; 1024];
/// let len = Control::Unable(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Unable(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Unable<'a> {
    /// The placement.
    pub generation: u32,
    /// Why, for people.
    pub text: &'a str,
}

/// A request is closed and its KV cache free.
///
/// ```
/// use syn1_core::Control;
/// use syn1_core::control::Closed;
///
/// let message = Closed { request: 1, compute_us: 1234 };
/// let mut out = [0; 1024];
/// let len = Control::Closed(message).encode(&mut out)?;
/// assert_eq!(Control::decode(&out[..len])?, Control::Closed(message));
/// # Ok::<(), syn1_core::ControlError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Closed {
    /// The request.
    pub request: u32,
    /// Microseconds that the engine computed for it.
    pub compute_us: u64,
}
