//! What the two ends say to each other beside tensors: messages of at most [`MAX_CONTROL`] bytes, in postcard's format.
//!
//! Every enum here is append-only: a variant keeps its number and its fields for ever, and a new one goes to the end. The
//! tests hold the bytes of every variant.

mod bytes;
mod fields;
mod messages;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod tests;

use core::fmt;

use bytes::Wire;

use crate::limits::MAX_CONTROL;

pub use bytes::clip;
pub use messages::{
    Assign, Bye, Closed, Failed, Hello, Loaded, Loading, Model, Open, Output, Profile, Reason, Role, Unable,
};

/// A control message.
///
/// ```
/// use syn1_core::{Control, ControlError};
///
/// let mut out = [0; 16];
/// let len = Control::Grant { frames: 300 }.encode(&mut out)?;
/// assert_eq!(out[..len], [15, 0xac, 2]);
/// assert_eq!(Control::decode(&out[..len])?, Control::Grant { frames: 300 });
/// assert_eq!(Control::decode(&[99]), Err(ControlError::Unknown(99)));
/// # Ok::<(), ControlError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Control<'a> {
    /// Who is there and what it can do: the first message of each end.
    Hello(Hello<'a>),
    /// The sender closes the link.
    Bye(Bye<'a>),
    /// To be answered with a Pong of the same number.
    Ping(u64),
    /// The answer to a Ping.
    Pong(u64),
    /// Coordinator to node: what will run.
    Model(Model<'a>),
    /// Node to coordinator: what it is and how fast.
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
    Failed(Failed<'a>),
    /// Node to coordinator: an assignment can't be taken.
    Unable(Unable<'a>),
    /// Node to coordinator: a request is closed; the answer to Close.
    Closed(Closed),
    /// The sender holds the key that its Hello names.
    Prove {
        /// Its signature of the [`proof_message`](crate::identity::proof_message).
        signature: [u8; 64],
    },
    /// Node to coordinator: that many more data frames may come.
    Grant {
        /// Data frames.
        frames: u16,
    },
}

impl<'a> Control<'a> {
    /// Reads a message.
    ///
    /// ```
    /// use syn1_core::{Control, ControlError};
    ///
    /// assert_eq!(Control::decode(&[2, 7]), Ok(Control::Ping(7)));
    /// assert_eq!(Control::decode(&[2]), Err(ControlError::Malformed));
    /// assert_eq!(Control::decode(&[2, 7, 7]), Err(ControlError::Trailing(1)));
    /// ```
    ///
    /// # Errors
    /// A variant that this version does not know, fields that end early or hold what they can't, or bytes after the message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ControlError> {
        let mut wire = Wire::read(bytes);
        let mut number = 0;
        wire.u32(&mut number);
        // SPEC 5.4
        wire.finish().ok_or(ControlError::Malformed)?;
        // SPEC 5.3
        let mut message = Self::blank(number).ok_or(ControlError::Unknown(number))?;
        message.fields(&mut wire);
        match wire.finish() {
            // SPEC 5.4
            None => Err(ControlError::Malformed),
            Some(0) => Ok(message),
            // SPEC 5.5
            Some(rest) => Err(ControlError::Trailing(rest)),
        }
    }

    /// Writes the message into `out` and says how many bytes it took. Texts are [`clip`]ped.
    ///
    /// ```
    /// use syn1_core::Control;
    ///
    /// let mut out = [0; 16];
    /// assert_eq!(Control::Pong(300).encode(&mut out)?, 3);
    /// assert_eq!(out[..3], [3, 0xac, 2]);
    /// # Ok::<(), syn1_core::ControlError>(())
    /// ```
    ///
    /// # Errors
    /// `out` is too short; [`MAX_CONTROL`] bytes are always enough.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, ControlError> {
        let have = out.len();
        let limit = have.min(MAX_CONTROL as usize);
        let mut wire = Wire::write(out.get_mut(..limit).unwrap_or_default());
        // SPEC 5.1
        wire.u32(&mut self.number());
        // A copy, because reading and writing share the list of fields.
        let mut message = *self;
        message.fields(&mut wire);
        wire.finish().map(|left| limit - left).ok_or(ControlError::Buffer { have })
    }

    /// The message's name, for logs and errors.
    ///
    /// ```
    /// assert_eq!(syn1_core::Control::Ping(7).name(), "Ping");
    /// ```
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
            Self::Prove { .. } => "Prove",
            Self::Grant { .. } => "Grant",
        }
    }

    /// The only role that may send this message, or `None` when both may.
    ///
    /// ```
    /// use syn1_core::{Control, Role};
    ///
    /// assert_eq!(Control::Grant { frames: 1 }.sender(), Some(Role::Node));
    /// assert_eq!(Control::Ping(7).sender(), None);
    /// ```
    #[must_use]
    pub const fn sender(&self) -> Option<Role> {
        match self {
            Self::Hello(_) | Self::Bye(_) | Self::Ping(_) | Self::Pong(_) | Self::Prove { .. } => None,
            Self::Model(_) | Self::Assign(_) | Self::Open(_) | Self::Close { .. } => Some(Role::Coordinator),
            Self::Profile(_)
            | Self::Loading(_)
            | Self::Loaded(_)
            | Self::Failed(_)
            | Self::Unable(_)
            | Self::Closed(_)
            | Self::Grant { .. } => Some(Role::Node),
        }
    }
}

/// Why a control message could not be read or written.
///
/// ```
/// use syn1_core::{Control, ControlError};
///
/// let error = Control::decode(&[99]).unwrap_err();
/// assert_eq!(error, ControlError::Unknown(99));
/// println!("{error}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ControlError {
    /// A message that this version does not know.
    Unknown(u32),
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
            Self::Unknown(number) => write!(f, "control message {number} is unknown: update this end"),
            Self::Malformed => f.write_str("a control message's fields end early or hold what they can't"),
            Self::Trailing(count) => write!(f, "{count} bytes follow a control message"),
            Self::Buffer { have } => {
                write!(f, "a control message does not fit {have} bytes: {MAX_CONTROL} are always enough")
            }
        }
    }
}

impl core::error::Error for ControlError {}
