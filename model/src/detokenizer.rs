//! Ids to text as they come.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Turns ids into text as they come, never emitting a part of a character.
///
/// The texts of all [`push`](Self::push) calls and of [`finish`](Self::finish) together are
/// [`decode`](Tokenizer::decode) of all ids, but for one thing: of a run of byte tokens that is not UTF-8, `decode` gives
/// one U+FFFD per byte, and the stream the characters that are there, with U+FFFD for each byte that belongs to none. (It
/// has emitted them before it can know what follows.)
///
/// A token's text depends on its neighbours, so a window of the last tokens is decoded anew for each id; the window is
/// bounded, which keeps the work linear in the number of ids.
pub struct Detokenizer {
    tokenizer: Tokenizer,
    /// Ids in front of the stream, until the first call.
    context: Vec<u32>,
    /// The last tokens with text, and nothing ("") behind each whole character that byte tokens spell.
    window: Vec<String>,
    /// Byte tokens that are the start of a character.
    bytes: Vec<u8>,
    /// Bytes of the window's text that were emitted.
    emitted: usize,
    /// Length of the window at which a shorter one is tried.
    shrink_at: usize,
    /// What the last call emitted.
    fresh: String,
}

impl Detokenizer {
    /// A stream that goes on behind `before`: a decoder that takes the first space from a text does not take it from the
    /// middle of one, and a character that `before` begins comes whole.
    pub(crate) fn new(tokenizer: Tokenizer, before: &[u32]) -> Self {
        let context = before[before.len().saturating_sub(CONTEXT)..].to_vec();
        let (window, bytes, fresh) = (Vec::new(), Vec::new(), String::new());
        Self { tokenizer, context, window, bytes, emitted: 0, shrink_at: WINDOW, fresh }
    }

    /// Takes an id; gives the text that it completes, which may be empty.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<&str, TokenizerError> {
        self.take_context()?;
        self.take(id)?;
        Ok(&self.fresh)
    }

    /// The rest: what an incomplete character at the end decodes to. The stream starts anew afterwards, behind nothing.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<&str, TokenizerError> {
        self.take_context()?;
        self.spell_pending();
        let text = self.tokenizer.spell(&self.window)?;
        self.fresh.clear();
        self.fresh.push_str(text.get(self.emitted..).unwrap_or(""));
        self.window.clear();
        self.emitted = 0;
        self.shrink_at = WINDOW;
        Ok(&self.fresh)
    }

    fn take_context(&mut self) -> Result<(), TokenizerError> {
        std::mem::take(&mut self.context).into_iter().try_for_each(|id| self.take(id))
    }

    fn take(&mut self, id: u32) -> Result<(), TokenizerError> {
        self.fresh.clear();
        let Some(token) = self.tokenizer.with_text(id) else { return Ok(()) };
        match self.tokenizer.byte(&token) {
            Some(byte) => {
                self.bytes.push(byte);
                if !self.spell_complete() {
                    return Ok(());
                }
            }
            None => {
                self.spell_pending();
                self.window.push(token);
            }
        }
        let text = self.tokenizer.spell(&self.window)?;
        let settled = settled(&text);
        if let Some(fresh) = text.get(self.emitted..settled) {
            self.fresh.push_str(fresh);
            self.emitted = settled;
        }
        if self.window.len() >= self.shrink_at {
            self.shrink(&text)?;
        }
        Ok(())
    }

    /// Moves what the waiting bytes settle into the window, each character or stray byte as a run of its own: a byte that
    /// comes later cannot take back what was emitted. Says whether there was any.
    fn spell_complete(&mut self) -> bool {
        let before = self.window.len();
        while !self.bytes.is_empty() {
            let settled = match std::str::from_utf8(&self.bytes) {
                Ok(text) => text.len(),
                Err(error) if error.valid_up_to() > 0 => error.valid_up_to(),
                Err(error) => match error.error_len() {
                    // Several bytes that begin a character and do not go on as one: each is stray.
                    Some(_) => 1,
                    None => break,
                },
            };
            self.window.extend(self.bytes.drain(..settled).map(byte_token));
            self.window.push(String::new());
        }
        self.window.len() > before
    }

    /// Moves the waiting bytes into the window, now that nothing completes them.
    fn spell_pending(&mut self) {
        self.window.extend(self.bytes.drain(..).map(byte_token));
    }

    /// Forgets old tokens where the younger ones alone decode to the same end of the text.
    ///
    /// The start of a window may decode differently without its predecessors (half a character, a stripped space); that
    /// does no harm as long as it was emitted before, hence `emitted > 0` for the new window.
    fn shrink(&mut self, text: &str) -> Result<(), TokenizerError> {
        let open = text.len().saturating_sub(self.emitted);
        for kept in KEPT {
            let start = self.window.len() - kept;
            let shorter = self.tokenizer.spell(&self.window[start..])?;
            if shorter.len() > open && text.ends_with(&shorter) {
                self.window.drain(..start);
                self.emitted = shorter.len() - open;
                self.shrink_at = WINDOW;
                return Ok(());
            }
        }
        // Doubling keeps the cost of failed attempts linear.
        self.shrink_at = 2 * self.window.len();
        Ok(())
    }
}

