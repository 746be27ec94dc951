//! What one token alone stands for, in bytes: for showing distributions, where tokens are parts of characters, too.

use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// The bytes that a token adds in the middle of a text; a special token's are those of its spelling. `None` for an id
    /// without a token.
    ///
    /// The bytes of a text's tokens are those of the text, but for a first space that the decoder takes off.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let Some(token) = self.with_text(id) else { return self.token(id).map(String::into_bytes) };
        if let Some(byte) = self.byte(&token) {
            return Some(vec![byte]);
        }
        if self.spells_bytes()
            && let Some(bytes) = token.chars().map(letter_byte).collect()
        {
            return Some(bytes);
        }
        // A decoder may treat the first token of a text differently, so that one is another.
        let alone = self.spell(std::slice::from_ref(&token)).ok()?;
        let twice = self.spell(&[token.clone(), token]).ok()?;
        Some(twice.get(alone.len()..).unwrap_or_default().into())
    }

    /// Whether each letter of a spelling stands for a byte, as GPT-2's do.
    fn spells_bytes(&self) -> bool {
        self.spell(&["Ġ".to_owned()]).is_ok_and(|text| text == " ")
    }
}

/// The byte that a letter stands for in GPT-2's alphabet: the visible Latin-1 characters for themselves, the others, in
/// their order, from U+0100 on.
fn letter_byte(letter: char) -> Option<u8> {
    let is_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u8::try_from(u32::from(letter)) {
        Ok(byte) => Some(byte).filter(|byte| is_itself(*byte)),
        Err(_) => (0..=255).filter(|byte| !is_itself(*byte)).nth((u32::from(letter) - 0x100) as usize),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fixture::bundled_tokenizer;
    use crate::spec::Spec;

    fn fixture(name: &str) -> Tokenizer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tokenizers").join(name);
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("file")).expect("JSON");
        let vocab = file["model"]["vocab"].as_object().expect("a vocabulary").len();
        let added = file["added_tokens"].as_array().map_or(0, Vec::len);
        Tokenizer::load(&path, &Spec { vocab: vocab + added, ..Spec::gpt2_124m() }).expect("a tokenizer")
    }

    #[test]
    fn the_bytes_of_its_tokens_are_the_texts() {
        let texts = ["Hello, world", "fn main() { }", "naïve 漢字 \u{1F980}\n\tx"];
        let fixtures = ["bytelevel.json", "gemma.json", "metaspace.json", "prepend.json"].map(fixture);
        for tokenizer in fixtures.into_iter().chain([bundled_tokenizer().0]) {
            for text in texts {
                let mut ids = tokenizer.encode(text).expect("ids");
                ids.retain(|id| tokenizer.with_text(*id).is_some());
                let bytes = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).expect("a token")).collect();
                let bytes = String::from_utf8(bytes).expect("whole characters");
                assert_eq!(bytes.strip_prefix(' ').unwrap_or(&bytes), text, "{tokenizer:?} {ids:?}");
            }
        }
    }

    #[test]
    fn every_byte_has_a_letter() {
        let (tokenizer, _) = bundled_tokenizer();
        assert_eq!(letter_byte('Ġ'), Some(b' '));
        assert_eq!(letter_byte('\u{100}'), Some(0));
        assert_eq!((letter_byte('\u{143}'), letter_byte('\u{144}')), (Some(0xAD), None));
        assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    }
}
