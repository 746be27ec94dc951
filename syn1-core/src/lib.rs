//! SYN1: the wire protocol of a language model that runs across devices.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]

pub mod codec;
pub mod control;
pub mod decode;
pub mod encode;
mod exp;
mod fatal;
mod flags;
pub mod header;
mod header_error;
pub mod limits;
pub mod link;
pub mod output;
pub mod session;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;

pub use codec::{Codec, CodecError, CodecSet, encoded_len};
pub use control::{Control, ControlError, Reason, Role, clip};
pub use decode::{DecodeError, Decoder, Frame};
pub use encode::{EncodeError, encode_control, encode_frame};
pub use fatal::Fatal;
pub use flags::Flags;
pub use header::{Header, Kind, Parsed};
pub use header_error::HeaderError;
pub use limits::Limits;
pub use link::{Link, LinkError, LinkErrorKind, Receive, Transmit};
pub use output::{OutputError, logits_grid};
pub use session::{Event, Negotiated, Session, SessionConfig};
pub use time::Millis;
