//! How long a hub is waited for, and how much it may send, with the reason for each limit.

use std::time::Duration;

/// Bytes of a repository's file list: the largest hold some ten thousand files of some hundred bytes each.
pub const MAX_LISTING_BYTES: u64 = 32 << 20;

/// Bytes of a safetensors header: the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Redirects in a row: a renamed repository is one, the file store a second; the rest is a loop.
pub const MAX_REDIRECTS: usize = 5;

/// Attempts without a byte of progress before a transfer is given up: with the backoff about eight seconds.
pub const MAX_ATTEMPTS: u32 = 6;

/// Pause after the first failure; doubled after each further one.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The longest pause that a server may ask for (`Retry-After`): hubs count requests in windows of some minutes.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A server on the internet takes a connection within this or not at all.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transfer without a byte for this long is cut and resumed.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a token: the hub's have 37.
pub const MAX_TOKEN_BYTES: u64 = 4096;

/// Bytes of an organisation's or a model's name: the hub's own limit.
pub const MAX_NAME_BYTES: usize = 96;

/// Bytes of a revision: as long as git's longest branch names on common file systems.
pub const MAX_REVISION_BYTES: usize = 255;

/// How often a lock that another program holds, or a cancellation, is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Bytes read at once.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
