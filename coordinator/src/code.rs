//! The join code: eight letters that a person reads to another one, and that let a node in.

use std::fmt;
use std::str::FromStr;

use syn1_identity::{KeyFileError, nonce};

/// A join code. Text form: capital letters and digits, a dash after four; read in any case, with dashes or without.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(String);

/// A text that is no join code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no join code: it should have {min} to {max} letters and digits", min = SHORTEST, max = LONGEST)]
pub struct CodeError(String);

impl Code {
    /// A code that nobody can foresee: one of 31^8, which is 40 bits.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn generate() -> Result<Self, KeyFileError> {
        let mut code = String::with_capacity(LETTERS);
        while code.len() < LETTERS {
            // Bytes beyond the last multiple of the alphabet's length would make its first letters likelier.
            let fair = nonce()?.into_iter().filter(|byte| usize::from(*byte) < 256 / ALPHABET.len() * ALPHABET.len());
            let letters = fair.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
            code.extend(letters.take(LETTERS - code.len()));
        }
        Ok(Self(code))
    }

    /// Capital letters and digits, without a dash.
    pub(crate) fn plain(&self) -> &str {
        &self.0
    }

    /// Whether a text is this code. How long it takes says nothing of how much of it is right.
    pub fn is(&self, text: &str) -> bool {
        let text = normal(text);
        let differ = self.0.bytes().zip(text.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
        differ == 0 && text.len() == self.0.len()
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let code = normal(text);
        let good = (SHORTEST..=LONGEST).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if good { Ok(Self(code)) } else { Err(CodeError(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(LETTERS / 2) {
            Some((first, second)) if self.0.len() == LETTERS => write!(f, "{first}-{second}"),
            _ => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for Code {
    /// Nothing of it: a secret must not get into a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

/// Capital letters without dashes and spaces.
fn normal(text: &str) -> String {
    text.chars().filter(|char| !matches!(char, '-' | ' ')).map(|char| char.to_ascii_uppercase()).collect()
}

/// Letters and digits that nobody takes for one another: no I, L and O, no 0 and 1.
const ALPHABET: &[u8; 31] = b"ABCDEFGHJKMNPQRSTUVWXYZ23456789";

/// Letters of a code that is made here.
const LETTERS: usize = 8;

/// Letters of a code that a person chose: below this it is guessed soon, and nobody types more.
const SHORTEST: usize = 6;
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_it_is_shown_and_as_people_type_it() {
        let code = Code::generate().unwrap();
        let shown = code.to_string();
        assert_eq!((shown.len(), shown.find('-')), (9, Some(4)), "{shown}");
        assert!(shown.bytes().all(|byte| byte == b'-' || ALPHABET.contains(&byte)), "{shown}");
        for typed in [shown.clone(), shown.to_lowercase(), shown.replace('-', ""), shown.replace('-', " ")] {
            assert!(code.is(&typed), "{typed}");
            assert_eq!(typed.parse(), Ok(code.clone()));
        }
        assert!(!code.is(&shown[1..]) && !code.is("") && !code.is(&format!("{shown}A")));
        assert_ne!(Code::generate().unwrap(), code);
        assert!(!format!("{code:?}").contains(&shown[..4]));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in ["", "abc", "abc-de", "abc,def", "äöüäöü", &"a".repeat(65)] {
            assert!(text.parse::<Code>().unwrap_err().to_string().contains("6 to 64"), "{text}");
        }
    }
}
