//! Whole models, from a hub that works.

#[path = "support/reader.rs"]
mod reader;
mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;

use reader::Reader;
use support::{COMMIT, Hub, TOKEN, git_id};
use syn1_hub::{Endpoint, HubCache, HubError, Origin, Repo};
use syn1_model::{Digest, ModelFolder};

const WEIGHTS: &str = "model.safetensors";

#[test]
fn a_pulled_model_lies_in_the_hub_s_own_layout_and_opens_under_its_name() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let pulled = reader.pull(&hub).unwrap();
    let base = reader.dir.path().join("hub/models--org--small");
    assert_eq!(pulled.folder, base.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(base.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(pulled.files, ["config.json", "generation_config.json", WEIGHTS]);
    assert_eq!(Reader::files(&pulled.folder), ["config.json", "generation_config.json", WEIGHTS]);
    let weights = hub.bytes(WEIGHTS);
    let mut blobs = vec![git_id(&hub.bytes("config.json")), git_id(&hub.bytes("generation_config.json"))];
    blobs.push(Digest::of(&weights).to_string());
    blobs.sort();
    assert_eq!(Reader::files(&base.join("blobs")), blobs);
    assert_eq!(fs::read(pulled.folder.join(WEIGHTS)).unwrap(), weights);
    assert!(pulled.unhashed.is_empty());
    let total: u64 = pulled.files.iter().map(|file| hub.bytes(file).len() as u64).sum();
    assert_eq!((pulled.fetched_bytes, pulled.reused_bytes, reader.last.get()), (total, 0, (total, total)));
    assert_eq!(ModelFolder::open(&pulled.folder).unwrap().name(), "small");
    let found = reader.endpoint(&hub, None).cache().find(&"org/small".parse().unwrap()).unwrap();
    assert_eq!(found, pulled.folder);
    let notice = reader.notices.take().concat();
    assert!(notice.contains("tokenizer.json") && notice.contains("--ids"), "{notice}");
}

#[test]
fn what_is_in_the_cache_is_checked_and_not_fetched_again() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let first = reader.pull(&hub).unwrap();
    let again = reader.pull_as(&hub, "org/small@v1", None).unwrap();
    assert_eq!((again.fetched_bytes, again.reused_bytes), (0, first.fetched_bytes));
    assert_eq!(again.folder, first.folder);

    let weights = fs::canonicalize(first.folder.join(WEIGHTS)).unwrap();
    let mut rotten = fs::read(&weights).unwrap();
    rotten[500_000] ^= 1;
    fs::write(&weights, rotten).unwrap();
    reader.notices.take();
    let mended = reader.pull(&hub).unwrap();
    assert_eq!(mended.fetched_bytes, hub.bytes(WEIGHTS).len() as u64);
    assert_eq!(fs::read(&weights).unwrap(), hub.bytes(WEIGHTS));
    assert!(reader.notices.take().concat().contains("no longer has its hash"));
}

#[test]
fn a_file_that_another_program_is_fetching_is_waited_for_with_one_notice() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    // As Python's tools do it.
    let locks = reader.dir.path().join("hub/.locks/models--org--small");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", Digest::of(&hub.bytes(WEIGHTS))))).unwrap();
    lock.lock().unwrap();
    let (told, notices) = std::sync::mpsc::channel::<String>();
    let other = std::thread::spawn(move || {
        let mut waits = notices.iter().filter(|text| text.contains("another program is fetching model.safetensors"));
        waits.next().unwrap();
        // Several looks at the lock.
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(lock);
        waits.count()
    });
    let notice = move |text| told.send(text).unwrap();
    let pulled = reader.watch(|watch| {
        let watch = syn1_hub::Watch { notice: &notice, ..*watch };
        syn1_hub::to_cache(&reader.endpoint(&hub, None), &"org/small".parse().unwrap(), &watch).unwrap()
    });
    drop(notice);
    assert_eq!(other.join().unwrap(), 0);
    assert_eq!(fs::read(pulled.folder.join(WEIGHTS)).unwrap(), hub.bytes(WEIGHTS));
}

