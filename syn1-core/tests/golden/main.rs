//! The published vectors: what this crate writes is what lies in `vectors/`, and reading it gives what is said there.
//!
//! `SYN1_BLESS=1 cargo test -p syn1-core --test golden` writes the vectors that are missing. It never rewrites one: a
//! published vector is a promise (SPEC.md, section 10), and who means to break it deletes the file by hand.

mod cases;
mod describe;
mod forms;
mod refused;
mod vector;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{env, fs};

use vector::Vector;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn all() -> Vec<Vector> {
    [cases::data(), cases::control(), refused::headers(), refused::payloads(), forms::accepted(), forms::refused()]
        .concat()
}

/// Writes the vectors that are missing, if it is asked for, before any test looks at them.
fn bless() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let path = |vector: &Vector| folder().join(format!("{}.txt", vector.name));
        if env::var_os("SYN1_BLESS").is_some() {
            fs::create_dir_all(folder()).unwrap();
            let missing = all().into_iter().filter(|vector| !path(vector).exists());
            missing.for_each(|vector| fs::write(path(&vector), vector.text()).unwrap());
        }
    });
}

#[test]
fn what_is_written_is_what_was_published() {
    bless();
    for vector in all() {
        let path = folder().join(format!("{}.txt", vector.name));
        let published = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{}: {error}; a new vector is written by SYN1_BLESS=1 cargo test -p syn1-core", path.display())
        });
        assert_eq!(vector.text(), published, "{}", path.display());
    }
}

#[test]
fn every_published_file_reads_as_it_says() {
    bless();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let read = Vector::read(&path);
        assert_eq!(describe::lines(&read.before, &read.bytes, &read.limits), read.meaning, "{}", path.display());
        names.insert(read.name);
    }
    let known: BTreeSet<String> = all().into_iter().map(|vector| vector.name).collect();
    assert_eq!(names, known);
}

/// A vector that says "refused" must say it for the reason that it was made for.
#[test]
fn vectors_are_refused_if_and_only_if_their_name_says_so() {
    for vector in all() {
        let refused = vector.meaning[0].starts_with("expect error ");
        assert_eq!(refused, vector.name.starts_with("refused-"), "{}: {:?}", vector.name, vector.meaning);
    }
}
