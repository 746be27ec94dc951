//! Bytes of code and of stack in a program of firmware, out of its ELF file.

/// The sizes of a program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Bytes of functions that are neither the compiler's library nor the entry.
    pub(crate) code: u64,
    /// Bytes of functions of the compiler's library.
    pub(crate) library: u64,
    /// Bytes of the largest stack frame but the entry's.
    pub(crate) frame: u64,
    /// Whose it is.
    pub(crate) of_frame: String,
}

/// Measures a program of 32-bit little-endian ARM that was built with `-Zemit-stack-sizes`; `entry` names the function that
/// is not counted. `None` where the bytes are no such file.
pub(crate) fn measure(elf: &[u8], entry: &str) -> Option<Measured> {
    let sections = sections(elf)?;
    let functions = functions(elf, &sections)?;
    let frames = sections.iter().find(|section| section.name == ".stack_sizes")?;
    let mut measured = Measured { code: 0, library: 0, frame: 0, of_frame: String::new() };
    for function in &functions {
        if function.is_library() {
            measured.library += function.bytes;
        } else if function.name != entry {
            measured.code += function.bytes;
        }
    }
    let mut rest = elf.get(frames.offset..frames.offset + frames.bytes)?;
    while let Some((address, tail)) = rest.split_first_chunk() {
        let address = u32::from_le_bytes(*address);
        let (frame, tail) = leb128(tail)?;
        rest = tail;
        let name = functions.iter().find(|function| function.address == address & !1).map(|function| &*function.name);
        if frame > measured.frame && name != Some(entry) {
            (measured.frame, measured.of_frame) = (frame, name.unwrap_or("a function without name").to_owned());
        }
    }
    (!functions.is_empty() && measured.frame > 0).then_some(measured)
}

/// Bytes of the section with this name; 0 if there is none. `None` where the bytes are no 32-bit little-endian ELF file.
pub(crate) fn section_bytes(elf: &[u8], name: &str) -> Option<u64> {
    let sections = sections(elf)?;
    Some(sections.iter().filter(|section| section.name == name).map(|section| section.bytes as u64).sum())
}

/// A section of a 32-bit little-endian ELF file.
struct Section {
    name: String,
    offset: usize,
    bytes: usize,
    /// The section that holds this one's names.
    link: usize,
}

fn sections(elf: &[u8]) -> Option<Vec<Section>> {
    if elf.get(..6)? != b"\x7fELF\x01\x01" {
        return None;
    }
    let (table, count, names) = (word(elf, 32)?, half(elf, 48)?, half(elf, 50)?);
    let field = |section: usize, at: usize| word(elf, table + 40 * section + at);
    let names = field(names, 16)?;
    (0..count)
        .map(|section| {
            let name = text(elf, names + field(section, 0)?)?;
            Some(Section { name, offset: field(section, 16)?, bytes: field(section, 20)?, link: field(section, 24)? })
        })
        .collect()
}

struct Function {
    name: String,
    address: u32,
    bytes: u64,
}

impl Function {
    fn is_library(&self) -> bool {
        let library = ["__aeabi_", "__div", "__mul", "__add", "__sub", "mem"];
        self.name.contains("compiler_builtins") || library.iter().any(|start| self.name.starts_with(start))
    }
}

/// The functions of the symbol table, each address once.
fn functions(elf: &[u8], sections: &[Section]) -> Option<Vec<Function>> {
    let symbols = sections.iter().find(|section| section.name == ".symtab")?;
    let names = sections.get(symbols.link)?.offset;
    let mut functions: Vec<Function> = Vec::new();
    for at in (symbols.offset..symbols.offset + symbols.bytes).step_by(16) {
        let (address, bytes) = (u32::try_from(word(elf, at + 4)?).ok()? & !1, word(elf, at + 8)? as u64);
        let is_function = elf.get(at + 12)? & 15 == 2;
        if is_function && functions.iter().all(|function| function.address != address) {
            functions.push(Function { name: text(elf, names + word(elf, at)?)?, address, bytes });
        }
    }
    Some(functions)
}

fn half(elf: &[u8], at: usize) -> Option<usize> {
    elf.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_le_bytes(*bytes)))
}

fn word(elf: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*elf.get(at..)?.first_chunk()?)).ok()
}

fn text(elf: &[u8], at: usize) -> Option<String> {
    let bytes = elf.get(at..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = 1 + bytes.iter().take(9).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at_checked(len)?;
    Some((number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_stack_sizes_are_read_as_they_are_written() {
        assert_eq!(leb128(&[0x08, 1]), Some((8, &[1][..])));
        assert_eq!(leb128(&[0xd0, 0x0a]), Some((1360, &[][..])));
        assert_eq!(leb128(&[0x80]), None);
    }

    #[test]
    fn what_is_no_elf_file_has_no_sizes() {
        assert_eq!(measure(b"\x7fELF\x02\x01", "_start"), None);
        assert_eq!(measure(b"", "_start"), None);
        assert_eq!(section_bytes(b"", ".text"), None);
    }

    #[test]
    fn the_compilers_library_is_told_from_the_crate() {
        let library = |name: &str| Function { name: name.to_owned(), address: 0, bytes: 0 }.is_library();
        assert!(library("__aeabi_memcpy") && library("_RNvNtCsx_17compiler_builtins3mem7memmove") && library("memcmp"));
        assert!(!library("_RNvNtCsx_9syn1_core6header5parse") && !library("_start"));
    }
}
