//! Against a server that does what its script says.

use std::cell::{Cell, RefCell};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// How a scripted server answers one request.
#[derive(Clone, Copy)]
enum Answer {
    /// The range that was asked for, but the connection ends after so many bytes of it.
    Cut(usize),
    /// The range that was asked for.
    Range,
    /// Everything, whatever was asked for.
    All,
    /// Only a status.
    Status(u16),
}

/// Serves `body`, one answer a request; gives the port, and the `range` headers that came.
fn serve(body: &'static [u8], answers: Vec<Answer>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ranges: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = ranges.clone();
    std::thread::spawn(move || {
        for (answer, stream) in answers.into_iter().zip(listener.incoming()) {
            let stream = stream.unwrap();
            seen.lock().unwrap().push(range(&stream));
            reply(stream, body, seen.lock().unwrap().last().unwrap(), answer);
        }
    });
    (port, ranges)
}

fn range(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map(|line| line.unwrap()).take_while(|line| !line.is_empty());
    let headers: Vec<String> = lines.collect();
    let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes="));
    range.unwrap_or("none").to_owned()
}

fn reply(mut stream: TcpStream, body: &[u8], range: &str, answer: Answer) {
    let start = match (answer, range.strip_suffix('-')) {
        (Answer::Cut(_) | Answer::Range, Some(start)) => start.parse().unwrap(),
        _ => 0,
    };
    let status = match answer {
        Answer::Status(status) => format!("{status} No"),
        _ if start > 0 => "206 Partial Content".to_owned(),
        _ => "200 OK".to_owned(),
    };
    let rest = if let Answer::Status(_) = answer { &[] } else { &body[start..] };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{}/{}\r\nconnection: close\r\n\r\n",
        rest.len(),
        body.len().saturating_sub(1),
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let sent = if let Answer::Cut(bytes) = answer { &rest[..bytes] } else { rest };
    stream.write_all(sent).unwrap();
}

struct Fixture {
    _dir: tempfile::TempDir,
    cache: Cache,
    piece: ManifestPiece,
    progress: RefCell<Vec<u64>>,
    notices: RefCell<Vec<String>>,
    cancelled: AtomicBool,
}

impl Fixture {
    fn new(promised: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), u64::MAX).unwrap();
        let (sha256, bytes) = (Digest::of(promised), promised.len() as u64);
        let piece = ManifestPiece { name: "block.3".into(), sha256, bytes, sqnr_db: None };
        let (progress, notices) = Default::default();
        Self { _dir: dir, cache, piece, progress, notices, cancelled: AtomicBool::new(false) }
    }

    fn fetch(&self, port: u16) -> Result<Fetched, FetchError> {
        let progress = |bytes| self.progress.borrow_mut().push(bytes);
        let notice = |text| self.notices.borrow_mut().push(text);
        let waited = Cell::new(false);
        let watch = Watch { progress: &progress, notice: &notice, waited, cancelled: &self.cancelled };
        Fetcher::plain(&format!("127.0.0.1:{port}")).piece(&self.cache, &self.piece, &watch)
    }
}

const BODY: &[u8] = b"the weights of a block, all of them";

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let fixture = Fixture::new(BODY);
    let (port, ranges) = serve(BODY, vec![Answer::Cut(10), Answer::Cut(7), Answer::Range]);
    let fetched = fixture.fetch(port).unwrap();
    assert_eq!(fetched.bytes.as_slice(), BODY);
    assert_eq!(fetched.network_bytes, BODY.len() as u64);
    assert_eq!(*ranges.lock().unwrap(), ["none", "10-", "17-"]);
    assert_eq!(fixture.progress.take().last(), Some(&(BODY.len() as u64)));
}

#[test]
fn a_server_that_does_not_resume_is_read_from_the_start() {
    let fixture = Fixture::new(BODY);
    let (port, _) = serve(BODY, vec![Answer::Cut(10), Answer::All]);
    assert_eq!(fixture.fetch(port).unwrap().bytes.as_slice(), BODY);
}

#[test]
fn a_refused_range_and_an_overloaded_server_are_asked_again() {
    let fixture = Fixture::new(BODY);
    let (port, _) = serve(BODY, vec![Answer::Status(503), Answer::Cut(10), Answer::Status(416), Answer::All]);
    assert_eq!(fixture.fetch(port).unwrap().bytes.as_slice(), BODY);
}

#[test]
fn what_is_in_the_cache_is_not_fetched_again() {
    let fixture = Fixture::new(BODY);
    let (port, ranges) = serve(BODY, vec![Answer::Range]);
    fixture.fetch(port).unwrap();
    let again = fixture.fetch(port).unwrap();
    assert_eq!((again.bytes.as_slice(), again.network_bytes), (BODY, 0));
    assert_eq!(ranges.lock().unwrap().len(), 1);
}

#[test]
fn a_cached_piece_that_rotted_is_fetched_again_and_people_are_told() {
    let fixture = Fixture::new(BODY);
    let (port, _) = serve(BODY, vec![Answer::Range, Answer::Range]);
    fixture.fetch(port).unwrap();
    let path = fixture._dir.path().join("pieces").join(fixture.piece.file_name());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let again = fixture.fetch(port).unwrap();
    assert_eq!((again.bytes.as_slice(), again.network_bytes), (BODY, BODY.len() as u64));
    assert!(fixture.notices.take()[0].contains("piece block.3 in the cache"));
}

