//! Somebody who pulls, and what they were told.
#![allow(dead_code, unreachable_pub, reason = "every test program uses its own part")]

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use syn1_hub::{Endpoint, HubCache, HubError, Progress, Pulled, Repo, Watch};

use super::support::Hub;

/// Somebody with a cache of their own.
pub struct Reader {
    pub dir: tempfile::TempDir,
    pub notices: RefCell<Vec<String>>,
    /// Done and total bytes, as they were last told.
    pub last: Cell<(u64, u64)>,
    /// Leaves when so many bytes are there.
    pub leave_at: Cell<u64>,
    cancelled: AtomicBool,
}

impl Reader {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (notices, last) = Default::default();
        Self { dir, notices, last, leave_at: Cell::new(u64::MAX), cancelled: AtomicBool::new(false) }
    }

    pub fn endpoint(&self, hub: &Hub, token: Option<&str>) -> Endpoint {
        Endpoint::new(&hub.url(), token, HubCache::new(self.dir.path().join("hub"))).unwrap()
    }

    pub fn watch<T>(&self, work: impl FnOnce(&Watch<'_>) -> T) -> T {
        self.cancelled.store(false, Ordering::Relaxed);
        let progress = |at: Progress<'_>| {
            assert!(at.done_bytes <= at.total_bytes, "{at:?}");
            self.last.set((at.done_bytes, at.total_bytes));
            self.cancelled.store(at.done_bytes >= self.leave_at.get(), Ordering::Relaxed);
        };
        let notice = |text| self.notices.borrow_mut().push(text);
        work(&Watch { progress: &progress, notice: &notice, cancelled: &self.cancelled })
    }

    pub fn pull(&self, hub: &Hub) -> Result<Pulled, HubError> {
        self.pull_as(hub, "org/small", None)
    }

    pub fn pull_as(&self, hub: &Hub, repo: &str, token: Option<&str>) -> Result<Pulled, HubError> {
        let repo: Repo = repo.parse().unwrap();
        self.watch(|watch| syn1_hub::to_cache(&self.endpoint(hub, token), &repo, watch))
    }

    /// The files in a folder, without those that are on their way.
    pub fn files(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}
