//! What the browser keeps for this page (the origin private file system): pieces by their SHA-256, and the node's key.
//!
//! A piece's file is complete when it is as long as the piece; a shorter one is a transfer that was cut, and the next one
//! goes on behind it. Hashes are checked whenever a piece is used, so no file needs a second name. A browser opens a file
//! for one tab at a time, and another tab that wants the same piece waits for it, unless that one is asleep.

use js_sys::{AsyncIterator, IteratorNext, Uint8Array};
use serde_json::{Value, json};
use syn1_model::Digest;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{
    FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions, FileSystemGetFileOptions,
    FileSystemReadWriteOptions, FileSystemSyncAccessHandle, StorageEstimate, StorageManager,
};

use crate::js::{self, Refused, promised, property};
use crate::timer::sleep;

/// The page's folder with pieces.
pub(crate) struct Cache {
    pieces: FileSystemDirectoryHandle,
    root: FileSystemDirectoryHandle,
}

/// A file that no other tab has.
pub(crate) struct File(FileSystemSyncAccessHandle);

/// How much the browser lets this page keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) quota_bytes: u64,
    pub(crate) used_bytes: u64,
    /// The browser will not clear it by itself.
    pub(crate) persistent: bool,
}

impl Cache {
    /// Opens it.
    ///
    /// # Errors
    /// A browser in private mode may have none.
    pub(crate) async fn open() -> Result<Self, Refused> {
        let storage = storage().ok_or_else(|| JsValue::from("this browser has no private files"))?;
        let root: FileSystemDirectoryHandle = promised(storage.get_directory()).await?;
        let options = FileSystemGetDirectoryOptions::new();
        options.set_create(true);
        let pieces = promised(root.get_directory_handle_with_options("pieces", &options)).await?;
        Ok(Self { pieces, root })
    }

    /// The 32 secret bytes of this page's key, made from `fresh` if there are none.
    ///
    /// # Errors
    /// What the browser says.
    pub(crate) async fn secret(&self, fresh: [u8; 32]) -> Result<[u8; 32], Refused> {
        let file = open(&self.root, "node.key").await?;
        let mut secret = fresh;
        if file.len()? == 32 {
            file.read(0, &mut secret)?;
        } else {
            file.cut()?;
            file.write(0, &Uint8Array::from(&fresh[..]))?;
            file.flush()?;
        }
        Ok(secret)
    }

    /// The file of a piece, made if it is not there. Waits while another tab fills it.
    ///
    /// # Errors
    /// What the browser says; another tab has it and does nothing.
    pub(crate) async fn piece(&self, sha256: Digest) -> Result<File, Refused> {
        open(&self.pieces, &sha256.to_string()).await
    }

    /// Bytes of a piece that are here.
    pub(crate) async fn kept_bytes(&self, sha256: Digest) -> u64 {
        let size = async { size(&promised(self.pieces.get_file_handle(&sha256.to_string())).await?).await };
        // What is not there is not kept.
        size.await.unwrap_or(0)
    }

    /// Forgets the pieces that are not named in `keep`; gives their number. Those that another tab has open stay.
    ///
    /// # Errors
    /// What the browser says when it is asked for the list.
    pub(crate) async fn evict(&self, keep: &[Digest]) -> Result<usize, Refused> {
        let (names, mut gone): (AsyncIterator, _) = (self.pieces.keys(), 0);
        let mut found = Vec::new();
        loop {
            let next: IteratorNext = promised(names.next_iterator()?.unchecked_into()).await?;
            if next.done() {
                break;
            }
            found.extend(next.value().as_string());
        }
        let kept: Vec<String> = keep.iter().map(Digest::to_string).collect();
        for name in found.iter().filter(|name| !kept.contains(name)) {
            let removed = promised::<JsValue>(self.pieces.remove_entry(name)).await;
            gone += usize::from(removed.is_ok());
        }
        Ok(gone)
    }
}

