//! What a coordinator remembers when it is started again: nodes and what they measured, where the layers lay, who came in by
//! which code, and who computed garbage.
//!
//! One file, `state.redb`, in a folder of its own. Values are JSON: few are written, and people can read them. Changes go to a
//! thread that writes all that have come in one transaction, so whoever makes one waits for no disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Builder, Database, DatabaseError, ReadableTable, StorageError, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use syn1_identity::Key;

use crate::door::{Issued, Quarantined};

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder or the file cannot be made, read or written.
    #[error("cannot use the state in {path}: {source}; `--state DIR` names another folder", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "{path} is in use by another coordinator: end that one, or give this one a folder of its own with `--state DIR`",
        path = path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is no state file, or a damaged one.
    #[error(
        "{path} is damaged or no state file ({why}): move it away, and nodes, join codes and quarantine begin anew; node keys \
         stay valid",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another version of this program wrote it.
    #[error(
        "{path} has version {found}, this program writes version {VERSION}: use the program that wrote it, or give this one \
         another folder with `--state DIR`",
        path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

/// A node that has been here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownNode {
    /// Its name.
    pub name: String,
    /// What it computes with.
    pub device: String,
    /// Bytes that it offered.
    pub memory_bytes: u64,
    /// Nanoseconds that a layer took, by its own measurement.
    pub layer_ns: u64,
    /// Bytes per second that it read.
    pub read_bytes_per_s: u64,
    /// When it joined last, in seconds since 1970.
    pub seen: u64,
}

/// Where the layers lay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// SHA-256 of the manifest, in hexadecimal: another model, or other weights, are placed anew.
    pub manifest: String,
    /// Nodes by their keys, with first layer and one behind the last, in the order of the layers.
    pub parts: Vec<(String, usize, usize)>,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Remembered {
    pub(crate) nodes: BTreeMap<String, KnownNode>,
    pub(crate) quarantined: Vec<(Key, Quarantined)>,
    /// Keys that came in by a code, and the code.
    pub(crate) members: Vec<(Key, String)>,
    pub(crate) codes: BTreeMap<String, Issued>,
    pub(crate) placement: Option<Placement>,
}

/// Something to remember, or to forget.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Node(Key, KnownNode),
    Quarantine(Key, Quarantined),
    Release(Key),
    Member(Key, String),
    Dismiss(Key),
    Code(String, Issued),
    Revoke(String),
    Placement(Placement),
}

/// Remembers. Dropping it writes what is still to be written.
pub(crate) struct Store {
    changes: Option<mpsc::Sender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the state in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Remembered), StoreError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io(folder))?;
        let path = folder.join(FILE);
        private(&path).map_err(io(&path))?;
        let database = open(&path)?;
        let remembered = read(&path, &database)?;
        let (changes, changed) = mpsc::channel();
        let write = move || write(&database, &changed);
        let thread = std::thread::Builder::new().name("syn1-state".into()).spawn(write).map_err(io(&path))?;
        Ok((Self { changes: Some(changes), thread: Some(thread) }, remembered))
    }

    /// Remembers a change, soon.
    pub(crate) fn put(&self, change: Change) {
        // The thread ends with this only.
        if let Some(changes) = &self.changes {
            let _ = changes.send(change);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own message.
            let _ = thread.join();
        }
    }
}

/// Makes the file, if it is not there, for its owner's eyes: it holds join codes.
fn private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn open(path: &Path) -> Result<Database, StoreError> {
    // What another program changed is found now, and not in the middle of something.
    let opened = Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).create(path);
    let path = path.to_owned();
    opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse { path },
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Version { path, found: format!("(of the file format) {version}") }
        }
        DatabaseError::Storage(StorageError::Io(source)) if !is_content(&source) => StoreError::Io { path, source },
        error => StoreError::Damaged { path, why: error.to_string() },
    })
}

/// Whether an I/O error tells of what is in the file.
fn is_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn read(path: &Path, database: &Database) -> Result<Remembered, StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let say = |error: redb::Error| damaged(error.to_string());
    let begin = database.begin_write().map_err(|error| say(error.into()))?;
    let mut remembered = Remembered::default();
    {
        let mut table = begin.open_table(RECORDS).map_err(|error| say(error.into()))?;
        let version = table.get("version").map_err(|error| say(error.into()))?.map(|found| found.value().to_owned());
        match version {
            None => {
                if table.iter().map_err(|error| say(error.into()))?.next().is_some() {
                    return Err(StoreError::Version { path: path.to_owned(), found: "unknown".into() });
                }
                table.insert("version", VERSION).map_err(|error| say(error.into()))?;
            }
            Some(found) if found != VERSION => return Err(StoreError::Version { path: path.to_owned(), found }),
            Some(_) => {}
        }
        for record in table.iter().map_err(|error| say(error.into()))? {
            let (name, value) = record.map_err(|error| say(error.into()))?;
            remembered.take(name.value(), value.value()).map_err(damaged)?;
        }
    }
    begin.commit().map_err(|error| say(error.into()))?;
    Ok(remembered)
}

