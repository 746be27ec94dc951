//! SYN1 over byte streams.
//!
//! [`StreamLink`] makes a [`Link`](syn1_core::Link) of anything that implements embedded-io-async's `Read` and `Write`:
//! with the feature `embassy` an `EmbassySocket` on a microcontroller, and with the feature `tokio` (the default) a
//! [`TcpLink`] on an operating system. Without `tokio` the crate is `no_std` and does not allocate.
#![cfg_attr(not(any(test, feature = "tokio")), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "embassy")]
mod embassy;
mod error;
mod stream;
#[cfg(feature = "tokio")]
mod tokio;

#[cfg(feature = "embassy")]
pub use crate::embassy::{
    EmbassyError, EmbassyLink, EmbassyReader, EmbassyRx, EmbassySocket, EmbassyTx, EmbassyWriter,
};
pub use error::StreamError;
pub use stream::{StreamLink, StreamRx, StreamTx};

#[cfg(feature = "tokio")]
pub use crate::tokio::{TcpError, TcpLink, TcpRx, TcpTx, TokioLink, TokioReader, connect};
