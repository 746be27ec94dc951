//! How activations travel over each boundary between layers.

use std::collections::BTreeMap;
use std::fmt;

use syn1_core::{CodecSet, Flags, Form};

/// A form for every boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    elsewhere: Form,
    at: BTreeMap<usize, Form>,
}

impl Wire {
    /// The same form at every boundary.
    pub fn everywhere(form: Form) -> Self {
        Self { elsewhere: form, at: BTreeMap::new() }
    }

    /// The forms of `at`, each for the boundary before the layer of that number, and `elsewhere` at all others.
    pub fn chosen(elsewhere: Form, at: BTreeMap<usize, Form>) -> Self {
        Self { elsewhere, at }
    }

    /// How activations travel to `layer` from the one before it.
    pub fn before(&self, layer: usize) -> Form {
        self.at.get(&layer).copied().unwrap_or(self.elsewhere)
    }

    /// What a link needs that can carry it anywhere.
    pub fn needs(&self) -> Needs {
        let forms = || self.at.values().chain([&self.elsewhere]);
        let codecs = CodecSet(forms().fold(0, |set, form| set | CodecSet::of(&[form.codec()]).0));
        let flags = forms().fold(Flags::NONE, |flags, form| flags.union(form.flags()));
        Needs { codecs, flags }
    }
}

impl fmt::Display for Wire {
    /// The form where there is one, `q8+compressed (layer 3: f16)` and the like where there are several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<(Form, usize)> = Vec::new();
        for form in self.at.values().copied() {
            match counts.iter_mut().find(|(counted, _)| *counted == form) {
                Some((_, count)) => *count += 1,
                None => counts.push((form, 1)),
            }
        }
        let most = counts.iter().max_by_key(|(_, count)| *count).map_or(self.elsewhere, |(form, _)| *form);
        write!(f, "{most}")?;
        let others: Vec<String> = self
            .at
            .iter()
            .filter(|(_, form)| **form != most)
            .map(|(layer, form)| format!("layer {layer}: {form}"))
            .collect();
        if others.is_empty() { Ok(()) } else { write!(f, " ({})", others.join(", ")) }
    }
}

/// Codecs and flags that a node must be able to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Every codec that may come.
    pub codecs: CodecSet,
    /// Every flag that may come.
    pub flags: Flags,
}

impl Needs {
    /// What of it a link lacks that has `codecs` and `flags`, in words; nothing if it has all.
    pub(crate) fn missing(&self, codecs: CodecSet, flags: Flags) -> Option<String> {
        let flags = self.flags.without(flags);
        let codecs = Form::ALL
            .iter()
            .filter(|form| form.flags().is_empty())
            .map(|form| form.codec())
            .filter(|codec| self.codecs.contains(*codec) && !codecs.contains(*codec));
        let mut words: Vec<String> = codecs.map(|codec| codec.to_string()).collect();
        if !flags.is_empty() {
            words.push(flags.to_string());
        }
        (!words.is_empty()).then(|| words.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use syn1_core::Codec;

    use super::*;

    fn form(name: &str) -> Form {
        Form::from_name(name).unwrap()
    }

    #[test]
    fn each_boundary_has_its_form() {
        let wire = Wire::chosen(form("f16"), BTreeMap::from([(1, form("q8")), (3, form("q8+compressed"))]));
        assert_eq!([1, 2, 3, 4].map(|layer| wire.before(layer).to_string()), ["q8", "f16", "q8+compressed", "f16"]);
        assert_eq!(wire.needs().flags, Flags::COMPRESSED);
        assert!(wire.needs().codecs.contains(Codec::Q8) && wire.needs().codecs.contains(Codec::F16));
        assert!(!wire.needs().codecs.contains(Codec::Q4));
    }

    #[test]
    fn its_name_tells_the_rule_and_the_exceptions() {
        assert_eq!(Wire::everywhere(form("q8")).to_string(), "q8");
        let at = BTreeMap::from([(1, form("q8")), (2, form("f16")), (3, form("q8"))]);
        assert_eq!(Wire::chosen(form("f16"), at).to_string(), "q8 (layer 2: f16)");
    }

    #[test]
    fn what_a_node_lacks_is_named() {
        let needs = Wire::everywhere(form("q8+delta+compressed")).needs();
        assert_eq!(needs.missing(CodecSet::ACTIVATIONS, Flags::NEGOTIABLE), None);
        let old = CodecSet::of(&[Codec::F32]);
        assert_eq!(needs.missing(old, Flags::DELTA).unwrap(), "q8 and compressed");
    }
}
