//! What a node needs of the machine it runs on.

use core::fmt;

use syn1_core::{Millis, Reason};

/// The machine under a node.
#[allow(async_fn_in_trait)]
pub trait Board {
    /// The time since some fixed moment; never goes back.
    fn now(&self) -> Millis;

    /// The same time in microseconds, for figures.
    fn micros(&self) -> u64;

    /// Waits until [`Board::now`] has reached `time`.
    async fn sleep_until(&self, time: Millis);

    /// Hands the bytes of one of the coordinator's files to `take`, from byte `from` on: `manifest.json`, or a piece by the
    /// hex digits of its SHA-256. `port` is that of the coordinator's HTTP server. The node checks every hash itself, and
    /// asks again from where a transfer broke off.
    ///
    /// # Errors
    /// The file cannot be had, or no more of it.
    async fn fetch(&self, port: u16, name: &str, from: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), FetchError>;

    /// Told what happens, for logs.
    fn event(&self, event: Event);
}

/// Why a file, or the rest of it, could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FetchError {
    /// Nobody answers at the port, or the connection broke. Trying again may help.
    Broken,
    /// The server answered with this status.
    Status(u16),
    /// What answered does not speak HTTP/1.1 as the coordinator does.
    Http,
    /// It is not among the files of this machine.
    Absent,
    /// The bytes have another SHA-256 than they must.
    Hash,
    /// There are more bytes than there must be.
    Length,
}

/// Who the node is and what it can take.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig<'a> {
    /// The node's name in listings; at most 256 bytes count.
    pub name: &'a str,
    /// What computes, for listings.
    pub device: &'a str,
    /// Program and version, for the peer's log.
    pub agent: &'static str,
    /// Bytes of a data frame's payload that the link's buffers hold.
    pub max_payload: u32,
    /// Rows of a data frame that the node takes.
    pub max_rows: u16,
}

/// What happens to a node, for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event {
    /// The coordinator has greeted.
    Met,
    /// The manifest is here and the machine was measured.
    Profiled {
        /// Bytes offered for weights and KV caches.
        memory_bytes: u64,
        /// Measured time of one layer for one row, nanoseconds.
        layer_ns: u64,
    },
    /// A layer range to serve.
    Assigned {
        /// The first layer.
        first: u16,
        /// One behind the last.
        end: u16,
    },
    /// The blocks are here, verified and warm.
    Loaded {
        /// Their bytes.
        bytes: usize,
        /// Measured time of one layer for one row, nanoseconds.
        layer_ns: u64,
    },
    /// The assignment cannot be taken; the coordinator knows why.
    Unable,
    /// A request begins.
    Opened {
        /// Its number.
        request: u32,
    },
    /// A request has ended.
    Closed {
        /// Its number.
        request: u32,
        /// Microseconds of computing.
        compute_us: u64,
    },
    /// A request failed; the coordinator knows why, others go on.
    Failed {
        /// Its number.
        request: u32,
    },
    /// The coordinator says goodbye.
    Bye {
        /// Why.
        reason: Reason,
    },
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => f.write_str("the coordinator's HTTP server cannot be reached, or breaks off"),
            Self::Status(status) => write!(f, "the coordinator's HTTP server answered {status}"),
            Self::Http => f.write_str("what answers at the HTTP port is no coordinator"),
            Self::Absent => f.write_str("it is not in this node's flash"),
            Self::Hash => f.write_str("its SHA-256 is another than the coordinator's: damaged, or of another model"),
            Self::Length => f.write_str("it is longer than it must be"),
        }
    }
}

impl core::error::Error for FetchError {}