/// The token that stands for a byte, as SentencePiece spells it.
fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Length of `text` without replacement characters at its end: they may be the start of a character that comes with the
/// next ids. A character has at most 4 bytes, so no more than that many can be waiting.
fn settled(text: &str) -> usize {
    let waiting = text.chars().rev().take(4).take_while(|c| *c == char::REPLACEMENT_CHARACTER);
    text.len() - waiting.map(char::len_utf8).sum::<usize>()
}

/// Tokens in a window before a shorter one is tried.
const WINDOW: usize = 24;

/// How many tokens to keep: several tries, because a window must not start inside a character.
const KEPT: std::ops::RangeInclusive<usize> = 8..=16;

/// Ids in front of a stream that are looked at: as many as a window keeps.
const CONTEXT: usize = *KEPT.end();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::bundled_tokenizer as bundled;

    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
        let mut stream = tokenizer.detokenizer();
        let mut text = String::new();
        for id in ids {
            text.push_str(stream.push(*id).expect("push"));
        }
        text.push_str(stream.finish().expect("finish"));
        text
    }

    /// A linear congruential generator: the tests need variety, not quality.
    fn numbers(mut state: u64) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Some((state >> 33) as usize)
        })
    }

    #[test]
    fn streaming_equals_batch_for_any_ids() {
        let (tokenizer, spec) = bundled();
        for seed in 0..60 {
            let mut numbers = numbers(seed);
            // Low ids are single bytes: mostly invalid UTF-8, split characters, specials and an id without a token.
            let range = if seed % 2 == 0 { 260 } else { spec.vocab + 1 };
            let ids: Vec<u32> = numbers.by_ref().take(300).map(|n| (n % range) as u32).collect();
            assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids).expect("decode"), "seed {seed}");
        }
    }

    #[test]
    fn no_call_emits_a_part_of_a_character() {
        let (tokenizer, _) = bundled();
        let text = "naïve 中文字符 😀👩‍👩‍👧‍👦 ελληνικά \u{10FFFF} ".repeat(20);
        let ids = tokenizer.encode(&text).expect("encode");
        assert!(ids.len() > text.chars().count(), "the characters must be split for this to test anything");
        let mut stream = tokenizer.detokenizer();
        let mut shown = String::new();
        for id in ids {
            let fresh = stream.push(id).expect("push");
            assert!(!fresh.contains(char::REPLACEMENT_CHARACTER), "{fresh:?}");
            shown.push_str(fresh);
            assert!(text.starts_with(&shown));
        }
        assert_eq!(shown, text);
        assert_eq!(stream.finish().expect("finish"), "");
    }

    #[test]
    fn the_window_stays_bounded() {
        let (tokenizer, _) = bundled();
        let emoji = tokenizer.encode("😀").expect("encode");
        let letters = tokenizer.encode("let x").expect("encode");
        let stray = emoji.last().copied().expect("last byte");
        for ids in [vec![0], vec![stray], emoji[..1].to_vec(), emoji.clone(), letters] {
            let mut stream = tokenizer.detokenizer();
            for id in ids.iter().cycle().take(2000) {
                stream.push(*id).expect("push");
                assert!(stream.window.len() <= 2 * WINDOW, "{ids:?}: {}", stream.window.len());
            }
        }
    }

    #[test]
    fn a_finished_stream_starts_anew() {
        let (tokenizer, _) = bundled();
        let half = tokenizer.encode("😀").expect("encode")[0];
        let mut stream = tokenizer.detokenizer();
        assert_eq!(stream.push(half).expect("push"), "");
        assert_eq!(stream.finish().expect("finish"), "\u{FFFD}");
        assert_eq!(stream.finish().expect("finish"), "");
    }
}
