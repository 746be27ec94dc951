//! How a node's conversation ends.

use syn1_core::{Fatal, LinkError, LinkErrorKind, Reason};

/// A conversation that ended in an orderly way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// [`Host::stopped`](crate::Host::stopped) was ready; the coordinator was told.
    Stopped,
    /// The coordinator said goodbye.
    Bye {
        /// Its reason.
        reason: Reason,
        /// In words.
        text: String,
        /// Whether it had greeted, and proved its key if it has one, before.
        open: bool,
    },
}

/// A conversation that broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The other end speaks another protocol.
    #[error("the coordinator speaks SYN{major}, this node speaks SYN1: update the older one", major = .theirs.escape_ascii())]
    Version {
        /// The fourth magic byte that it sends.
        theirs: u8,
    },
    /// The link is gone.
    #[error("lost the coordinator: {text}")]
    Link {
        /// What kind of failure.
        kind: LinkErrorKind,
        /// What the link said.
        text: String,
    },
    /// The coordinator broke the protocol or fell silent.
    #[error("left the coordinator: {0}")]
    Session(Fatal),
    /// The coordinator sent what no node takes.
    #[error("left the coordinator: {0}")]
    Unexpected(String),
    /// A frame could not be sent for so long that the coordinator counts as gone.
    #[error("left the coordinator: it has not taken a frame for {seconds} s")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// The coordinator is not the one that was asked for.
    #[error("left the coordinator: {}", wrong(.key))]
    WrongCoordinator {
        /// The key that it has proved, if any.
        key: Option<[u8; 32]>,
    },
    /// There are no random numbers to greet with.
    #[error("{0}")]
    Random(String),
    /// The machine could not be measured for this model.
    #[error("{0}")]
    Profile(String),
}

impl NodeError {
    pub(crate) fn link(err: &impl LinkError) -> Self {
        match err.version() {
            Some(theirs) => Self::Version { theirs },
            None => Self::Link { kind: err.kind(), text: err.to_string() },
        }
    }

    /// What a Bye says about it; nothing where there is no one left to tell.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Version { .. } => Some(Reason::Version),
            Self::Link { kind: LinkErrorKind::Protocol, .. } | Self::Unexpected(_) => Some(Reason::Protocol),
            Self::Session(fatal) => Some(fatal.reason()),
            Self::WrongCoordinator { .. } => Some(Reason::Refused),
            Self::Profile(_) | Self::Random(_) => Some(Reason::Internal),
            Self::Link { .. } | Self::Stalled { .. } => None,
        }
    }
}

fn wrong(key: &Option<[u8; 32]>) -> String {
    match key {
        Some(key) => {
            let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("its key is {key}, another one was expected: check the address and the key")
        }
        None => "it has proved no key, one was expected: check the address".to_owned(),
    }
}