#[test]
fn a_sharded_model_comes_with_the_shards_that_its_index_names() {
    let mut files = std::collections::BTreeMap::new();
    let config = fs::read(support::repository("fixtures/llama/config.json")).unwrap();
    let index =
        r#"{"metadata": {}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-1.safetensors"}}"#;
    for (name, bytes) in [
        ("config.json", &config[..]),
        ("model.safetensors.index.json", index.as_bytes()),
        ("x-1.safetensors", b"one"),
        ("x-2.safetensors", b"two"),
        ("x-3.safetensors", b"another model's"),
    ] {
        files.insert(name.to_owned(), bytes.to_vec());
    }
    let (hub, reader) = (Hub::with(files.clone()), Reader::new());
    let pulled = reader.pull(&hub).unwrap();
    let all = ["config.json", "model.safetensors.index.json", "x-1.safetensors", "x-2.safetensors"];
    assert_eq!(Reader::files(&pulled.folder), all);

    let text = |hub: Hub| Reader::new().pull(&hub).unwrap_err().to_string();
    hub.remove("x-2.safetensors");
    let error = text(hub);
    assert!(error.contains("x-2.safetensors") && error.contains("org/small"), "{error}");
    let outside = index.replace("x-2", "../x-2");
    files.insert("model.safetensors.index.json".into(), outside.into_bytes());
    assert!(text(Hub::with(files)).contains("'../x-2.safetensors' (for b)"));
}

#[test]
fn the_token_goes_to_the_hub_and_never_to_the_store() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    hub.gate();
    reader.pull_as(&hub, "org/small", Some(TOKEN)).unwrap();
    let (store, own): (Vec<_>, Vec<_>) = hub.seen().into_iter().partition(|seen| seen.at_store);
    assert_eq!((store.len(), own.len()), (1, 4));
    assert!(store.iter().all(|seen| seen.authorization.is_none()), "{store:?}");
    let bearer = Some(format!("Bearer {TOKEN}"));
    assert!(own.iter().all(|seen| seen.authorization == bearer), "{own:?}");
}

#[test]
fn a_gated_model_says_where_the_licence_is_and_what_to_set() {
    let hub = Hub::serve("fixtures/llama");
    hub.gate();
    for (token, status) in [(None, "401"), (Some("hf_of_another"), "403")] {
        let text = Reader::new().pull_as(&hub, "org/small", token).unwrap_err().to_string();
        for part in [status, "accept the licence", &format!("{}/org/small", hub.url()), "HF_TOKEN"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("hf_of"), "{text}");
    }
}

#[test]
fn a_model_or_a_revision_that_is_not_there_is_named() {
    let hub = Hub::serve("fixtures/llama");
    for (repo, token, parts) in [
        ("org/small@v9", None, ["org/small", "v9", "404"]),
        ("org/none", Some(TOKEN), ["org/none", "main", "404"]),
        ("org/none", None, ["org/none", "does not exist", "401"]),
    ] {
        let text = Reader::new().pull_as(&hub, repo, token).unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn a_renamed_repository_is_followed() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let pulled = reader.pull_as(&hub, "org/old", Some(TOKEN)).unwrap();
    assert_eq!(fs::read(pulled.folder.join(WEIGHTS)).unwrap(), hub.bytes(WEIGHTS));
}

#[test]
fn a_model_without_safetensors_or_configuration_is_refused_by_the_file_s_name() {
    for file in [WEIGHTS, "config.json"] {
        let hub = Hub::serve("fixtures/llama");
        hub.remove(file);
        let text = Reader::new().pull(&hub).unwrap_err().to_string();
        assert!(text.contains("org/small has no") && text.contains(file), "{text}");
    }
}

#[test]
fn a_hub_without_tls_behind_https_is_refused_at_once_with_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let connections = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        // Whatever the client still says.
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    });
    let reader = Reader::new();
    let endpoint = Endpoint::new(&url, None, HubCache::new(reader.dir.path())).unwrap();
    let repo: Repo = "org/small".parse().unwrap();
    let error = reader.watch(|watch| Origin::hub(&endpoint, &repo, watch).err().unwrap());
    connections.join().unwrap();
    assert!(error.to_string().contains(&url), "{error}");
    assert!(matches!(error, HubError::Tls { .. }), "{error:?}");
}
