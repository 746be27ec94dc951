//! The committed seeds hold every property, on any compiler: `cargo test --no-default-features`.

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        run(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} holds no seed", folder.display());
}

#[test]
fn headers() {
    replay("header", syn1_fuzz::header);
}

#[test]
fn streams_in_any_pieces() {
    replay("decoder_chunks", syn1_fuzz::decoder_chunks);
}

#[test]
fn values_there_and_back() {
    replay("codec_roundtrip", syn1_fuzz::codec_roundtrip);
}

#[test]
fn hostile_payloads() {
    replay("codec_hostile", syn1_fuzz::codec_hostile);
}

#[test]
fn control_messages() {
    replay("control", syn1_fuzz::control);
}

#[test]
fn pairs_of_sessions() {
    replay("session_pair", syn1_fuzz::session_pair);
}

#[test]
fn delta_over_a_lossy_link() {
    replay("delta", syn1_fuzz::delta);
}

#[test]
fn compressed_frames() {
    replay("compressed", syn1_fuzz::compressed);
}
