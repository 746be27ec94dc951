//! Whole models, from a hub that cuts, lies and refuses.

#[path = "support/reader.rs"]
mod reader;
mod support;

use std::fs;

use reader::Reader;
use support::{Fault, Hub};
use syn1_hub::HubError;
use syn1_hub::limits::{MAX_ATTEMPTS, MAX_LISTING_BYTES};

const WEIGHTS: &str = "model.safetensors";
const SIZE: usize = 1_176_184;

fn llama() -> (Hub, Reader) {
    let hub = Hub::serve("fixtures/llama");
    assert_eq!(hub.bytes(WEIGHTS).len(), SIZE);
    (hub, Reader::new())
}

/// That a pull ends well, with the right bytes.
fn comes_whole(hub: &Hub, reader: &Reader) -> u64 {
    let pulled = reader.pull(hub).unwrap();
    assert_eq!(fs::read(pulled.folder.join(WEIGHTS)).unwrap(), hub.bytes(WEIGHTS));
    let blobs = Reader::files(&reader.dir.path().join("hub/models--org--small/blobs"));
    assert!(blobs.iter().all(|name| !name.ends_with(".incomplete")), "{blobs:?}");
    pulled.fetched_bytes
}

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let (hub, reader) = llama();
    hub.fail(WEIGHTS, &[Fault::Cut(1000), Fault::Cut(0), Fault::Cut(300_000)]);
    let small = (hub.bytes("config.json").len() + hub.bytes("generation_config.json").len()) as u64;
    assert_eq!(comes_whole(&hub, &reader), SIZE as u64 + small, "no byte twice");
    let last = SIZE - 1;
    let resumed = [format!("1000-{last}"), format!("1000-{last}"), format!("301000-{last}")];
    assert_eq!(hub.ranges(WEIGHTS), [&["all".to_owned()][..], &resumed].concat());
}

#[test]
fn a_pull_that_was_left_is_resumed_by_the_next_one() {
    let (hub, reader) = llama();
    reader.leave_at.set(500_000);
    assert!(matches!(reader.pull(&hub), Err(HubError::Cancelled)));
    let there = reader.last.get().0;
    assert!((500_000..SIZE as u64).contains(&there));
    assert!(reader.endpoint(&hub, None).cache().find(&"org/small".parse().unwrap()).is_err(), "not whole yet");
    reader.leave_at.set(u64::MAX);
    let pulled = reader.pull(&hub).unwrap();
    assert_eq!(pulled.reused_bytes, there);
    assert_eq!(reader.last.get().0, pulled.reused_bytes + pulled.fetched_bytes);
    assert_eq!(fs::read(pulled.folder.join(WEIGHTS)).unwrap(), hub.bytes(WEIGHTS));
}

#[test]
fn a_server_that_does_not_resume_or_refuses_the_range_is_read_from_the_start() {
    for fault in [Fault::Whole, Fault::Status(416), Fault::Late] {
        let (hub, reader) = llama();
        hub.fail(WEIGHTS, &[Fault::Cut(1000), fault]);
        comes_whole(&hub, &reader);
        assert_eq!(reader.last.get().0, reader.last.get().1, "{fault:?}");
    }
}

#[test]
fn a_hub_that_is_unavailable_for_a_while_is_asked_again() {
    for place in ["api", "resolve", "config.json", WEIGHTS] {
        let (hub, reader) = llama();
        hub.fail(place, &[Fault::Status(503), Fault::Status(429)]);
        comes_whole(&hub, &reader);
    }
}

#[test]
fn an_address_of_the_store_that_is_no_longer_valid_is_asked_for_again() {
    let (hub, reader) = llama();
    hub.fail(WEIGHTS, &[Fault::Cut(1000), Fault::Status(403)]);
    comes_whole(&hub, &reader);
    let resolved = hub.seen().iter().filter(|seen| !seen.at_store && seen.path.ends_with(WEIGHTS)).count();
    assert_eq!(resolved, 3);
}

