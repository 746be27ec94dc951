//! Why a session ends.

use core::fmt;

use crate::control::{Reason, Role};
use crate::limits::{HELLO_TIMEOUT_MS, MINORS};
use crate::{Codec, CodecSet, ControlError};

/// What broke the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fatal {
    /// The peer did not greet in time.
    NoHello,
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
            Self::NoHello | Self::Silent { .. } => Reason::Timeout,
            Self::NoCommonMinor { .. } => Reason::Version,
            Self::SameRole(_) | Self::NoCommonCodec { .. } | Self::NothingFits { .. } => Reason::Refused,
            _ => Reason::Protocol,
        }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoHello => write!(f, "the peer sent no Hello within {} s: is it syn1?", HELLO_TIMEOUT_MS / 1000),
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
            Self::NothingFits { max_payload, max_rows } => {
                write!(f, "at most {max_rows} rows and {max_payload} payload bytes suit both ends: no data frame fits")
            }
            Self::Codec(codec) => write!(f, "the peer sent an activation as {codec}, which was not agreed"),
            Self::WrongWay { what, peer } => write!(f, "the peer, a {peer}, sent {what}, which a {peer} only receives"),
        }
    }
}

impl core::error::Error for Fatal {}