#[test]
fn wrong_bytes_name_the_piece_the_address_and_both_hashes() {
    let fixture = Fixture::new(b"the weights of a block, all of THEM");
    let (port, _) = serve(BODY, vec![Answer::Range]);
    let text = fixture.fetch(port).unwrap_err().to_string();
    let (got, want) = (Digest::of(BODY), fixture.piece.sha256);
    let begin = format!(
        "piece block.3 from http://127.0.0.1:{port}/shards/{want} has SHA-256 {got}, the manifest says {want}: "
    );
    assert!(text.starts_with(&begin), "{text}");
    assert!(matches!(fixture.cache.load(want, fixture.piece.bytes), Ok(Lookup::Miss)));
}

#[test]
fn a_part_that_rotted_is_thrown_away_before_the_server_is_blamed() {
    let fixture = Fixture::new(BODY);
    let mut part = fixture.cache.part(fixture.piece.sha256).unwrap().unwrap();
    part.append(b"THE").unwrap();
    drop(part);
    let (port, ranges) = serve(BODY, vec![Answer::Range, Answer::Range]);
    assert_eq!(fixture.fetch(port).unwrap().bytes.as_slice(), BODY);
    assert_eq!(*ranges.lock().unwrap(), ["3-", "none"]);
    assert_eq!(fixture.notices.take().len(), 1);
}

#[test]
fn a_piece_that_the_server_does_not_have_is_not_asked_for_twice() {
    let fixture = Fixture::new(BODY);
    let (port, ranges) = serve(BODY, vec![Answer::Status(404), Answer::Range]);
    let text = fixture.fetch(port).unwrap_err().to_string();
    assert!(text.contains("piece block.3") && text.contains("HTTP 404") && text.contains("another model"), "{text}");
    assert_eq!(ranges.lock().unwrap().len(), 1);
}

#[test]
fn a_server_that_is_gone_ends_after_some_attempts_with_its_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let err = Fixture::new(BODY).fetch(port).unwrap_err();
    assert!(matches!(err, FetchError::Cut { attempts: MAX_ATTEMPTS, .. }), "{err}");
    assert!(err.to_string().contains(&format!("127.0.0.1:{port}")), "{err}");
}

#[test]
fn a_cancelled_transfer_ends_and_keeps_what_it_has() {
    let fixture = Fixture::new(BODY);
    let (port, _) = serve(BODY, vec![Answer::Cut(10)]);
    let calls = Cell::new(0);
    let progress = |_| {
        calls.set(calls.get() + 1);
        fixture.cancelled.store(true, Ordering::Relaxed);
    };
    let waited = Cell::new(false);
    let watch = Watch { progress: &progress, notice: &drop, waited, cancelled: &fixture.cancelled };
    let result = Fetcher::plain(&format!("127.0.0.1:{port}")).piece(&fixture.cache, &fixture.piece, &watch);
    assert!(matches!(result, Err(FetchError::Cancelled)));
    assert_eq!(calls.get(), 1);
    assert!(!fixture.cache.part(fixture.piece.sha256).unwrap().unwrap().is_empty());
}

#[test]
fn a_manifest_other_than_announced_is_refused_with_both_hashes() {
    let (port, _) = serve(BODY, vec![Answer::All, Answer::All]);
    let fetcher = Fetcher::plain(&format!("127.0.0.1:{port}"));
    let never = AtomicBool::new(false);
    assert_eq!(fetcher.manifest(Digest::of(BODY), &never).unwrap(), BODY);
    let text = fetcher.manifest(Digest([0; 32]), &never).unwrap_err().to_string();
    assert!(text.contains(&Digest::of(BODY).to_string()) && text.contains(&"0".repeat(64)), "{text}");
}

#[test]
fn another_node_that_fetches_the_piece_is_waited_for_with_one_notice() {
    let fixture = Fixture::new(BODY);
    let mut part = fixture.cache.part(fixture.piece.sha256).unwrap().unwrap();
    let (told, notices) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let first: String = notices.recv().unwrap();
        // Several looks at the lock.
        std::thread::sleep(4 * LOCK_POLL);
        part.append(BODY).unwrap();
        part.finish(Digest::of(BODY)).unwrap().unwrap();
        drop(part);
        std::iter::once(first).chain(notices).collect::<Vec<_>>()
    });
    let notice = move |text| told.send(text).unwrap();
    let watch = Watch { progress: &drop, notice: &notice, waited: Cell::new(false), cancelled: &fixture.cancelled };
    let fetched = Fetcher::plain("127.0.0.1:1").piece(&fixture.cache, &fixture.piece, &watch).unwrap();
    drop(notice);
    assert_eq!((fetched.bytes.as_slice(), fetched.network_bytes), (BODY, 0));
    assert_eq!(other.join().unwrap(), ["another node of this machine is fetching piece block.3: waiting for it"]);
}
