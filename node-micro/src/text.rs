//! Lines for people, in memory of a fixed size.

use core::fmt;

use syn1_core::limits::MAX_TEXT;

/// A text of as many bytes as a message carries; what does not fit is cut off.
pub(crate) struct Text {
    bytes: [u8; MAX_TEXT],
    len: usize,
}

impl Text {
    /// What `arguments` say.
    pub(crate) fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; MAX_TEXT], len: 0 };
        // It stops by an error where the room ends.
        let _ = fmt::write(&mut text, arguments);
        text
    }

    pub(crate) fn as_str(&self) -> &str {
        // Whole characters are written or none.
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let end = self.len + character.len_utf8();
            let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
            character.encode_utf8(room);
            self.len = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        assert_eq!(Text::of(format_args!("{} of {}", 1, "ü")).as_str(), "1 of ü");
        let long = "ü".repeat(MAX_TEXT);
        assert_eq!(Text::of(format_args!("-{long}")).as_str().len(), MAX_TEXT - 1);
    }
}