#[test]
fn a_refusal_of_the_store_is_told_without_the_signature_of_its_address() {
    for (status, word) in [(404, "404"), (410, "410")] {
        let (hub, reader) = llama();
        hub.fail(WEIGHTS, &[Fault::Status(status)]);
        let text = reader.pull(&hub).unwrap_err().to_string();
        assert!(text.contains(WEIGHTS) && text.contains(word) && text.contains("/lfs/"), "{text}");
        assert!(!text.contains("signature"), "{text}");
    }
}

#[test]
fn wrong_bytes_are_thrown_away_and_named_with_both_hashes() {
    for file in [WEIGHTS, "config.json"] {
        let (hub, reader) = llama();
        hub.fail(file, &[Fault::Wrong]);
        let error = reader.pull(&hub).unwrap_err();
        let HubError::Hash { file: named, kind, got, want, .. } = &error else { panic!("{error}") };
        assert_eq!((named.as_str(), *kind), (file, if file == WEIGHTS { "SHA-256" } else { "git id" }));
        assert!(got != want && error.to_string().contains(got) && error.to_string().contains(want), "{error}");
        let blobs = Reader::files(&reader.dir.path().join("hub/models--org--small/blobs"));
        assert!(blobs.iter().all(|name| !name.contains(want)), "{blobs:?}");
        comes_whole(&hub, &reader);
    }
}

#[test]
fn a_file_that_changed_between_two_attempts_is_fetched_once_more_from_its_start() {
    let (hub, reader) = llama();
    let mut other = hub.bytes(WEIGHTS);
    other[10] ^= 1;
    hub.replace(WEIGHTS, other);
    reader.leave_at.set(500_000);
    assert!(matches!(reader.pull(&hub), Err(HubError::Cancelled)));
    reader.leave_at.set(u64::MAX);
    hub.replace(WEIGHTS, hub.bytes(WEIGHTS));
    let pulled = reader.pull(&hub).unwrap();
    assert_eq!(fs::read(pulled.folder.join(WEIGHTS)).unwrap(), hub.bytes(WEIGHTS));
    assert!(reader.notices.take().concat().contains("damaged after a resume"));
    assert_eq!(reader.last.get().0, reader.last.get().1);
}

#[test]
fn a_length_other_than_promised_is_named() {
    for lie in [SIZE - 1, SIZE + 1] {
        let (hub, reader) = llama();
        hub.fail(WEIGHTS, &[Fault::Length(lie as u64)]);
        let text = reader.pull(&hub).unwrap_err().to_string();
        let parts = [WEIGHTS, &lie.to_string(), &SIZE.to_string()];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn a_store_that_is_about_to_send_another_file_is_not_listened_to() {
    let (hub, reader) = llama();
    hub.fail("resolve", &[Fault::OtherHash]);
    assert!(matches!(reader.pull(&hub), Err(HubError::Changed { .. })));
}

#[test]
fn a_file_list_that_is_none_or_has_no_end_is_refused_at_once() {
    for (bytes, part) in [(100, "file list"), (MAX_LISTING_BYTES + 1, "bytes")] {
        let (hub, reader) = llama();
        hub.fail("api", &[Fault::Length(bytes)]);
        let error = reader.pull(&hub).unwrap_err();
        assert!(matches!(error, HubError::Listing { .. }) && error.to_string().contains(part), "{error}");
        assert_eq!(hub.seen().len(), 1);
    }
}

#[test]
fn redirects_without_an_end_are_not_followed_for_ever() {
    let (hub, reader) = llama();
    hub.fail("resolve", &[Fault::Loop; 20]);
    let error = reader.pull(&hub).unwrap_err();
    assert!(matches!(error, HubError::Redirects { .. }), "{error}");
    assert!(error.to_string().contains(WEIGHTS), "{error}");
}

#[test]
fn a_hub_that_is_gone_ends_after_some_attempts_with_its_address() {
    let (hub, reader) = llama();
    hub.fail(WEIGHTS, &[Fault::Cut(0); MAX_ATTEMPTS as usize]);
    let error = reader.pull(&hub).unwrap_err();
    assert!(matches!(error, HubError::Cut { attempts: MAX_ATTEMPTS, .. }), "{error}");
    assert!(error.to_string().contains(&hub.url()), "{error}");
}
