//! Text to token ids and back, and back again as a stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::spec::Spec;

/// The tokenizer of a model. Cloning is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file that is missing or not a tokenizer.
    #[error("cannot load the tokenizer {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What its library says.
        reason: String,
    },
    /// A tokenizer of another model.
    #[error(
        "{} is a tokenizer that does not match the vocabulary: it has {size} tokens with ids up to {highest}, the \
         model has {vocab}; take tokenizer.json from the same place as the weights",
        path.display()
    )]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Tokens of the tokenizer.
        size: usize,
        /// Its highest id.
        highest: u32,
        /// Rows of the model's embedding.
        vocab: usize,
    },
    /// A text that cannot be encoded.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// Ids that cannot be decoded.
    #[error("cannot decode the ids: {0}")]
    Decode(String),
}

impl Tokenizer {
    /// Loads a `tokenizer.json` for the model of `spec`.
    ///
    /// # Errors
    /// A file that is not a tokenizer, or one whose ids are not the model's: a token beyond the model's vocabulary, or
    /// fewer tokens than half of it (padding of the embedding is never that large).
    pub fn load(path: &Path, spec: &Spec) -> Result<Self, TokenizerError> {
        let load = |error: tokenizers::Error| TokenizerError::Load { path: path.into(), reason: error.to_string() };
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(load)?;
        // A file may carry the settings of its training run, which would silently cut or pad prompts.
        inner.with_truncation(None).map_err(load)?;
        inner.with_padding(None);

        let ids = inner.get_vocab(true);
        let (size, highest) = (ids.len(), ids.values().copied().max().unwrap_or(0));
        if highest as usize >= spec.vocab || size > spec.vocab || size < spec.vocab.div_ceil(2) {
            return Err(TokenizerError::Vocabulary { path: path.into(), size, highest, vocab: spec.vocab });
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The ids of a text, with what the tokenizer puts around a text (GPT-2: nothing).
    ///
    /// # Errors
    /// A text that the tokenizer's model cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, true);
        encoding.map(|found| found.get_ids().to_vec()).map_err(|error| TokenizerError::Encode(error.to_string()))
    }

    /// The text of ids. Special tokens and ids without a token give no text; bytes that are not UTF-8 give U+FFFD.
    ///
    /// # Errors
    /// A tokenizer whose decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(ids, true).map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// The token's own spelling, for showing distributions to people.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token by its spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A stream of text for a stream of ids.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer { tokenizer: self.clone(), window: Vec::new(), emitted: 0, shrink_at: WINDOW, fresh: String::new() }
    }

    /// Whether the id can give text.
    fn has_text(&self, id: u32) -> bool {
        let special = |token: &str| self.inner.get_added_vocabulary().is_special_token(token);
        self.inner.id_to_token(id).is_some_and(|token| !special(&token))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.inner.get_vocab_size(true))
    }
}

/// Turns ids into text as they come, never emitting a part of a character.
///
/// The texts of all [`push`](Self::push) calls and of [`finish`](Self::finish) together are
/// [`decode`](Tokenizer::decode) of all ids, for byte-level tokenizers. (One that falls back to byte tokens may spell
/// a character that it later takes back, because a later byte made the run invalid; what was emitted stays.)
///
/// A token's text depends on its neighbours, so a window of the last ids is decoded anew for each id; the window is
/// bounded, which keeps the work linear in the number of ids.
pub struct Detokenizer {
    tokenizer: Tokenizer,
    /// The last ids, all with text.
    window: Vec<u32>,
    /// Bytes of the window's text that were emitted.
    emitted: usize,
    /// Length of the window at which a shorter one is tried.
    shrink_at: usize,
    /// What the last call emitted.
    fresh: String,
}

