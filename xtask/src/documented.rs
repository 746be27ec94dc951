//! Measures which public items of `syn1-core` have documentation and an example.

use anyhow::{Context, Result, ensure};

use crate::cargo_command;

/// Prints the shares and holds them to [`FLOOR`]; the doc tests themselves run with the tests.
pub(crate) fn check() -> Result<()> {
    let mut command = cargo_command(&["doc", "--quiet", "--package", "syn1-core", "--no-deps"]);
    // Beside the documentation that people read: coverage is written instead of it.
    command.env("CARGO_TARGET_DIR", "target/documented").env("RUSTC_BOOTSTRAP", "1");
    command.env("RUSTDOCFLAGS", "-Z unstable-options --show-coverage");
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (documented, examples) = total(&said).with_context(|| format!("rustdoc says no total:\n{said}"))?;
    println!(
        "{documented} % of the public items are documented, {examples} % of those that can have one have an example"
    );
    let low = "which items lack one: RUSTC_BOOTSTRAP=1 RUSTDOCFLAGS=\"-Z unstable-options --show-coverage\" cargo doc -p syn1-core";
    ensure!(documented >= 100.0, "every public item needs documentation; {low}");
    ensure!(examples >= FLOOR, "{examples} % have an example where {FLOOR} are the floor; {low}");
    Ok(())
}

/// Per cent of items with documentation and with an example, out of the table's last row.
fn total(table: &str) -> Option<(f64, f64)> {
    let row = table.lines().find(|line| line.starts_with("| Total"))?;
    let mut shares = row.split('|').filter_map(|cell| cell.trim().strip_suffix('%')?.parse().ok());
    Some((shares.next()?, shares.next()?))
}

/// Per cent of items with an example.
const FLOOR: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_the_tables_last_row() {
        let table = "\
| File                                | Documented | Percentage |   Examples | Percentage |
| syn1-core/src/time.rs               |          6 |     100.0% |          1 |      20.0% |
| Total                               |        306 |     100.0% |          2 |       1.1% |
";
        assert_eq!(total(table), Some((100.0, 1.1)));
        assert_eq!(total("nothing"), None);
    }
}
