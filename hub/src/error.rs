//! Why a model could not be had.

use std::path::PathBuf;

use syn1_model::SourceError;

use crate::limits::MAX_REDIRECTS;
use crate::repo::Repo;

/// Why a model could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A variable with a value that cannot be used. The value is not said: it may be a secret.
    #[error("{variable} cannot be used: {reason}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// No environment variable says where files may lie.
    #[error("no place for models: set HF_HOME to a folder that may be written")]
    NoHome,
    /// The user forbids the network.
    #[error("{what} cannot be fetched, because HF_HUB_OFFLINE forbids the network: unset it")]
    Offline {
        /// What was asked for.
        what: String,
    },
    /// An address that cannot be asked.
    #[error("'{url}' is no address to fetch from: {reason}")]
    Address {
        /// The address.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The hub does not let the reader in.
    #[error("{what}: the hub answered HTTP {status}: {remedy}")]
    Refused {
        /// The repository, or one of its files.
        what: String,
        /// The status code.
        status: u16,
        /// What to do.
        remedy: String,
    },
    /// There is no such thing.
    #[error("there is no {what} ({url} answered HTTP 404): {remedy}")]
    NotFound {
        /// The repository and its revision, or a file.
        what: String,
        /// Where it was asked for.
        url: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The server answered, but not with what was asked for.
    #[error("{what}: {url} answered HTTP {status}; is that the address of a hub?")]
    Status {
        /// The repository, or a file.
        what: String,
        /// Where it was asked for.
        url: String,
        /// The status code.
        status: u16,
    },
    /// Redirects without an end.
    #[error("{what}: {url} redirects more than {MAX_REDIRECTS} times; is that the address of a hub?")]
    Redirects {
        /// The repository, or a file.
        what: String,
        /// Where it was asked for.
        url: String,
    },
    /// A redirect that is not followed.
    #[error("{what}: {url} redirects to '{target}', which is not followed: {reason}")]
    Redirect {
        /// The repository, or a file.
        what: String,
        /// Where it was asked for.
        url: String,
        /// Where it leads.
        target: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// The connection failed again and again without a byte of progress.
    #[error("{what}: {url} failed {attempts} times in a row, last: {cause}; what came is kept, run the command again")]
    Cut {
        /// The repository, or a file.
        what: String,
        /// Where it was asked for.
        url: String,
        /// Attempts without progress.
        attempts: u32,
        /// The last failure.
        cause: String,
    },
    /// The server cannot be trusted to be who it says.
    #[error("{what}: no secure connection to {url}: {cause}")]
    Tls {
        /// The repository, or a file.
        what: String,
        /// Where it was asked for.
        url: String,
        /// What is wrong.
        cause: String,
    },
    /// A file list that is none.
    #[error("{url} is not the file list of a model: {reason}")]
    Listing {
        /// Where it came from.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A model without a file that is needed.
    #[error("{whose} has no {file}: {remedy}")]
    Lacks {
        /// The repository, address or folder.
        whose: String,
        /// The file.
        file: String,
        /// What to do.
        remedy: String,
    },
    /// The bytes are not those that were promised.
    #[error("{file} from {url} has the {kind} {got}, the hub's list says {want}: thrown away; try again later")]
    Hash {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// Which hash: SHA-256 or git id.
        kind: &'static str,
        /// The hash of what came.
        got: String,
        /// The hash that was promised.
        want: String,
    },
    /// A file of another length than promised.
    #[error("{file}: {url} says that it has {got} bytes, {want} are expected; is it being replaced? Try again later")]
    Size {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// What the server says.
        got: u64,
        /// What was promised.
        want: u64,
    },
    /// A file that became another one while it was fetched.
    #[error("{file}: {url} is now '{now}', it was '{was}': it was replaced meanwhile; run the command again")]
    Changed {
        /// The file.
        file: String,
        /// Where it came from.
        url: String,
        /// Its mark before.
        was: String,
        /// Its mark now.
        now: String,
    },
    /// A server that sends only whole files.
    #[error("{file}: {url} does not send parts of files (HTTP ranges): fetch the whole model, without --layers")]
    NoRanges {
        /// The file.
        file: String,
        /// Where it was asked for.
        url: String,
    },
    /// An index or a safetensors header that cannot be used.
    #[error("{file} of {whose} cannot be used: {reason}")]
    Content {
        /// The file.
        file: String,
        /// The repository, address or folder.
        whose: String,
        /// What is wrong.
        reason: String,
    },
    /// The model's configuration, or what was fetched of it.
    #[error(transparent)]
    Model(#[from] SourceError),
    /// A file that is there already and is another one.
    #[error("{} is there already and is not the file that would be fetched: name another folder with --out", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// A file that another program is writing.
    #[error("{} is being written by another syn1 pull: wait for it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A model that is not in the hub's cache, or not all of it.
    #[error("{repo} is not in the hub's cache {} ({reason}): fetch it with `syn1 pull {repo}`", cache.display())]
    NotCached {
        /// The repository.
        repo: Repo,
        /// The cache.
        cache: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}: {error}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// [`Watch::cancelled`](crate::Watch::cancelled) was set.
    #[error("the transfer was cancelled; what came is kept")]
    Cancelled,
}

/// A closure that names what failed.
pub(crate) fn failed(verb: &'static str, path: &std::path::Path) -> impl Fn(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |error| HubError::File { verb, path: path.clone(), error }
}
