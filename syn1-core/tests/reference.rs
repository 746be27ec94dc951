//! The reference decoder in Python reads and writes the same vectors, byte for byte.

use std::path::Path;
use std::process::{Command, Output};
use std::{fs, io};

fn check(vectors: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/syn1.py");
    let output = Command::new("python3").arg("-B").arg(script).arg("check").arg(vectors).output();
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            panic!("python3 is not installed: the reference decoder needs it (Debian: apt-get install python3)")
        }
        output => output.expect("python3 can be run"),
    }
}

fn published() -> impl Iterator<Item = std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

#[test]
fn the_reference_agrees_with_every_vector() {
    let output = check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"));
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    assert_eq!(said.trim(), format!("{} vectors agree", published().count()));
}

/// Each vector with one bit of its frame turned: the reference must name every one of them.
#[test]
fn the_reference_notices_one_turned_bit_in_any_vector() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("turned");
    let _none_before = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let mut names = Vec::new();
    for path in published() {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Refusals and ignorable frames may stay what they are; in an accepted frame every bit counts.
        if name.starts_with("refused-") || name.starts_with("ignorable") {
            continue;
        }
        let (before, last) = text.split_at(text.rfind("\nbytes ").unwrap() + "\nbytes ".len());
        let (digits, after) = last.split_once('\n').unwrap();
        let (kept, digit) = digits.split_at(digits.len() - 1);
        let turned = u8::from_str_radix(digit, 16).unwrap() ^ 1;
        fs::write(folder.join(&name), format!("{before}{kept}{turned:x}\n{after}")).unwrap();
        names.push(name);
    }
    let output = check(&folder);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for name in names {
        assert!(complaints.contains(&format!("{name}: ")), "{name} went unnoticed: {complaints}");
    }
}
