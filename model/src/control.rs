//! Control tokens that only a chat template may write.
//!
//! A template puts messages between control tokens (`<|im_end|>`, say), and the tokenizer cannot see who wrote which text:
//! a message that spells a control token would end its own turn and begin another's. So where a message does, the
//! spelling is marked in it before the template is rendered; afterwards each spelling without a mark, which is the
//! template's, is replaced by an alias that only [`Control`]'s tokenizer knows, and this tokenizer takes the spellings that
//! are left for plain text.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokenizers::AddedToken;

/// A tokenizer that tells the template's control tokens from those that messages spell.
pub(crate) struct Control {
    /// Knows the aliases as tokens, and the control tokens as text.
    tokenizer: tokenizers::Tokenizer,
    /// From the alias's id to the control token's.
    ids: HashMap<u32, u32>,
}

impl Control {
    /// # Errors
    /// What the tokenizers crate says against the aliases.
    pub(crate) fn new(of: &tokenizers::Tokenizer) -> Result<Self, tokenizers::Error> {
        let mut tokenizer = of.clone();
        let special = of.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
        let named =
            special.map(|(id, token)| (id, AddedToken { content: alias(&token.content), special: false, ..token }));
        let named: Vec<(u32, AddedToken)> = named.collect();
        let aliases: Vec<AddedToken> = named.iter().map(|(_, token)| token.clone()).collect();
        tokenizer.add_tokens(aliases)?;
        tokenizer.set_encode_special_tokens(true);
        let ids = named.iter().filter_map(|(id, token)| Some((tokenizer.token_to_id(&token.content)?, *id))).collect();
        Ok(Self { tokenizer, ids })
    }

    /// The ids of a text whose template was given marked messages.
    ///
    /// # Errors
    /// A text that the tokenizer's model cannot express.
    pub(crate) fn encode(&self, rendered: &str, spellings: &Spellings) -> Result<Vec<u32>, tokenizers::Error> {
        let encoding = self.tokenizer.encode_fast(spellings.unmarked(rendered), false)?;
        Ok(encoding.get_ids().iter().map(|id| self.ids.get(id).copied().unwrap_or(*id)).collect())
    }
}

/// What the control tokens of a tokenizer look like.
pub(crate) struct Spellings {
    tokens: HashSet<String>,
    /// Their first bytes, which most places of a text do not have.
    firsts: HashSet<u8>,
    /// Their lengths in bytes: the longest of several that begin at the same place is meant.
    lengths: BTreeSet<usize>,
}

impl Spellings {
    /// Those of the tokens that `tokenizer.json` says are special.
    pub(crate) fn new(of: &tokenizers::Tokenizer) -> Self {
        let tokens = of.get_added_tokens_decoder().into_values().filter(|token| token.special);
        Self::of(tokens.map(|token| token.content))
    }

    fn of(tokens: impl Iterator<Item = String>) -> Self {
        let tokens: HashSet<String> = tokens.filter(|text| !text.is_empty()).collect();
        let firsts = tokens.iter().filter_map(|text| text.bytes().next()).collect();
        let lengths = tokens.iter().map(String::len).collect();
        Self { tokens, firsts, lengths }
    }

    /// `text` with a mark in front of each control token that it spells; `None` if it spells none.
    pub(crate) fn marked(&self, text: &str) -> Option<String> {
        let mut marked = String::new();
        let (mut rest, mut found) = (text, false);
        while let Some(c) = rest.chars().next() {
            let length = self.length_at(rest);
            found |= length.is_some();
            if length.is_some() {
                marked.push(MARK);
            }
            let (part, after) = rest.split_at(length.unwrap_or(c.len_utf8()));
            marked.push_str(part);
            rest = after;
        }
        found.then_some(marked)
    }

    /// `rendered` with an alias for each control token without a mark, and without the marks.
    fn unmarked(&self, rendered: &str) -> String {
        let mut text = String::with_capacity(rendered.len());
        let mut rest = rendered;
        while let Some(c) = rest.chars().next() {
            let is_marked = c == MARK;
            rest = rest.strip_prefix(MARK).unwrap_or(rest);
            let length = self.length_at(rest);
            if length.is_some() && !is_marked {
                text.push(MARK);
            }
            // Where a template has cut a mark from its token, nothing but the mark is taken.
            let taken = length.or((!is_marked).then_some(c.len_utf8())).unwrap_or(0);
            let (part, after) = rest.split_at(taken);
            text.push_str(part);
            rest = after;
        }
        text
    }

    /// The length of the control token that `text` begins with.
    fn length_at(&self, text: &str) -> Option<usize> {
        text.bytes().next().filter(|first| self.firsts.contains(first))?;
        let fits = |length: &usize| text.get(..*length).is_some_and(|text| self.tokens.contains(text));
        self.lengths.iter().rev().copied().find(fits)
    }
}

fn alias(token: &str) -> String {
    format!("{MARK}{token}")
}

/// A code point that Unicode keeps out of all text.
pub(crate) const MARK: char = '\u{FDD0}';

#[cfg(test)]
mod tests {
    use super::*;

    fn spellings(tokens: &[&str]) -> Spellings {
        Spellings::of(tokens.iter().map(|token| (*token).to_owned()))
    }

    #[test]
    fn every_spelling_is_marked_once_and_the_longest_counts() {
        let spellings = spellings(&["<s>", "<s>x", "é<"]);
        assert_eq!(spellings.marked("a<s>b"), Some("a\u{FDD0}<s>b".into()));
        assert_eq!(spellings.marked("<s><s>xé<s>"), Some("\u{FDD0}<s>\u{FDD0}<s>x\u{FDD0}é<s>".into()));
        assert_eq!(spellings.marked("< s>é"), None);
        assert_eq!(spellings.marked(""), None);
    }

    #[test]
    fn what_is_not_marked_gets_an_alias_and_marks_go() {
        let spellings = spellings(&["<s>"]);
        assert_eq!(spellings.unmarked("<s>hi \u{FDD0}<s><s>"), "\u{FDD0}<s>hi <s>\u{FDD0}<s>");
        assert_eq!(spellings.unmarked("a\u{FDD0}b\u{FDD0}"), "ab");
    }
}
