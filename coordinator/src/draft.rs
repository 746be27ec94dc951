//! Guesses what a request will say next from what it has read and said: the tokens that followed the last time the same
//! few tokens stood in its text ("prompt lookup", Saxena 2023). Costs no model and no message; a wrong guess costs the rows
//! that were computed for it.

/// The tokens of one request, prompt included, as the source of guesses.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    context: Vec<u32>,
}

impl Draft {
    pub(crate) fn new(prompt: &[u32]) -> Self {
        Self { context: prompt.to_vec() }
    }

    /// Tokens so far, prompt included.
    pub(crate) fn len(&self) -> usize {
        self.context.len()
    }

    /// Those behind the first `len`.
    pub(crate) fn behind(&self, len: usize) -> &[u32] {
        self.context.get(len..).unwrap_or_default()
    }

    /// At most the first `count` of them.
    pub(crate) fn context(&self, count: usize) -> &[u32] {
        &self.context[..count.min(self.context.len())]
    }

    /// Takes in a token that is certain.
    pub(crate) fn push(&mut self, id: u32) {
        self.context.push(id);
    }

    /// At most `count` guesses for what follows: what came after the longest match of the newest tokens with earlier ones
    /// (of equally long ones, after the latest). Empty without a match of [`SHORTEST`] tokens.
    pub(crate) fn guess(&self, count: usize) -> Vec<u32> {
        let newest = &self.context[..];
        let (mut longest, mut from) = (SHORTEST - 1, 0);
        for end in (SHORTEST..newest.len()).rev() {
            let backwards = newest[..end].iter().rev().zip(newest.iter().rev());
            let matched = backwards.take(LONGEST).take_while(|(earlier, newer)| earlier == newer).count();
            if matched > longest {
                (longest, from) = (matched, end);
            }
            if longest == LONGEST {
                break;
            }
        }
        if from == 0 { Vec::new() } else { newest[from..].iter().copied().take(count).collect() }
    }
}

/// Tokens that must match: a single one says nothing about the next.
const SHORTEST: usize = 2;

/// Tokens that are compared: a longer match is hardly a better guess.
const LONGEST: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(context: &[u32], count: usize) -> Vec<u32> {
        Draft::new(context).guess(count)
    }

    #[test]
    fn what_followed_the_same_tokens_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 1, 2], 3), [3, 4, 5]);
        assert_eq!(guess(&[1, 2, 3, 4, 5, 1, 2], 9), [3, 4, 5, 1, 2]);
    }

    #[test]
    fn a_longer_match_beats_a_later_one() {
        assert_eq!(guess(&[7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2], 1), [3]);
        assert_eq!(guess(&[1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 1), [4]);
    }

    #[test]
    fn a_repetition_is_guessed_to_go_on() {
        assert_eq!(guess(&[5, 5, 5], 4), [5]);
        let mut draft = Draft::new(&[1, 2, 1]);
        draft.push(2);
        assert_eq!(draft.guess(4), [1, 2]);
    }

    #[test]
    fn nothing_is_guessed_without_a_match() {
        for context in [&[][..], &[1], &[1, 1], &[1, 2, 3], &[1, 2, 3, 2]] {
            assert_eq!(guess(context, 4), [0; 0], "{context:?}");
        }
    }
}
