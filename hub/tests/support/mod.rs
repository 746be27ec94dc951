//! A hub on this machine: two servers, one with the API and the small files, one that stores the large files and is
//! another host to the client. It does what a script says, cut connections and lies included.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test program uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha1::Digest as _;
use syn1_model::Digest;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const TOKEN: &str = "hf_of_a_reader";

/// A running hub with one model, `org/small`.
#[derive(Clone)]
pub struct Hub(Arc<State>);

struct State {
    hub: SocketAddr,
    store: SocketAddr,
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    files: BTreeMap<String, Vec<u8>>,
    /// Served in place of `files`, whose hashes are promised.
    served: BTreeMap<String, Vec<u8>>,
    gated: bool,
    faults: VecDeque<(String, Fault)>,
    seen: Vec<Seen>,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at_store: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// What goes wrong with one request for the bytes of a file.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Only a status.
    Status(u16),
    /// Too many requests: again after so many seconds.
    Later(u64),
    /// The whole file, whatever was asked for.
    Whole,
    /// The right range of a file with one other byte.
    Wrong,
    /// The header says another length of the whole file.
    Length(u64),
    /// The range begins a byte too late.
    Late,
    /// A redirect to itself.
    Loop,
    /// Another hash is named in front of the redirect.
    OtherHash,
}

