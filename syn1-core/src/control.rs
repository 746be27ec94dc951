//! What the two ends say to each other beside tensors: postcard messages of at most
//! [`MAX_CONTROL`] bytes.
//!
//! Both enums here are append-only: a variant keeps its number and its fields for ever, and a new one goes to the end.
//! The tests hold the bytes of every variant.

use core::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{MAX_CONTROL, MAX_TEXT};

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Control<'a> {
    /// Who is there and what it can do: the first message of each end.
    #[serde(borrow)]
    Hello(Hello<'a>),
    /// The sender closes the link.
    #[serde(borrow)]
    Bye(Bye<'a>),
    /// To be answered with a Pong of the same number.
    Ping(u64),
    /// The answer to a Ping.
    Pong(u64),
    /// Coordinator to node: what will run.
    #[serde(borrow)]
    Model(Model<'a>),
    /// Node to coordinator: what it is and how fast.
    #[serde(borrow)]
    Profile(Profile<'a>),
    /// Coordinator to node: which layers to hold.
    Assign(Assign),
    /// Node to coordinator: how much of its shard is there.
    Loading(Loading),
    /// Node to coordinator: the shard is verified and the engine warmed up.
    Loaded(Loaded),
    /// Coordinator to node: a request begins.
    Open(Open),
    /// Coordinator to node: a request ends, its KV cache is free.
    Close {
        /// The request.
        request: u32,
    },
    /// Node to coordinator: a request can't go on.
    #[serde(borrow)]
    Failed(Failed<'a>),
    /// Node to coordinator: an assignment can't be taken.
    #[serde(borrow)]
    Unable(Unable<'a>),
    /// Node to coordinator: a request is closed; the answer to Close.
    Closed(Closed),
}

impl<'a> Control<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// A variant that this version does not know, fields that are not postcard, or bytes after the message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ControlError> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            // SPEC 5.5
            Ok((_, rest)) => Err(ControlError::Trailing(rest.len())),
            Err(_) => Err(match bytes.first() {
                // SPEC 5.3
                Some(&variant) if variant >= VARIANTS => ControlError::Unknown(variant),
                // SPEC 5.4
                _ => ControlError::Malformed,
            }),
        }
    }

    /// Writes the message into `out` and says how many bytes it took. Texts are [`clip`]ped.
    ///
    /// # Errors
    /// `out` is too short; [`MAX_CONTROL`] bytes are always enough.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, ControlError> {
        let have = out.len();
        let limit = have.min(MAX_CONTROL as usize);
        let out = out.get_mut(..limit).unwrap_or_default();
        // SPEC 5.1
        postcard::to_slice(self, out).map(|written| written.len()).map_err(|_| ControlError::Buffer { have })
    }

    /// The message's name, for logs and errors.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Bye(_) => "Bye",
            Self::Ping(_) => "Ping",
            Self::Pong(_) => "Pong",
            Self::Model(_) => "Model",
            Self::Profile(_) => "Profile",
            Self::Assign(_) => "Assign",
            Self::Loading(_) => "Loading",
            Self::Loaded(_) => "Loaded",
            Self::Open(_) => "Open",
            Self::Close { .. } => "Close",
            Self::Failed(_) => "Failed",
            Self::Unable(_) => "Unable",
            Self::Closed(_) => "Closed",
        }
    }

    /// The only role that may send this message, or `None` when both may.
    #[must_use]
    pub const fn sender(&self) -> Option<Role> {
        match self {
            Self::Hello(_) | Self::Bye(_) | Self::Ping(_) | Self::Pong(_) => None,
            Self::Model(_) | Self::Assign(_) | Self::Open(_) | Self::Close { .. } => Some(Role::Coordinator),
            Self::Profile(_)
            | Self::Loading(_)
            | Self::Loaded(_)
            | Self::Failed(_)
            | Self::Unable(_)
            | Self::Closed(_) => Some(Role::Node),
        }
    }
}

/// Who is there and what it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Program and version, for logs.
    #[serde(serialize_with = "text")]
    pub agent: &'a str,
}

/// What an end of a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Bye<'a> {
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    #[serde(serialize_with = "text")]
    pub text: &'a str,
}

/// Why a link is closed. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Model<'a> {
    /// The model's name.
    #[serde(serialize_with = "text")]
    pub name: &'a str,
    /// SHA-256 of the manifest, which names every piece by its own SHA-256.
    #[serde(deserialize_with = "hash")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Profile<'a> {
    /// The node's name.
    #[serde(serialize_with = "text")]
    pub name: &'a str,
    /// The device that computes.
    #[serde(serialize_with = "text")]
    pub device: &'a str,
    /// Bytes that the node could allocate for weights and KV cache.
    pub memory_bytes: u64,
    /// Measured read bandwidth, bytes per second.
    pub read_bytes_per_s: u64,
    /// Measured nanoseconds per layer of the model's shape, one row.
    pub layer_ns: u64,
}

