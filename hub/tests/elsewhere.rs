//! Models from a plain web server and from a folder.

#[path = "support/reader.rs"]
mod reader;
mod support;

use std::fs;
use std::path::Path;

use reader::Reader;
use support::{Fault, Hub, repository};
use syn1_hub::{HubError, Origin, Pulled, layers_to_folder, to_folder};
use syn1_model::{ModelFolder, Source};

const WEIGHTS: &str = "model.safetensors";

fn whole(origin: &Origin, reader: &Reader, out: &Path) -> Result<Pulled, HubError> {
    reader.watch(|watch| to_folder(origin, out, watch))
}

#[test]
fn a_web_server_s_files_come_into_the_folder_and_are_said_to_be_unhashed() {
    let (hub, reader) = (Hub::serve("models/tiny-rust-docs"), Reader::new());
    hub.fail(WEIGHTS, &[Fault::Cut(5_000_000), Fault::Status(500)]);
    let out = reader.dir.path().join("out");
    let pulled = whole(&Origin::web(&hub.web()).unwrap(), &reader, &out).unwrap();
    let files = ["config.json", "generation_config.json", "tokenizer.json", WEIGHTS];
    assert_eq!(pulled.files, files);
    assert_eq!((pulled.unhashed, pulled.commit), (files.map(str::to_owned).to_vec(), None));
    for file in files {
        assert!(fs::read(out.join(file)).unwrap() == hub.bytes(file), "{file}");
    }
    assert!(ModelFolder::open(&out).unwrap().tokenizer().is_some());
    assert!(reader.notices.take().is_empty());
}

#[test]
fn a_web_server_s_file_that_changes_under_way_is_noticed() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let origin = Origin::web(&hub.web()).unwrap();
    let out = reader.dir.path().join("out");
    let other: Vec<u8> = hub.bytes(WEIGHTS).iter().map(|byte| byte ^ 1).collect();
    hub.fail(WEIGHTS, &[Fault::Cut(1000)]);
    let replaced = std::cell::Cell::new(false);
    let error = reader.watch(|watch| {
        let progress = |at: syn1_hub::Progress<'_>| {
            if at.file == WEIGHTS && !replaced.replace(true) {
                hub.replace(WEIGHTS, other.clone());
            }
        };
        to_folder(&origin, &out, &syn1_hub::Watch { progress: &progress, ..*watch }).unwrap_err()
    });
    assert!(matches!(error, HubError::Changed { .. }), "{error}");
    assert!(!out.join(WEIGHTS).exists());
    // What was left of the other version is not gone on with.
    whole(&origin, &reader, &out).unwrap();
    assert!(fs::read(out.join(WEIGHTS)).unwrap() == other);
}

#[test]
fn layers_come_from_a_web_server_and_from_a_folder_as_well() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let origins = [Origin::web(&hub.web()).unwrap(), Origin::folder(&repository("fixtures/llama"))];
    for (place, origin) in origins.into_iter().enumerate() {
        let out = reader.dir.path().join(place.to_string());
        reader.watch(|watch| layers_to_folder(&origin, 3..4, &out, watch)).unwrap();
        assert_eq!(Source::open_layers(&out, 3..4).unwrap().spec().layers, 4);
        assert!(Source::open_layers(&out, 2..4).is_err());
    }
}

#[test]
fn a_folder_is_copied_and_what_is_there_already_is_never_overwritten() {
    let reader = Reader::new();
    let (from, out) = (repository("models/tiny-rust-docs"), reader.dir.path().join("out"));
    let origin = Origin::folder(&from);
    let first = whole(&origin, &reader, &out).unwrap();
    let again = whole(&origin, &reader, &out).unwrap();
    assert_eq!((again.fetched_bytes, again.reused_bytes), (0, first.fetched_bytes));
    fs::write(out.join("config.json"), "mine").unwrap();
    let text = whole(&origin, &reader, &out).unwrap_err().to_string();
    assert!(text.contains("config.json") && text.contains("--out"), "{text}");
    assert_eq!(fs::read_to_string(out.join("config.json")).unwrap(), "mine");
}

#[cfg(unix)]
#[test]
fn a_snapshot_of_a_hub_s_cache_is_checked_by_the_hashes_that_its_files_are_named_by() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let snapshot = reader.pull(&hub).unwrap().folder;
    let origin = Origin::folder(&snapshot);
    let copied = whole(&origin, &reader, &reader.dir.path().join("copy")).unwrap();
    assert!(copied.unhashed.is_empty());
    let blob = fs::canonicalize(snapshot.join(WEIGHTS)).unwrap();
    let mut rotten = fs::read(&blob).unwrap();
    rotten[700_000] ^= 1;
    fs::write(&blob, rotten).unwrap();
    let error = whole(&origin, &reader, &reader.dir.path().join("other")).unwrap_err();
    assert!(matches!(&error, HubError::Hash { file, .. } if file == WEIGHTS), "{error}");
}

#[test]
fn a_place_that_holds_no_model_is_named() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let out = reader.dir.path().join("out");
    let web = Origin::web(&format!("{}/nothing", hub.url())).unwrap();
    for origin in [web, Origin::folder(&repository("cli"))] {
        let text = whole(&origin, &reader, &out).unwrap_err().to_string();
        assert!(text.contains(origin.whose()) && text.contains("config.json"), "{text}");
    }
    assert!(Origin::web("ftp://x").is_err() && Origin::web("https://x/?a").is_err());
    assert!(!out.exists());
}