/// Opens a file for this tab alone, made if it is not there. Another tab that has it may be asleep, and then has it for as long.
async fn open(folder: &FileSystemDirectoryHandle, name: &str) -> Result<File, Refused> {
    let options = FileSystemGetFileOptions::new();
    options.set_create(true);
    let handle: FileSystemFileHandle = promised(folder.get_file_handle_with_options(name, &options)).await?;
    let (mut bytes, mut idle) = (0, 0);
    while idle < LOCK_POLLS {
        match promised(handle.create_sync_access_handle()).await {
            Ok(file) => return Ok(File(file)),
            Err(refused) if refused.name == "NoModificationAllowedError" => sleep(LOCK_POLL_MS).await,
            Err(refused) => return Err(refused),
        }
        let now = size(&handle).await.unwrap_or(0);
        (bytes, idle) = (now, if now == bytes { idle + 1 } else { 0 });
    }
    Err(JsValue::from("another tab has them open and does nothing").into())
}

/// Bytes of a file, whoever has it open.
async fn size(handle: &FileSystemFileHandle) -> Result<u64, Refused> {
    let file: JsValue = promised(handle.get_file()).await?;
    Ok(property(&file, "size").and_then(|size| size.as_f64()).unwrap_or(0.0) as u64)
}

impl File {
    pub(crate) fn len(&self) -> Result<u64, Refused> {
        Ok(self.0.get_size()? as u64)
    }

    /// Fills `out` from byte `from` on.
    pub(crate) fn read(&self, from: u64, out: &mut [u8]) -> Result<(), Refused> {
        let mut done = 0;
        while done < out.len() {
            let options = FileSystemReadWriteOptions::new();
            options.set_at((from + done as u64) as f64);
            let read = self.0.read_with_u8_array_and_options(&mut out[done..], &options)? as usize;
            if read == 0 {
                return Err(JsValue::from(format!("the file ended after {done} of {} bytes", out.len())).into());
            }
            done += read;
        }
        Ok(())
    }

    /// Writes bytes at `at`; all of them, or it is an error.
    pub(crate) fn write(&self, at: u64, bytes: &Uint8Array) -> Result<(), Refused> {
        let options = FileSystemReadWriteOptions::new();
        options.set_at(at as f64);
        let written = self.0.write_with_js_u8_array_and_options(bytes, &options)?;
        if written as u32 != bytes.length() {
            return Err(Refused { name: QUOTA.into(), what: "the browser took only a part".into() });
        }
        Ok(())
    }

    /// Empties the file.
    pub(crate) fn cut(&self) -> Result<(), Refused> {
        Ok(self.0.truncate_with_u32(0)?)
    }

    /// Has what was written outlive this tab.
    pub(crate) fn flush(&self) -> Result<(), Refused> {
        Ok(self.0.flush()?)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Room {
    /// Bytes that may be added.
    pub(crate) fn left_bytes(self) -> u64 {
        self.quota_bytes.saturating_sub(self.used_bytes)
    }

    /// Asks the browser.
    pub(crate) async fn ask() -> Self {
        let asked = async {
            let storage = storage().ok_or(JsValue::NULL)?;
            let estimate: StorageEstimate = promised(storage.estimate()?).await?;
            let persisted: JsValue = promised(storage.persisted()?).await?;
            let bytes = |name| property(&estimate, name).and_then(|bytes| bytes.as_f64()).unwrap_or(0.0) as u64;
            let (quota_bytes, used_bytes) = (bytes("quota"), bytes("usage"));
            Ok::<_, Refused>(Self { quota_bytes, used_bytes, persistent: persisted.is_truthy() })
        };
        // A browser that does not say has no room as far as anybody knows.
        asked.await.unwrap_or_default()
    }

    /// For pages: what is kept and what is missing of a shard.
    pub(crate) fn event(self, kept_bytes: u64, missing_bytes: u64, notice: Option<&str>) -> Value {
        json!({
            "event": "cache",
            "kept_bytes": kept_bytes,
            "missing_bytes": missing_bytes,
            "quota_bytes": self.quota_bytes,
            "used_bytes": self.used_bytes,
            "persistent": self.persistent,
            "notice": notice,
        })
    }
}

/// The name of the exception where there is no room.
pub(crate) const QUOTA: &str = "QuotaExceededError";

fn storage() -> Option<StorageManager> {
    let navigator = js::scope().navigator();
    property(&navigator, "storage").map(JsCast::unchecked_into)
}

/// How often a file that another tab has is asked for.
const LOCK_POLL_MS: u64 = 50;
/// How often in a row it is asked for in vain while it does not grow: for ten seconds, in which another tab has read and hashed
/// a piece of some hundred megabytes.
const LOCK_POLLS: u32 = 200;