impl Remembered {
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let (kind, rest) = name.split_once('/').unwrap_or((name, ""));
        let key = || rest.parse::<Key>().map_err(|error| format!("{name}: {error}"));
        match kind {
            "node" => drop(self.nodes.insert(rest.to_owned(), parse(name, value)?)),
            "quarantine" => self.quarantined.push((key()?, parse(name, value)?)),
            "member" => self.members.push((key()?, parse(name, value)?)),
            "code" => drop(self.codes.insert(rest.to_owned(), parse(name, value)?)),
            "placement" => self.placement = Some(parse(name, value)?),
            "version" => {}
            _ => return Err(format!("it has a record {name:?}")),
        }
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(name: &str, value: &str) -> Result<T, String> {
    serde_json::from_str(value).map_err(|error| format!("{name}: {error}"))
}

/// Writes what comes, all that has come in a while at once, until nobody can send any more.
fn write(database: &Database, changed: &mpsc::Receiver<Change>) {
    while let Ok(first) = changed.recv() {
        let mut changes = vec![first];
        while let Ok(change) = changed.recv_timeout(GATHER) {
            changes.push(change);
            if changes.len() >= MOST {
                break;
            }
        }
        if let Err(error) = commit(database, &changes) {
            tracing::error!("{} changes of the state are not written: {error}", changes.len());
        }
    }
}

fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let begin = database.begin_write()?;
    {
        let mut table = begin.open_table(RECORDS)?;
        for change in changes {
            let (name, value) = change.record();
            match value {
                Some(value) => drop(table.insert(&*name, &*value)?),
                None => drop(table.remove(&*name)?),
            }
        }
    }
    begin.commit()?;
    Ok(())
}

impl Change {
    /// Name and value; without one it is removed.
    fn record(&self) -> (String, Option<String>) {
        fn json(value: &impl Serialize) -> Option<String> {
            serde_json::to_string(value).ok()
        }
        match self {
            Self::Node(key, node) => (format!("node/{key}"), json(node)),
            Self::Quarantine(key, found) => (format!("quarantine/{key}"), json(found)),
            Self::Release(key) => (format!("quarantine/{key}"), None),
            Self::Member(key, code) => (format!("member/{key}"), json(code)),
            Self::Dismiss(key) => (format!("member/{key}"), None),
            Self::Code(code, issued) => (format!("code/{code}"), json(issued)),
            Self::Revoke(code) => (format!("code/{code}"), None),
            Self::Placement(placement) => ("placement".into(), json(placement)),
        }
    }
}

const FILE: &str = "state.redb";
const RECORDS: TableDefinition<'_, &str, &str> = TableDefinition::new("syn1");
const VERSION: &str = "1";
/// Changes that come within this time of each other are written at once: a room of laptops joins in one.
const GATHER: Duration = Duration::from_millis(50);
/// And so many at most, so that a steady stream is written too.
const MOST: usize = 1024;
/// The whole state of a thousand nodes is a few hundred KiB.
const CACHE: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::Evidence;

    fn node(seen: u64) -> KnownNode {
        KnownNode {
            name: "laptop".into(),
            device: "cpu".into(),
            memory_bytes: 1 << 30,
            layer_ns: 70_000,
            read_bytes_per_s: 1 << 33,
            seen,
        }
    }

    #[test]
    fn what_was_changed_is_there_when_it_is_opened_again_and_what_was_taken_back_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("deep/state");
        let evidence = Evidence { layers: (4, 8), request: 7, position: 31, error: 0.5, allowed: 0.02 };
        let found = Quarantined { name: "laptop".into(), at: 1, evidence };
        let placement = Placement { manifest: "ab".into(), parts: vec![("k".into(), 0, 4)] };
        let (store, remembered) = Store::open(&folder).unwrap();
        assert_eq!(remembered, Remembered::default());
        let (one, other) = (Key([1; 32]), Key([2; 32]));
        for change in [
            Change::Node(one, node(1)),
            Change::Node(one, node(2)),
            Change::Quarantine(one, found.clone()),
            Change::Quarantine(other, found.clone()),
            Change::Release(other),
            Change::Member(one, "ABCDEFGH".into()),
            Change::Member(other, "ABCDEFGH".into()),
            Change::Dismiss(other),
            Change::Code("ABCDEFGH".into(), Issued { until: 9, shown: true }),
            Change::Code("QRSTUVWX".into(), Issued { until: 9, shown: false }),
            Change::Revoke("QRSTUVWX".into()),
            Change::Placement(placement.clone()),
        ] {
            store.put(change);
        }
        drop(store);
        let (_store, remembered) = Store::open(&folder).unwrap();
        assert_eq!(remembered.nodes, BTreeMap::from([(one.to_string(), node(2))]));
        assert_eq!((remembered.quarantined, remembered.members), (vec![(one, found)], vec![(one, "ABCDEFGH".into())]));
        assert_eq!(remembered.codes, BTreeMap::from([("ABCDEFGH".into(), Issued { until: 9, shown: true })]));
        assert_eq!(remembered.placement, Some(placement));
    }

    #[test]
    fn a_second_coordinator_is_told_that_the_first_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        let Err(error) = Store::open(folder.path()) else { panic!("opened twice") };
        assert!(matches!(error, StoreError::InUse { .. }) && error.to_string().contains("--state"), "{error}");
    }

    #[test]
    fn a_damaged_file_and_one_of_another_program_or_version_are_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let refused = || match Store::open(folder.path()) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        };
        fs::write(&path, "this is no state file, but long enough to be one ".repeat(1000)).unwrap();
        assert!(refused().contains("move it away"), "{}", refused());
        fs::remove_file(&path).unwrap();
        drop(Store::open(folder.path()).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() / 2);
        fs::write(&path, &bytes).unwrap();
        assert!(refused().contains("move it away"), "{}", refused());
        fs::remove_file(&path).unwrap();
        let put = |name: &str, value: &str| {
            let database = Database::create(&path).unwrap();
            let begin = database.begin_write().unwrap();
            begin.open_table(RECORDS).unwrap().insert(name, value).unwrap();
            begin.commit().unwrap();
        };
        put("version", "2");
        assert!(refused().contains("has version 2") && refused().contains("--state"), "{}", refused());
        put("version", VERSION);
        put("node/xyz", "{}");
        assert!(refused().contains("node/xyz"), "{}", refused());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_the_codes() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}
