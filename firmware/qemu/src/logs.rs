//! defmt's logs as text.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use defmt_decoder::{DecodeError, Table};

/// The lines that an image has logged so far.
pub(crate) fn lines(image: &Path, log: &Path) -> Result<Vec<String>> {
    let elf = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let table = Table::parse(&elf)?.context("the image has no defmt section")?;
    let mut decoder = table.new_stream_decoder();
    decoder.received(&fs::read(log).unwrap_or_default());
    let mut lines = Vec::new();
    loop {
        match decoder.decode() {
            Ok(frame) => lines.push(frame.display_message().to_string()),
            Err(DecodeError::UnexpectedEof) => return Ok(lines),
            // A board that lost its power in the middle of a line.
            Err(DecodeError::Malformed) => {}
        }
    }
}
