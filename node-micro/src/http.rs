//! A GET over HTTP/1.1, as much of it as the coordinator's file server speaks.

use core::fmt::Write as _;

use embedded_io_async::{Read, Write};

use crate::FetchError;

/// Asks `host` for `/shards/NAME` from byte `from` on, over a fresh connection, and hands the body to `take`.
///
/// # Errors
/// [`FetchError::Broken`] where the connection ends too early, `Status` for what is no success, `Http` for an answer
/// without a length or with a head longer than 1 KiB.
pub async fn get<S: Read + Write>(
    stream: &mut S,
    host: &str,
    name: &str,
    from: usize,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), FetchError> {
    let mut buffer = [0; 1024];
    let mut request = Cursor { out: &mut buffer, len: 0 };
    let range = if from > 0 { format_args!("Range: bytes={from}-\r\n") } else { format_args!("") };
    // Two `format_args` in one expression: the range lives as long as the statement.
    write!(request, "GET /shards/{name} HTTP/1.1\r\nHost: {host}\r\n{range}Connection: close\r\n\r\n")
        .map_err(|_| FetchError::Http)?;
    let len = request.len;
    let mut rest = buffer.get(..len).unwrap_or_default();
    while !rest.is_empty() {
        let count = stream.write(rest).await.map_err(|_| FetchError::Broken)?;
        rest = rest.get(count..).filter(|_| count > 0).ok_or(FetchError::Broken)?;
    }
    stream.flush().await.map_err(|_| FetchError::Broken)?;

    let mut filled = 0;
    let (body, mut left) = loop {
        let count = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await.map_err(|_| FetchError::Broken)?;
        if count == 0 {
            return Err(if filled == buffer.len() { FetchError::Http } else { FetchError::Broken });
        }
        filled += count;
        let bytes = buffer.get(..filled).unwrap_or_default();
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = core::str::from_utf8(bytes.get(..end).unwrap_or_default()).map_err(|_| FetchError::Http)?;
            break (end + 4, length(head, from)?);
        }
    };
    let first = buffer.get(body..filled).unwrap_or_default();
    let first = first.get(..left).unwrap_or(first);
    take(first);
    left -= first.len();
    while left > 0 {
        let count = stream.read(&mut buffer).await.map_err(|_| FetchError::Broken)?;
        let bytes = buffer.get(..count.min(left)).filter(|_| count > 0).ok_or(FetchError::Broken)?;
        take(bytes);
        left -= bytes.len();
    }
    Ok(())
}

/// Bytes of the body behind a head of an answer to a request for what begins at `from`.
fn length(head: &str, from: usize) -> Result<usize, FetchError> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|line| line.get(..3));
    let status: u16 = status.and_then(|status| status.parse().ok()).ok_or(FetchError::Http)?;
    if status != if from > 0 { 206 } else { 200 } {
        return Err(FetchError::Status(status));
    }
    let lengths = lines.filter_map(|line| line.split_once(':'));
    let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).ok_or(FetchError::Http)
}

/// Text into a slice.
struct Cursor<'b> {
    out: &'b mut [u8],
    len: usize,
}

impl core::fmt::Write for Cursor<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        let room = self.out.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    /// A server that says the same whatever is asked, some bytes at a time.
    struct Scripted {
        answer: Vec<u8>,
        at: usize,
        part: usize,
        asked: Vec<u8>,
    }

    impl embedded_io_async::ErrorType for Scripted {
        type Error = core::convert::Infallible;
    }

    impl Read for Scripted {
        async fn read(&mut self, out: &mut [u8]) -> Result<usize, Self::Error> {
            let count = out.len().min(self.part).min(self.answer.len() - self.at);
            out[..count].copy_from_slice(&self.answer[self.at..][..count]);
            self.at += count;
            Ok(count)
        }
    }

    impl Write for Scripted {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
            let count = bytes.len().min(self.part);
            self.asked.extend(&bytes[..count]);
            Ok(count)
        }

        async fn flush(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    fn ask(answer: &str, part: usize, from: usize) -> (Result<(), FetchError>, String, String) {
        let mut server = Scripted { answer: answer.into(), at: 0, part, asked: Vec::new() };
        let mut body = Vec::new();
        let got = get(&mut server, "10.0.2.2", "abc", from, &mut |bytes| body.extend(bytes));
        let got = syn1_core::testing::block_on(got);
        (got, String::from_utf8(body).unwrap(), String::from_utf8(server.asked).unwrap())
    }

    #[test]
    fn a_body_comes_whole_however_it_is_cut_and_nothing_behind_it() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: x\r\ncontent-length: 10\r\n\r\n0123456789and more";
        for part in [1, 3, 57, 5000] {
            let (got, body, asked) = ask(answer, part, 0);
            assert_eq!((got, body.as_str()), (Ok(()), "0123456789"));
            assert_eq!(asked, "GET /shards/abc HTTP/1.1\r\nHost: 10.0.2.2\r\nConnection: close\r\n\r\n");
        }
    }

    #[test]
    fn a_rest_is_asked_for_by_its_range_and_must_come_as_one() {
        let (got, body, asked) = ask("HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\n\r\n789", 7, 7);
        assert_eq!((got, body.as_str()), (Ok(()), "789"));
        assert!(asked.contains("\r\nRange: bytes=7-\r\n"));
        assert_eq!(ask("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n012", 7, 7).0, Err(FetchError::Status(200)));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let long = "x".repeat(2000);
        for (answer, error) in [
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nabc", FetchError::Status(404)),
            ("HTTP/1.1 200 OK\r\n\r\nabc", FetchError::Http),
            ("SSH-2.0\r\n\r\n", FetchError::Http),
            (&long, FetchError::Http),
            ("HTTP/1.1 200 OK\r\ncontent-len", FetchError::Broken),
            ("HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nabc", FetchError::Broken),
        ] {
            assert_eq!(ask(answer, 9, 0).0, Err(error), "{answer:.40}");
        }
    }
}