/// Which layers to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Open {
    /// The request, a number that is unique on this link while it is open.
    pub request: u32,
    /// The incarnation of its route.
    pub epoch: u8,
    /// The [`Codec`](crate::Codec) byte of the activations that the node sends.
    pub codec: u8,
    /// What the last node answers with.
    pub output: Output,
    /// Rows at this position and later give outputs.
    pub wanted_from: u32,
}

/// What the last node of a route answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Output {
    /// The k most likely tokens.
    Top(u16),
    /// All logits.
    Full,
}

/// A request can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Failed<'a> {
    /// The request.
    pub request: u32,
    /// The incarnation of its route.
    pub epoch: u8,
    /// Why, for people.
    #[serde(serialize_with = "text")]
    pub text: &'a str,
}

/// An assignment can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Unable<'a> {
    /// The placement.
    pub generation: u32,
    /// Why, for people.
    #[serde(serialize_with = "text")]
    pub text: &'a str,
}

/// A request is closed and its KV cache free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Closed {
    /// The request.
    pub request: u32,
    /// Microseconds that the engine computed for it.
    pub compute_us: u64,
}

/// Why a control message could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ControlError {
    /// A message that this version does not know.
    Unknown(u8),
    /// Fields that end early or hold what they can't.
    Malformed,
    /// Bytes after the message.
    Trailing(usize),
    /// The output is too short.
    Buffer {
        /// Bytes given.
        have: usize,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown(variant) => write!(f, "control message {variant} is unknown: update this end"),
            Self::Malformed => f.write_str("a control message's fields end early or hold what they can't"),
            Self::Trailing(count) => write!(f, "{count} bytes follow a control message"),
            Self::Buffer { have } => {
                write!(f, "a control message does not fit {have} bytes: {MAX_CONTROL} are always enough")
            }
        }
    }
}

impl core::error::Error for ControlError {}

/// The longest start of `text` that is at most [`MAX_TEXT`] bytes and ends between characters.
#[must_use]
pub fn clip(text: &str) -> &str {
    // SPEC 5.6
    (0..=text.len().min(MAX_TEXT)).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn text<S: Serializer>(text: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(clip(text))
}

/// Reads the bytes in a loop; serde's own code for arrays has no loop and takes a kilobyte on a microcontroller.
fn hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = [u8; 32];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("32 bytes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; 32], A::Error> {
            let mut bytes = [0; 32];
            for byte in &mut bytes {
                *byte = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(32, &self))?;
            }
            Ok(bytes)
        }
    }

    deserializer.deserialize_tuple(32, Bytes)
}

