//! JSON as a stream: bytes in, values with their paths out, in memory of a fixed size.
//!
//! It is for a text whose hash is known: what it makes of a text that is no JSON does not matter, as long as it neither
//! panics nor reads beyond its buffers.

/// Levels of nesting that are told apart; deeper ones are passed over.
const DEPTH: usize = 6;
/// Bytes of a key that are kept, and of a value: a SHA-256 in hex digits, and a number in any spelling.
const KEY: usize = 24;
const VALUE: usize = 72;

/// Reads JSON as it comes.
pub(crate) struct Json {
    /// What encloses the place.
    path: [Step; DEPTH],
    depth: usize,
    text: Short<VALUE>,
    state: State,
}

/// A step from a value to one inside.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// Into an object, by this key.
    Key(Short<KEY>),
    /// Into an array.
    Index(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    /// In a string; true behind a backslash.
    String(bool),
    /// Behind a string, which may be a key.
    Behind,
    Scalar,
}

/// Bytes of a text, as many as there is room for.
#[derive(Clone, Copy)]
pub(crate) struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or_default()
    }
}

impl Json {
    pub(crate) const fn new() -> Self {
        Self { path: [Step::Index(0); DEPTH], depth: 0, text: Short::EMPTY, state: State::Between }
    }

    /// Takes more of the text. `value` is called for each string, number or word, and for each empty object or array (with
    /// an empty text), with the steps to it.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut value: impl FnMut(&[Step], &str)) {
        for byte in bytes {
            self.byte(*byte, &mut value);
        }
    }

    fn byte(&mut self, byte: u8, value: &mut impl FnMut(&[Step], &str)) {
        match self.state {
            State::String(true) => self.state = State::String(false),
            State::String(false) => match byte {
                b'"' => self.state = State::Behind,
                b'\\' => self.state = State::String(true),
                _ => self.text.push(byte),
            },
            State::Between | State::Behind | State::Scalar => match byte {
                b'"' => (self.text, self.state) = (Short::EMPTY, State::String(false)),
                b':' => self.key(),
                b'{' | b'[' => self.open(byte),
                b',' => {
                    self.end(value);
                    if let Some(Step::Index(index)) = self.step() {
                        *index += 1;
                    }
                }
                b'}' | b']' => {
                    self.end(value);
                    self.depth = self.depth.saturating_sub(1);
                }
                b' ' | b'\n' | b'\r' | b'\t' => {}
                _ => {
                    if self.state != State::Scalar {
                        (self.text, self.state) = (Short::EMPTY, State::Scalar);
                    }
                    self.text.push(byte);
                }
            },
        }
    }

    /// The last string was a key.
    fn key(&mut self) {
        let mut key = Short::EMPTY;
        self.text.as_str().bytes().for_each(|byte| key.push(byte));
        if let Some(step) = self.step() {
            *step = Step::Key(key);
        }
        self.state = State::Between;
    }

    fn open(&mut self, byte: u8) {
        self.depth += 1;
        if let Some(step) = self.step() {
            *step = if byte == b'[' { Step::Index(0) } else { Step::Key(Short::EMPTY) };
        }
        self.state = State::Between;
    }

    /// A value ends here, if there is one.
    fn end(&mut self, value: &mut impl FnMut(&[Step], &str)) {
        if let (State::Behind | State::Scalar, Some(path)) = (self.state, self.path.get(..self.depth)) {
            value(path, self.text.as_str());
        }
        self.state = State::Between;
    }

    fn step(&mut self) -> Option<&mut Step> {
        self.path.get_mut(self.depth.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    fn read(text: &str, chunk: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut json = Json::new();
        for part in text.as_bytes().chunks(chunk) {
            json.feed(part, |path, value| {
                let steps: Vec<String> = path
                    .iter()
                    .map(|step| match step {
                        Step::Key(key) => key.as_str().into(),
                        Step::Index(index) => format!("{index}"),
                    })
                    .collect();
                found.push(format!("{}={value}", steps.join("/")));
            });
        }
        found
    }

    #[test]
    fn values_come_with_their_paths_however_the_text_is_cut() {
        let text = r#"{"a": 1, "b": {"c": [true, "x,\"}", {"d": null}], "e": []}, "f": -1e-5, "g": "last"}"#;
        let wanted = ["a=1", "b/c/0=true", "b/c/1=x,}", "b/c/2/d=null", "f=-1e-5", "g=last"];
        for chunk in [1, 2, 7, 1000] {
            assert_eq!(read(text, chunk), wanted, "in parts of {chunk}");
        }
    }

    #[test]
    fn what_is_no_json_or_too_deep_or_too_long_does_no_harm() {
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(read(&deep, 3), [""; 0]);
        let long = format!("{{\"{}\": \"{}\"}}", "k".repeat(500), "v".repeat(500));
        assert_eq!(read(&long, 3), [format!("{}={}", "k".repeat(KEY), "v".repeat(VALUE))]);
        for text in ["]]]}}}", ":::", "\"\\", "{,}", "\u{ff}\u{0}"] {
            read(text, 1);
        }
    }
}
