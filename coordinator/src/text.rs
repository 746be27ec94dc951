//! What a request's ids become: text as it is certain, and the end.

use syn1_model::detokenizer::Detokenizer;
use syn1_model::tokenizer::Tokenizer;

use crate::request::Generate;
use crate::stop::StopStrings;
use crate::update::{Finish, Logprobs, Update};

/// The text of one request, token by token.
pub struct Text {
    detokenizer: Option<Detokenizer>,
    stops: StopStrings,
    /// Ids that end the text; none where they are to be ignored.
    eos: Vec<u32>,
    tokens: usize,
    max_tokens: usize,
    max_positions: usize,
}

/// What follows from a token.
pub enum Next {
    /// The text goes on.
    More(Update),
    /// The text ends, with this much of it held back until now.
    Last(Option<Update>, String, Finish),
}

impl Next {
    /// The same, its token's log-probabilities told.
    pub(crate) fn with(mut self, told: Option<Logprobs>) -> Self {
        if let Self::More(Update::Token { logprobs, .. }) | Self::Last(Some(Update::Token { logprobs, .. }), ..) =
            &mut self
        {
            *logprobs = told;
        }
        self
    }
}

/// The ids that end a text: the model's, and the tokenizer's, for a chat model's end of turn is often the tokenizer's alone
/// to know.
pub fn ends(model: &[u32], tokenizer: Option<&Tokenizer>) -> Vec<u32> {
    model.iter().copied().chain(tokenizer.and_then(Tokenizer::eos)).collect()
}

impl Text {
    /// The text behind `ask`'s prompt, which `ends` end, in a context of `max_positions`.
    pub fn new(ask: &Generate, ends: &[u32], max_positions: usize, tokenizer: Option<&Tokenizer>) -> Self {
        Self {
            detokenizer: tokenizer.map(|tokenizer| tokenizer.detokenizer_after(&ask.prompt)),
            stops: StopStrings::new(&ask.stop),
            eos: if ask.ignore_eos { Vec::new() } else { ends.to_vec() },
            tokens: 0,
            max_tokens: ask.max_tokens,
            max_positions,
        }
    }

    /// The ids that end it.
    pub fn ends(&self) -> &[u32] {
        &self.eos
    }

    /// Tokens so far; the id that ends the text is none of it.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes in token `id`, which stands at `position`.
    ///
    /// # Errors
    /// What the tokenizer says of an id that it does not know.
    pub fn push(&mut self, id: u32, position: usize) -> Result<Next, String> {
        if self.eos.contains(&id) {
            return Ok(Next::Last(None, self.rest()?, Finish::Stop));
        }
        self.tokens += 1;
        let fresh = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.push(id).map_err(|error| error.to_string())?,
            None => "",
        };
        let (text, stopped) = self.stops.push(fresh);
        let update = Update::Token { id, text, logprobs: None };
        if stopped {
            return Ok(Next::Last(Some(update), String::new(), Finish::Stop));
        }
        let reason = if self.tokens >= self.max_tokens {
            Finish::Length
        } else if position >= self.max_positions {
            Finish::Context
        } else {
            return Ok(Next::More(update));
        };
        Ok(Next::Last(Some(update), self.rest()?, reason))
    }

    /// The text that was held back, now that nothing follows.
    fn rest(&mut self) -> Result<String, String> {
        let tail = match &mut self.detokenizer {
            Some(detokenizer) => detokenizer.finish().map_err(|error| error.to_string())?,
            None => "",
        };
        let (mut text, stopped) = self.stops.push(tail);
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(max_tokens: usize, ignore_eos: bool, max_positions: usize) -> Text {
        let (prompt, sampling) = (vec![1, 2], Default::default());
        let ask = Generate { prompt, max_tokens, sampling, stop: vec![], ignore_eos, speculate: 0 };
        Text::new(&ask, &ends(&[9], None), max_positions, None)
    }

    /// Ids handed on and the reason, for ids from position 2 on.
    fn ended(mut text: Text, ids: &[u32]) -> (usize, Option<Finish>) {
        for (&id, position) in ids.iter().zip(2..) {
            if let Next::Last(update, held, reason) = text.push(id, position).unwrap() {
                assert_eq!((update.is_none(), held), (text.ends().contains(&id), String::new()));
                return (text.tokens(), Some(reason));
            }
        }
        (text.tokens(), None)
    }

    #[test]
    fn a_text_ends_with_its_end_token_its_length_or_its_context_whichever_comes_first() {
        let ids = [5, 6, 9, 7, 8];
        assert_eq!(ended(text(100, false, 100), &ids), (2, Some(Finish::Stop)));
        assert_eq!(ended(text(100, true, 100), &ids), (5, None));
        assert_eq!(ended(text(2, false, 100), &ids), (2, Some(Finish::Length)));
        assert_eq!(ended(text(4, true, 100), &ids), (4, Some(Finish::Length)));
        // The token at the position behind the last can be shown, and not fed.
        assert_eq!(ended(text(100, true, 4), &ids), (3, Some(Finish::Context)));
    }
}