impl Detokenizer {
    /// Takes an id; gives the text that it completes, which may be empty.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<&str, TokenizerError> {
        self.fresh.clear();
        if !self.tokenizer.has_text(id) {
            return Ok("");
        }
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        let settled = settled(&text);
        if let Some(fresh) = text.get(self.emitted..settled) {
            self.fresh.push_str(fresh);
            self.emitted = settled;
        }
        if self.window.len() >= self.shrink_at {
            self.shrink(&text)?;
        }
        Ok(&self.fresh)
    }

    /// The rest: what an incomplete character at the end decodes to. The stream starts anew afterwards.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<&str, TokenizerError> {
        let text = self.tokenizer.decode(&self.window)?;
        self.fresh.clear();
        self.fresh.push_str(text.get(self.emitted..).unwrap_or(""));
        self.window.clear();
        self.emitted = 0;
        self.shrink_at = WINDOW;
        Ok(&self.fresh)
    }

    /// Forgets old ids where the younger ones alone decode to the same end of the text.
    ///
    /// The start of a window may decode differently without its predecessors (half a character, a stripped space); that
    /// does no harm as long as it was emitted before, hence `emitted > 0` for the new window.
    fn shrink(&mut self, text: &str) -> Result<(), TokenizerError> {
        let open = text.len().saturating_sub(self.emitted);
        for kept in KEPT {
            let start = self.window.len() - kept;
            let shorter = self.tokenizer.decode(&self.window[start..])?;
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

/// Length of `text` without replacement characters at its end: they may be the start of a character that comes with the
/// next ids. A character has at most 4 bytes, so no more than that many can be waiting.
fn settled(text: &str) -> usize {
    let waiting = text.chars().rev().take(4).take_while(|c| *c == char::REPLACEMENT_CHARACTER);
    text.len() - waiting.map(char::len_utf8).sum::<usize>()
}

/// Ids in a window before a shorter one is tried.
const WINDOW: usize = 24;

/// How many ids to keep: several tries, because a window must not start inside a character.
const KEPT: std::ops::RangeInclusive<usize> = 8..=16;

#[cfg(test)]
mod tests {
    use super::*;

    fn bundled() -> (Tokenizer, Spec) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs");
        let spec = Spec::from_folder(&folder).expect("bundled model");
        (Tokenizer::load(&folder.join("tokenizer.json"), &spec).expect("bundled tokenizer"), spec)
    }

    fn golden() -> Vec<(String, Vec<u32>, Vec<u32>, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/golden.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("golden")).expect("JSON");
        let ids = |value: &serde_json::Value| serde_json::from_value::<Vec<u32>>(value.clone()).expect("ids");
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_string();
        let cases = golden["cases"].as_array().expect("cases").iter();
        cases.map(|c| (text(&c["prompt"]), ids(&c["ids"]), ids(&c["greedy_64"]), text(&c["text"]))).collect()
    }

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
    fn golden_prompts_and_texts() {
        let (tokenizer, _) = bundled();
        let cases = golden();
        assert_eq!(cases.len(), 8);
        for (prompt, ids, greedy, text) in cases {
            assert_eq!(tokenizer.encode(&prompt).expect("encode"), ids, "{prompt}");
            let all = [ids, greedy].concat();
            assert_eq!(tokenizer.decode(&all).expect("decode"), text);
            assert_eq!(streamed(&tokenizer, &all), text);
        }
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

    #[test]
    fn a_tokenizer_of_another_model_is_refused_with_both_sizes() {
        let (_, spec) = bundled();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/tokenizer.json");
        for vocab in [1000, 4095, 50_257] {
            let other = Spec { vocab, ..spec.clone() };
            let text = Tokenizer::load(&path, &other).expect_err("mismatch").to_string();
            assert!(text.contains("a tokenizer that does not match the vocabulary"), "{text}");
            assert!(text.contains("4096") && text.contains(&vocab.to_string()), "{text}");
        }
        // Embeddings are often padded to a round number of rows.
        assert!(Tokenizer::load(&path, &Spec { vocab: 4224, ..spec }).is_ok());
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_named() {
        let (_, spec) = bundled();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/config.json");
        let text = Tokenizer::load(&path, &spec).expect_err("no tokenizer").to_string();
        assert!(text.contains("config.json"), "{text}");
    }

    #[test]
    fn training_truncation_in_the_file_does_not_cut_prompts() {
        let (plain, spec) = bundled();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON");
        json["truncation"] =
            serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), json.to_string()).expect("write");
        let text = "one two three four five six seven eight nine ten";
        let cut = Tokenizer::load(file.path(), &spec).expect("load");
        assert_eq!(cut.encode(text).expect("encode"), plain.encode(text).expect("encode"));
    }
}