impl Hub {
    /// A hub whose model has the files of a folder of this repository, those that `extra` names included.
    pub fn serve(folder: &str) -> Self {
        let folder = repository(folder);
        let read = |name: &str| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?));
        let names = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors", "golden.json"];
        Self::with(names.into_iter().filter_map(read).collect())
    }

    /// A hub whose model has these files.
    pub fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, store) = (bind(), bind());
        let script = Mutex::new(Script { files, ..Script::default() });
        let (hub_address, store_address) = (hub.local_addr().unwrap(), store.local_addr().unwrap());
        let this = Self(Arc::new(State { hub: hub_address, store: store_address, script }));
        for (listener, at_store) in [(hub, false), (store, true)] {
            let this = this.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (this, stream) = (this.clone(), stream.unwrap());
                    // A client that leaves in mid-answer is no failure of the test.
                    std::thread::spawn(move || drop(this.answer(&stream, at_store)));
                }
            });
        }
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.hub)
    }

    /// The files as a plain web server has them.
    pub fn web(&self) -> String {
        format!("http://{}/plain/", self.0.hub)
    }

    pub fn gate(&self) -> &Self {
        self.script().gated = true;
        self
    }

    /// The next requests for the bytes of `file` fail in these ways, one each.
    pub fn fail(&self, file: &str, faults: &[Fault]) -> &Self {
        self.script().faults.extend(faults.iter().map(|fault| (file.to_owned(), *fault)));
        self
    }

    /// From now on these bytes are served, but the hash of the old ones is promised.
    pub fn replace(&self, file: &str, bytes: Vec<u8>) -> &Self {
        self.script().served.insert(file.to_owned(), bytes);
        self
    }

    pub fn remove(&self, file: &str) -> &Self {
        self.script().files.remove(file).unwrap();
        self
    }

    pub fn bytes(&self, file: &str) -> Vec<u8> {
        self.script().files[file].clone()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.script().seen.clone()
    }

    /// The ranges of the requests for the bytes of `file`.
    pub fn ranges(&self, file: &str) -> Vec<String> {
        let path = if is_large(file) { stored(&self.bytes(file)) } else { format!("/resolve/{COMMIT}/{file}") };
        let seen = self.seen().into_iter().filter(|seen| seen.path.contains(&path));
        seen.map(|seen| seen.range.unwrap_or_else(|| "all".into())).collect()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.script.lock().unwrap()
    }

    fn answer(&self, stream: &TcpStream, at_store: bool) -> std::io::Result<()> {
        let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let lines: Vec<String> = lines.collect();
        let Some(request) = lines.first() else { return Ok(()) };
        let header = |name: &str| {
            let find = |line: &String| line.split_once(": ").map(|(key, value)| (key.to_lowercase(), value.to_owned()));
            lines.iter().filter_map(find).find(|(key, _)| key == name).map(|(_, value)| value)
        };
        let mut words = request.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let range = header("range").map(|range| range.strip_prefix("bytes=").unwrap().to_owned());
        let seen = Seen { at_store, method, path, range, authorization: header("authorization") };
        let reply = self.reply(&seen);
        self.script().seen.push(seen);
        reply.write(stream)
    }

    fn reply(&self, seen: &Seen) -> Reply {
        let path = seen.path.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (seen.at_store, parts.as_slice()) {
            (true, ["lfs", sha256]) => {
                let file = self
                    .script()
                    .files
                    .iter()
                    .find(|(_, bytes)| Digest::of(bytes).to_string() == *sha256)
                    .map(|(name, _)| name.clone());
                file.map_or(Reply::status(403), |file| self.file(seen, &file, &[]))
            }
            (false, ["api", "models", "org", "old", ..]) | (false, ["org", "old", ..]) => {
                Reply::redirect(307, seen.path.replacen("/old/", "/small/", 1))
            }
            (false, ["api", "models", "org", "small", "revision", "main" | "v1" | COMMIT])
                // Without this the list says neither lengths nor hashes.
                if seen.path.ends_with("?blobs=true") =>
            {
                match self.take_fault("api") {
                    Some(Fault::Status(status)) => Reply::status(status),
                    Some(Fault::Length(bytes)) => {
                        let (head, body) = (vec![format!("Content-Length: {bytes}")], vec![b' '; bytes as usize]);
                        Reply { status: 200, head, body, cut: None }
                    }
                    _ => self.listing(),
                }
            }
            (false, ["api", "models", "org", "small", ..]) => Reply::status(404),
            // As the hub does: whoever may not know whether a model exists is not told.
            (false, ["api", "models", ..]) => Reply::status(if seen.authorization.is_some() { 404 } else { 401 }),
            (false, ["org", "small", "resolve", "main" | COMMIT, file]) => self.resolve(seen, file),
            (false, ["plain", file]) if self.script().files.contains_key(*file) => {
                let etag = Digest::of(&self.served(file)).to_string();
                self.file(seen, file, &[("ETag", format!("\"{etag}\""))])
            }
            _ => Reply::status(404),
        }
    }

    fn resolve(&self, seen: &Seen, file: &str) -> Reply {
        let gated = self.script().gated;
        match &seen.authorization {
            None if gated => return Reply::status(401),
            Some(token) if gated && *token != format!("Bearer {TOKEN}") => return Reply::status(403),
            _ => {}
        }
        let Some(bytes) = self.script().files.get(file).cloned() else { return Reply::status(404) };
        if !is_large(file) {
            let etag = format!("\"{}\"", git_id(&bytes));
            return self.file(seen, file, &[("ETag", etag), ("X-Repo-Commit", COMMIT.into())]);
        }
        let mut etag = Digest::of(&bytes).to_string();
        let fault = self.take_fault("resolve");
        if let Some(Fault::Status(status)) = fault {
            return Reply::status(status);
        }
        if let Some(Fault::Loop) = fault {
            return Reply::redirect(302, seen.path.clone());
        }
        if let Some(Fault::OtherHash) = fault {
            etag = Digest::of(b"other").to_string();
        }
        let mut reply = Reply::redirect(302, format!("http://{}{}?signature=1", self.0.store, stored(&bytes)));
        reply.head.push(format!("X-Linked-Etag: \"{etag}\""));
        reply.head.push(format!("X-Linked-Size: {}", bytes.len()));
        reply.head.push(format!("X-Repo-Commit: {COMMIT}"));
        reply
    }

    fn served(&self, file: &str) -> Vec<u8> {
        let script = self.script();
        script.served.get(file).unwrap_or(&script.files[file]).clone()
    }

    /// A file, or the range of it that is asked for.
    fn file(&self, seen: &Seen, file: &str, headers: &[(&str, String)]) -> Reply {
        let mut bytes = self.served(file);
        let fault = if seen.method == "GET" { self.take_fault(file) } else { None };
        let mut size = bytes.len() as u64;
        let mut cut = None;
        let mut asked = seen.range.as_deref();
        let mut late = 0;
        match fault {
            Some(Fault::Status(status)) => return Reply::status(status),
            Some(Fault::Later(seconds)) => {
                let head = vec!["Content-Length: 0".to_owned(), format!("Retry-After: {seconds}")];
                return Reply { head, ..Reply::status(429) };
            }
            Some(Fault::Loop) => return Reply::redirect(302, seen.path.clone()),
            Some(Fault::Cut(bytes)) => cut = Some(bytes),
            Some(Fault::Whole) => asked = None,
            Some(Fault::Wrong) => *bytes.last_mut().unwrap() ^= 1,
            Some(Fault::Length(lie)) => size = lie,
            Some(Fault::Late) => late = 1,
            Some(Fault::OtherHash) | None => {}
        }
        let mut reply = match asked {
            None => Reply { status: 200, head: vec![format!("Content-Length: {size}")], body: bytes, cut },
            Some(range) => {
                let (start, end) = range.split_once('-').unwrap();
                let start = start.parse::<usize>().unwrap() + late;
                let end = end.parse().map_or(bytes.len(), |end: usize| end + 1).min(bytes.len());
                if start >= bytes.len() {
                    return Reply::status(416);
                }
                let body = bytes[start..end].to_vec();
                let head = vec![
                    format!("Content-Length: {}", body.len()),
                    format!("Content-Range: bytes {start}-{}/{size}", end - 1),
                ];
                Reply { status: 206, head, body, cut }
            }
        };
        reply.head.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        if seen.method == "HEAD" {
            reply.body.clear();
        }
        reply
    }

    fn listing(&self) -> Reply {
        let script = self.script();
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let mut entry = serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": git_id(bytes)});
            if is_large(name) {
                entry["lfs"] =
                    serde_json::json!({"sha256": Digest::of(bytes), "size": bytes.len(), "pointerSize": 135});
                // Of the pointer, not of the file.
                entry["blobId"] = git_id(b"pointer").into();
            }
            entry
        };
        let siblings: Vec<_> = script.files.iter().map(sibling).collect();
        let text = serde_json::json!({"id": "org/small", "sha": COMMIT, "private": false, "siblings": siblings});
        let body = text.to_string().into_bytes();
        Reply { status: 200, head: vec![format!("Content-Length: {}", body.len())], body, cut: None }
    }

    fn take_fault(&self, file: &str) -> Option<Fault> {
        let mut script = self.script();
        let place = script.faults.iter().position(|(name, _)| name == file)?;
        script.faults.remove(place).map(|(_, fault)| fault)
    }
}

struct Reply {
    status: u16,
    head: Vec<String>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Reply {
    fn status(status: u16) -> Self {
        let head = vec!["Content-Length: 0".to_owned(), "Retry-After: 0".to_owned()];
        Self { status, head, body: Vec::new(), cut: None }
    }

    fn redirect(status: u16, to: String) -> Self {
        Self { head: vec![format!("Location: {to}"), "Content-Length: 0".into()], ..Self::status(status) }
    }

    fn write(self, mut stream: &TcpStream) -> std::io::Result<()> {
        let head = self.head.join("\r\n");
        write!(stream, "HTTP/1.1 {} Said\r\n{head}\r\nConnection: close\r\n\r\n", self.status)?;
        stream.write_all(&self.body[..self.cut.unwrap_or(self.body.len()).min(self.body.len())])
    }
}

/// A folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// `git hash-object`.
pub fn git_id(bytes: &[u8]) -> String {
    let digest = sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the hub keeps a file outside of git.
fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors")
}

fn stored(bytes: &[u8]) -> String {
    format!("/lfs/{}", Digest::of(bytes))
}
