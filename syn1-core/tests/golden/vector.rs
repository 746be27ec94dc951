//! A vector and its file.
//!
//! ```text
//! # What it is, for people.
//! limits max_payload=4096 max_rows=4 width=10 vocab=5 flags=0
//! sent 1.0=3f800000 ...              what the encoder was given, a line per row (activations; `logits` for outputs)
//! before 53594e31 02050355 ...       the frame that came before on the link, where that matters (delta)
//! bytes 53594e31 02000155 ...        the frame
//! expect activation                  a kind, `skip`, or `error` and its name
//! header kind=2 flags=0 ...          and what the payload says, a line per row
//! ```

use std::fs;
use std::path::Path;

use syn1_core::{Flags, Limits};

use crate::describe;

/// A case with its bytes and their meaning.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) limits: Limits,
    /// What the bytes were made of, if that is more than they say.
    pub(crate) source: Vec<String>,
    /// The frame that came before, or nothing.
    pub(crate) before: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) meaning: Vec<String>,
}

impl Vector {
    pub(crate) fn new(name: &str, what: &str, limits: Limits, source: Vec<String>, bytes: Vec<u8>) -> Self {
        let before = Vec::new();
        Self { name: name.to_owned(), what: what.to_owned(), limits, source, before, bytes, meaning: Vec::new() }
            .read_anew()
    }

    /// The same frame, behind another one.
    pub(crate) fn behind(self, before: Vec<u8>) -> Self {
        Self { before, ..self }.read_anew()
    }

    fn read_anew(self) -> Self {
        let meaning = describe::lines(&self.before, &self.bytes, &self.limits);
        Self { meaning, ..self }
    }

    pub(crate) fn text(&self) -> String {
        let Limits { max_payload, max_rows, width, vocab, flags } = self.limits;
        let flags = flags.bits();
        let mut lines = vec![
            format!("# {}", self.what),
            format!("limits max_payload={max_payload} max_rows={max_rows} width={width} vocab={vocab} flags={flags}"),
        ];
        lines.extend(self.source.iter().cloned());
        for (word, bytes) in [("before", &self.before), ("bytes", &self.bytes)] {
            lines.extend(bytes.chunks(32).map(|line| {
                let words: Vec<String> = line.chunks(4).map(hex).collect();
                format!("{word} {}", words.join(" "))
            }));
        }
        lines.extend(self.meaning.iter().cloned());
        lines.join("\n") + "\n"
    }

    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let of = |word: &'static str| text.lines().filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '));
        let numbers: Vec<u32> = of("limits")
            .flat_map(|line| line.split(' ').map(|item| item.split_once('=').unwrap().1.parse().unwrap()))
            .collect();
        let [max_payload, max_rows, width, vocab, flags] = numbers[..] else { panic!("limits of {}", path.display()) };
        let flags = Flags::from_bits(flags as u8).unwrap();
        let bytes = |word| {
            let digits: String = of(word).flat_map(str::chars).filter(|c| *c != ' ').collect();
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
        };
        let others = ["#", "limits", "sent", "logits", "before", "bytes"];
        let is_meaning = |line: &&str| !others.iter().any(|word| line.starts_with(word));
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            what: of("#").collect(),
            limits: Limits { max_payload, max_rows: max_rows as u16, width: width as u16, vocab, flags },
            source: Vec::new(),
            before: bytes("before"),
            bytes: bytes("bytes"),
            meaning: text.lines().filter(is_meaning).map(str::to_owned).collect(),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
