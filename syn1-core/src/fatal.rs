//! Why a session ends.

use core::fmt;

use crate::control::{Reason, Role};
use crate::limits::{HELLO_TIMEOUT_MS, MINORS};
use crate::{Codec, CodecSet, ControlError};

/// What broke the conversation.
///
/// ```
/// use syn1_core::Fatal;
/// use syn1_core::control::Reason;
///
/// assert_eq!(Fatal::NoHello.reason(), Reason::Timeout);
/// assert_eq!(Fatal::NoHello.to_string(), "the peer sent no Hello within 5 s: is it syn1?");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fatal {
    /// The peer did not greet in time.
    NoHello,
    /// The peer did not prove its key in time.
    NoProof,
    /// The peer was silent for too long.
    Silent {
        /// Milliseconds since its last frame.
        ms: u64,
    },
    /// A control message that can't be read.
    Control(ControlError),
    /// Something came before the peer's Hello.
    BeforeHello(&'static str),
    /// The peer greeted again.
    SecondHello,
    /// Both ends have the same role.
    SameRole(Role),
    /// No protocol minor in common.
    NoCommonMinor {
        /// Lowest and highest minor of the peer.
        theirs: (u8, u8),
    },
    /// The two ends do not both offer F32, which every sender falls back to.
    NoCommonCodec {
        /// What the peer offers.
        theirs: CodecSet,
    },
    /// The ends' limits leave room for no data frame.
    NothingFits {
        /// Longest payload that both accept.
        max_payload: u32,
        /// Most rows that both accept.
        max_rows: u16,
        /// Data frames that the node takes ahead.
        credit: u16,
    },
    /// The ends want different models.
    OtherModel {
        /// The first four bytes of the hash of our manifest.
        ours: u32,
        /// Those of the peer's.
        theirs: u32,
    },
    /// The peer did not prove a key, which this end asks for.
    Anonymous,
    /// Something came from a peer that named a key and has not proven it.
    Unproven(&'static str),
    /// The peer's proof is not signed by its key.
    Forged,
    /// A proof that was not due: the peer named no key, or has proven it before.
    StrayProof,
    /// A data frame beyond what was granted.
    NoCredit {
        /// The credit of the link.
        credit: u16,
    },
    /// The node granted more than its Hello gave.
    Overgranted {
        /// Data frames of that Grant.
        frames: u16,
    },
    /// An activation in a codec that was not agreed.
    Codec(Codec),
    /// Something that only the other role may send.
    WrongWay {
        /// What came.
        what: &'static str,
        /// Who sent it.
        peer: Role,
    },
}

impl Fatal {
    /// What to tell the peer in a Bye.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        // SPEC 9.1
        match self {
            Self::NoHello | Self::NoProof | Self::Silent { .. } => Reason::Timeout,
            Self::NoCommonMinor { .. } => Reason::Version,
            Self::SameRole(_)
            | Self::NoCommonCodec { .. }
            | Self::NothingFits { .. }
            | Self::OtherModel { .. }
            | Self::Anonymous
            | Self::Forged => Reason::Refused,
            _ => Reason::Protocol,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoHello => write!(f, "the peer sent no Hello within {} s: is it syn1?", HELLO_TIMEOUT_MS / 1000),
            Self::NoProof => write!(f, "the peer did not prove its key within {} s", HELLO_TIMEOUT_MS / 1000),
            Self::Silent { ms } => write!(f, "the peer was silent for {ms} ms"),
            Self::Control(error) => write!(f, "the peer's control message can't be read: {error}"),
            Self::BeforeHello(what) => write!(f, "the peer sent {what} before its Hello"),
            Self::SecondHello => f.write_str("the peer sent a second Hello"),
            Self::SameRole(role) => write!(f, "both ends of the link are a {role}: join a coordinator with a node"),
            Self::NoCommonMinor { theirs: (low, high) } => write!(
                f,
                "the peer speaks protocol 1.{low} to 1.{high} and we speak 1.{} to 1.{}: update the older of the two",
                MINORS.0, MINORS.1
            ),
            Self::NoCommonCodec { theirs } => {
                write!(
                    f,
                    "the peer offers codecs {:#x}: both ends must offer f32 ({:#x})",
                    theirs.0,
                    1 << Codec::F32 as u8
                )
            }
            Self::NothingFits { max_payload, max_rows, credit } => write!(
                f,
                "at most {credit} frames of {max_rows} rows and {max_payload} payload bytes suit both ends: none fits"
            ),
            Self::OtherModel { ours, theirs } => write!(
                f,
                "the peer is for the model {theirs:08x}.. and this end for {ours:08x}..: give both the same manifest"
            ),
            Self::Anonymous => f.write_str("the peer did not prove a key, which this end asks for: give it one"),
            Self::Unproven(what) => write!(f, "the peer sent {what} before the proof of its key"),
            Self::Forged => f.write_str("the peer's proof is not signed by the key that it names"),
            Self::StrayProof => f.write_str("the peer sent a proof that was not due"),
            Self::NoCredit { credit } => {
                write!(f, "the peer sent a data frame beyond the {credit} that may be unanswered")
            }
            Self::Overgranted { frames } => {
                write!(f, "the peer granted {frames} data frames, with which there would be more than its Hello gave")
            }
            Self::Codec(codec) => write!(f, "the peer sent an activation as {codec}, which was not agreed"),
            Self::WrongWay { what, peer } => write!(f, "the peer, a {peer}, sent {what}, which a {peer} only receives"),
        }
    }
}

impl core::error::Error for Fatal {}
