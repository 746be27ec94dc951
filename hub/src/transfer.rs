//! A range of a file over HTTP: resumed after a cut, retried with backoff for as long as bytes come.

use std::io::Read;
use std::ops::Range;

use ureq::http::Method;

use crate::client::{Answer, Attempts, Client, Failure, mark};
use crate::error::HubError;
use crate::files::RemoteFile;
use crate::limits::CHUNK_BYTES;
use crate::meter::Meter;
use crate::part::Sink;

/// What filling a range took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filled {
    /// Bytes that were there before and stayed.
    pub(crate) kept: u64,
    /// Whether its bytes are from more than one answer.
    pub(crate) resumed: bool,
}

/// Appends to `sink` the bytes of `range` that it does not have: it holds `base` bytes of other things, then the range's.
pub(crate) fn fetch(
    client: &Client,
    file: &RemoteFile,
    range: Range<u64>,
    sink: &mut impl Sink,
    base: u64,
    meter: &Meter<'_>,
) -> Result<Filled, HubError> {
    let mut filled = Filled { kept: sink.len() - base, resumed: false };
    let mut attempts = Attempts::default();
    loop {
        let had = sink.len() - base;
        if had == range.end - range.start {
            return Ok(filled);
        }
        let failure = match attempt(client, file, &range, sink, base, &mut filled, meter) {
            Ok(()) => continue,
            Err(failure) => failure,
        };
        if sink.len() - base > had {
            attempts = Attempts::default();
        }
        attempts.failed(&file.name, &file.url, failure, meter)?;
    }
}

/// One answer's share; an error also when it ends too early.
fn attempt(
    client: &Client,
    file: &RemoteFile,
    range: &Range<u64>,
    sink: &mut impl Sink,
    base: u64,
    filled: &mut Filled,
    meter: &Meter<'_>,
) -> Result<(), Failure> {
    meter.check()?;
    let at = range.start + (sink.len() - base);
    let asked = (at > 0 || range.end < file.size).then_some(at..range.end);
    let mut answer = client.ask(&Method::GET, &file.name, &file.url, asked)?;
    let begins_at = match answer.response.status().as_u16() {
        200 => Some(0),
        206 => content_range(&answer).map(|(start, _)| start),
        _ => None,
    };
    check(file, &answer)?;
    if begins_at != Some(at) {
        // From the start of the range: in this answer if it begins there.
        meter.lost(sink.len() - base, filled.kept);
        *filled = Filled::default();
        sink.cut(base)?;
    }
    if begins_at != Some(range.start + (sink.len() - base)) {
        let (name, url) = (file.name.clone(), file.url.clone());
        return Err(match begins_at {
            Some(0) => Failure::Final(HubError::NoRanges { file: name, url }),
            _ => Failure::Again { cause: "the server did not send the range that was asked for".into(), wait: None },
        });
    }
    filled.resumed |= sink.len() > base;
    let mut body = answer.response.body_mut().as_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        meter.check()?;
        let left = range.end - range.start - (sink.len() - base);
        let room = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(());
        }
        let cause = match body.read(&mut chunk[..room]) {
            Ok(0) => format!("it ended {left} bytes too early"),
            Ok(n) => {
                sink.append(&chunk[..n])?;
                meter.came(&file.name, n as u64);
                continue;
            }
            Err(error) => error.to_string(),
        };
        return Err(Failure::Again { cause, wait: None });
    }
}

/// That the answer speaks of the file that is known: its length, and its mark where there is one.
fn check(file: &RemoteFile, answer: &Answer) -> Result<(), Failure> {
    let headers = answer.response.headers();
    let said = match answer.response.status().as_u16() {
        200 => mark(headers, "content-length").and_then(|value| value.parse().ok()),
        206 => content_range(answer).and_then(|(_, total)| total),
        _ => return Ok(()),
    };
    let (name, url) = (file.name.clone(), file.url.clone());
    if let Some(got) = said.filter(|said| *said != file.size) {
        return Err(Failure::Final(HubError::Size { file: name, url, got, want: file.size }));
    }
    let (was, now) = match &file.check.name() {
        Some(hash) => (Some(hash.clone()), answer.linked.clone()),
        None => (file.version.clone(), version(answer)),
    };
    match (was, now) {
        (Some(was), Some(now)) if was != now => Err(Failure::Final(HubError::Changed { file: name, url, was, now })),
        _ => Ok(()),
    }
}

/// What tells a web server's versions of a file apart.
pub(crate) fn version(answer: &Answer) -> Option<String> {
    let headers = answer.response.headers();
    mark(headers, "etag").or_else(|| mark(headers, "last-modified"))
}

/// First byte and, where it is known, the file's length, of `content-range: bytes 5-9/10`.
fn content_range(answer: &Answer) -> Option<(u64, Option<u64>)> {
    let value = answer.response.headers().get("content-range")?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}
