//! Stop strings in streamed text: nothing that may belong to one is shown before it is known not to.

/// Watches streamed text for stop strings.
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Watches for any of `stops`; empty ones are ignored.
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes more text; gives what can be shown, and whether a stop string ended the text.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let shown = self.held[..end].to_owned();
            self.held.clear();
            return (shown, true);
        }
        let keep = self.undecided();
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The end of the text: what was held back.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest tail that begins a stop string.
    fn undecided(&self) -> usize {
        let begins = |tail: &str| self.stops.iter().any(|stop| stop.starts_with(tail));
        let starts = self.held.char_indices().map(|(at, _)| at);
        starts.map(|at| &self.held[at..]).find(|tail| begins(tail)).map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], parts: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut watch = StopStrings::new(&stops);
        let mut shown = String::new();
        for part in parts {
            let (text, stopped) = watch.push(part);
            shown.push_str(&text);
            if stopped {
                return (shown, true);
            }
        }
        shown.push_str(&watch.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_string_across_parts_is_never_shown() {
        assert_eq!(stream(&["###"], &["one #", "#", "# two"]), ("one ".into(), true));
    }

    #[test]
    fn what_only_began_like_one_is_shown_in_the_end() {
        assert_eq!(stream(&["###", "ü!"], &["a ##", " b ", "ü", "?", "#"]), ("a ## b ü?#".into(), false));
    }

    #[test]
    fn the_earliest_of_several_ends_the_text() {
        assert_eq!(stream(&["world", "o w"], &["hello world"]), ("hell".into(), true));
    }

    #[test]
    fn without_stop_strings_nothing_is_held() {
        assert_eq!(StopStrings::new(&[String::new()]).push("text"), ("text".into(), false));
    }
}