const VARIANTS: u8 = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every variant with its bytes. Published bytes never change: add lines, edit none.
    fn golden() -> Vec<(Control<'static>, Vec<u8>)> {
        let hello = Hello {
            minor_min: 0,
            minor_max: 1,
            role: Role::Node,
            flags: 14,
            codecs: 14,
            max_payload: 1 << 20,
            max_rows: 300,
            agent: "syn1",
        };
        let model =
            Model { name: "tiny", manifest_sha256: [0xab; 32], http_port: 8080, width: 768, vocab: 50257, layers: 12 };
        let model_bytes = [&[4, 4][..], b"tiny", &[0xab; 32], &[0x90, 0x3f, 0x80, 6, 0xd1, 0x88, 3, 12]].concat();
        let profile =
            Profile { name: "n", device: "cpu", memory_bytes: 1 << 30, read_bytes_per_s: 1 << 35, layer_ns: 127 };
        let assign =
            Assign { generation: 1, first_layer: 2, end_layer: 8, max_positions: 512, slots: 4, max_rows: 128 };
        let open = Open { request: 9, epoch: 200, codec: 3, output: Output::Top(40), wanted_from: 130 };
        vec![
            (Control::Hello(hello), b"\x00\x00\x01\x01\x0e\x0e\x80\x80\x40\xac\x02\x04syn1".to_vec()),
            (Control::Bye(Bye { reason: Reason::Refused, text: "full" }), b"\x01\x04\x04full".to_vec()),
            (Control::Ping(300), vec![2, 0xac, 2]),
            (Control::Pong(u64::MAX), vec![3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            (Control::Model(model), model_bytes),
            (Control::Profile(profile), b"\x05\x01n\x03cpu\x80\x80\x80\x80\x04\x80\x80\x80\x80\x80\x01\x7f".to_vec()),
            (Control::Assign(assign), vec![6, 1, 2, 8, 0x80, 4, 4, 0x80, 1]),
            (
                Control::Loading(Loading { generation: 1, done_bytes: 128, total_bytes: 256 }),
                vec![7, 1, 0x80, 1, 0x80, 2],
            ),
            (
                Control::Loaded(Loaded { generation: 1, fetched_bytes: 0, layer_ns: 1000, slots: 4 }),
                vec![8, 1, 0, 0xe8, 7, 4],
            ),
            (Control::Open(open), vec![9, 9, 200, 3, 0, 40, 0x82, 1]),
            (Control::Open(Open { output: Output::Full, ..open }), vec![9, 9, 200, 3, 1, 0x82, 1]),
            (Control::Close { request: 9 }, vec![10, 9]),
            (Control::Failed(Failed { request: 9, epoch: 1, text: "é" }), vec![11, 9, 1, 2, 0xc3, 0xa9]),
            (Control::Unable(Unable { generation: 3, text: "" }), vec![12, 3, 0]),
            (Control::Closed(Closed { request: 9, compute_us: 300 }), vec![13, 9, 0xac, 2]),
        ]
    }

    fn encoded(message: &Control<'_>) -> Vec<u8> {
        let mut out = [0; MAX_CONTROL as usize];
        let len = message.encode(&mut out).unwrap();
        out[..len].to_vec()
    }

    #[test]
    fn every_variant_has_its_published_bytes() {
        let mut variants = Vec::new();
        for (message, bytes) in golden() {
            assert_eq!(encoded(&message), bytes, "{}", message.name());
            assert_eq!(Control::decode(&bytes), Ok(message));
            variants.push(bytes[0]);
        }
        variants.dedup();
        assert_eq!(variants, (0..VARIANTS).collect::<Vec<_>>());
    }

    #[test]
    fn every_reason_and_role_has_its_published_number() {
        use Reason::*;
        for (number, reason) in (0..).zip([Done, Version, Protocol, Timeout, Refused, Replaced, Shutdown, Internal]) {
            assert_eq!(encoded(&Control::Bye(Bye { reason, text: "" })), [1, number, 0]);
        }
        assert_eq!((Role::Coordinator as u8, Role::Node as u8), (0, 1));
    }

    #[test]
    fn messages_that_are_cut_or_longer_are_refused() {
        for (message, bytes) in golden() {
            for end in 0..bytes.len() {
                assert_eq!(Control::decode(&bytes[..end]), Err(ControlError::Malformed), "{}", message.name());
            }
            let longer = [&bytes[..], &[0, 0]].concat();
            assert_eq!(Control::decode(&longer), Err(ControlError::Trailing(2)), "{}", message.name());
            let have = bytes.len() - 1;
            assert_eq!(message.encode(&mut vec![0; have]), Err(ControlError::Buffer { have }));
        }
    }

    #[test]
    fn unknown_messages_are_named_and_unknown_reasons_refused() {
        assert_eq!(Control::decode(&[VARIANTS]), Err(ControlError::Unknown(VARIANTS)));
        assert_eq!(Control::decode(&[1, 99, 0]), Err(ControlError::Malformed));
    }

    #[test]
    fn texts_are_cut_between_characters_and_the_largest_message_fits() {
        let long = "é".repeat(400);
        assert_eq!(clip(&long).len(), MAX_TEXT);
        assert_eq!(clip(&long[2..]), clip(&long));
        let odd = format!("x{long}");
        assert_eq!(clip(&odd), &odd[..MAX_TEXT - 1]);
        assert_eq!(clip("short"), "short");
        let profile = Profile {
            name: &odd,
            device: &long,
            memory_bytes: u64::MAX,
            read_bytes_per_s: u64::MAX,
            layer_ns: u64::MAX,
        };
        let bytes = encoded(&Control::Profile(profile));
        let Ok(Control::Profile(back)) = Control::decode(&bytes) else { panic!("{bytes:?}") };
        assert_eq!((back.name, back.device), (clip(&odd), clip(&long)));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_what_is_read_can_be_written(start in 0..=VARIANTS, rest: Vec<u8>) {
            let bytes = [&[start][..], &rest].concat();
            if let Ok(message) = Control::decode(&bytes) {
                let canonical = encoded(&message);
                prop_assert_eq!(Control::decode(&canonical), Ok(message));
            }
        }
    }
}
