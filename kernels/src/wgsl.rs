//! WGSL files: the variants that one file gives, and the bindings that a text declares.
//!
//! A line that ends in a comment of `#` and tags belongs only to variants with all of these tags. What differs by a number
//! is an `override`. Bindings are read off a variant's own text, so that a layout cannot disagree with its shader.

use wgpu::BufferBindingType;

/// The lines of `text` that have no tags, or only some of `tags`.
///
/// ```
/// let text = "let x = a; //#W16\nlet x = b; //#W8 SG\nreturn x;\n";
/// assert_eq!(syn1_kernels::wgsl::variant(text, &["W16", "SG"]), "let x = a;\nreturn x;\n");
/// ```
pub fn variant(text: &str, tags: &[&str]) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let (code, wanted) = line.split_once(TAGS).unwrap_or((line, ""));
        if wanted.split_whitespace().all(|tag| tags.contains(&tag)) {
            out.push_str(code.trim_end());
            out.push('\n');
        }
    }
    out
}

/// The bindings of group 0 that a text declares, one a line, by number: whatever their order, the same ones make the same
/// layout.
pub fn bindings(text: &str) -> Vec<(u32, BufferBindingType)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((number, rest)) = line.strip_prefix("@group(0) @binding(").and_then(|rest| rest.split_once(')'))
        else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        let ty = if rest.contains("var<uniform>") {
            BufferBindingType::Uniform
        } else {
            BufferBindingType::Storage { read_only: rest.contains("var<storage, read>") }
        };
        found.push((number, ty));
    }
    found.sort_unstable_by_key(|(number, _)| *number);
    found
}

/// What starts the tags at a line's end.
const TAGS: &str = "//#";
