//! The two ways out of the program: answers to standard output, lines for people to standard error.

use std::io::{self, Write};

/// Writes to standard output at once.
///
/// # Errors
/// [`OutputError`], also when its reader has left.
pub(crate) fn out(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(OutputError)
}

/// Writes one line to standard error, without the control characters that others may have put into it.
pub(crate) fn say(line: &str) {
    // A closed standard error must not end a node or a coordinator that others rely on.
    let _ = writeln!(io::stderr().lock(), "{}", plain(line));
}

/// Writes a sign to standard error that waits for an answer in the same line.
pub(crate) fn ask(sign: &str) {
    let mut stderr = io::stderr().lock();
    // Whoever cannot see the sign can still answer.
    let _ = write!(stderr, "{sign}").and_then(|()| stderr.flush());
}

/// `text` without what a terminal would obey: names, devices and reasons come from other machines.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || REORDERING.contains(&c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// Standard output cannot be written.
#[derive(Debug)]
pub(crate) struct OutputError(io::Error);

impl OutputError {
    /// Whether whoever read has seen enough, `head` say; that is no failure.
    pub(crate) fn reader_left(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

/// Characters that turn the direction of what follows: a name with one of them could hide the rest of its line.
const REORDERING: [char; 9] =
    ['\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_line_breaks_and_reordering_lose_their_power_and_letters_stay() {
        assert_eq!(plain("Zoë's 笔记本, 1.2 GB"), "Zoë's 笔记本, 1.2 GB");
        let hostile = plain("a\u{1b}[2J\r\nerror: fake\u{9b}31m\u{202e}b");
        assert_eq!(hostile, "a\u{fffd}[2J\u{fffd}\u{fffd}error: fake\u{fffd}31m\u{fffd}b");
    }
}
