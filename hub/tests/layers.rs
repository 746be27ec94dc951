//! Parts of models: what a node needs for some layers, and nothing else.

#[path = "support/reader.rs"]
mod reader;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use reader::Reader;
use safetensors::SafeTensors;
use support::{Fault, Hub, TOKEN, repository};
use syn1_hub::limits::MAX_ATTEMPTS;
use syn1_hub::{HubError, Origin, Pulled, layers_to_folder};
use syn1_model::{Plan, Source, WeightFormat, pack_piece};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn fetch(hub: &Hub, reader: &Reader, layers: Range<usize>, out: &Path) -> Result<Pulled, HubError> {
    reader.watch(|watch| {
        let origin = Origin::hub(&reader.endpoint(hub, Some(TOKEN)), &"org/small".parse().unwrap(), watch)?;
        layers_to_folder(&origin, layers, out, watch)
    })
}

/// A model with its tensors dealt to three shards, in turn.
fn sharded(fixture: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = repository("fixtures").join(fixture);
    let bytes = fs::read(folder.join(WEIGHTS)).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let mut shards = [Vec::new(), Vec::new(), Vec::new()];
    let mut map = BTreeMap::new();
    for (place, (name, view)) in whole.iter().enumerate() {
        let shard = place / 3 % 3;
        shards[shard].push((name.to_owned(), view));
        map.insert(name.to_owned(), format!("model-{}-of-3.safetensors", shard + 1));
    }
    let config = fs::read(folder.join("config.json")).unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string().into_bytes();
    let mut files = BTreeMap::from([("config.json".to_owned(), config), (INDEX.to_owned(), index)]);
    for (place, shard) in shards.into_iter().enumerate() {
        files.insert(format!("model-{}-of-3.safetensors", place + 1), safetensors::serialize(shard, None).unwrap());
    }
    files
}

/// That the folder packs every piece of the layers to the same bytes as the whole model.
fn packs_as(whole: &Path, part: &Path, layers: Range<usize>) {
    let (whole, part) = (Source::open(whole).unwrap(), Source::open_layers(part, layers.clone()).unwrap());
    for piece in Plan::new(whole.spec(), WeightFormat::F16, layers).pieces {
        let [a, b] = [&whole, &part].map(|source| pack_piece(source, piece, WeightFormat::F16).unwrap());
        assert!(a.as_slice() == b.as_slice(), "{piece}");
    }
}

fn out(reader: &Reader, name: &str) -> PathBuf {
    reader.dir.path().join(name)
}

#[test]
fn the_pieces_of_the_layers_are_those_of_the_whole_model_whether_it_is_sharded_or_not() {
    for fixture in ["llama", "gpt2", "gemma3"] {
        let whole = repository("fixtures").join(fixture);
        let layers = Source::open(&whole).unwrap().spec().layers;
        for hub in [Hub::serve(&format!("fixtures/{fixture}")), Hub::with(sharded(fixture))] {
            let reader = Reader::new();
            for range in [0..1, 1..3, layers - 1..layers, 0..layers] {
                let folder = out(&reader, &format!("{}-{}", range.start, range.end));
                let pulled = fetch(&hub, &reader, range.clone(), &folder).unwrap();
                packs_as(&whole, &folder, range);
                assert_eq!(pulled.unhashed, [WEIGHTS]);
                assert_eq!(reader.last.get().0, reader.last.get().1);
            }
        }
    }
}

#[test]
fn only_the_bytes_of_the_layers_come_and_the_token_stays() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    hub.gate();
    let pulled = fetch(&hub, &reader, 1..2, &out(&reader, "one")).unwrap();
    let whole = hub.bytes(WEIGHTS).len() as u64;
    let part = fs::metadata(pulled.folder.join(WEIGHTS)).unwrap().len();
    assert!(part < whole / 4, "{part} of {whole}");
    assert!(pulled.fetched_bytes < whole / 4 + 20_000, "{} of {whole}", pulled.fetched_bytes);
    // A block's tensors are neighbours: length, header, and one range.
    assert_eq!(hub.ranges(WEIGHTS).len(), 3, "{:?}", hub.ranges(WEIGHTS));
    assert!(hub.seen().iter().all(|seen| seen.at_store == seen.authorization.is_none()));
    let bytes = fs::read(pulled.folder.join(WEIGHTS)).unwrap();
    let names: Vec<_> = SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect();
    assert!(names.iter().all(|name| name.starts_with("model.layers.1.")), "{names:?}");
}

#[test]
fn shards_without_a_tensor_of_the_layers_are_not_asked_for() {
    let mut files = sharded("llama");
    let index: serde_json::Value = serde_json::from_slice(&files[INDEX]).unwrap();
    // All of layer 1 into a shard of its own.
    let bytes = fs::read(repository("fixtures/llama").join(WEIGHTS)).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let own: Vec<_> = whole.iter().filter(|(name, _)| name.starts_with("model.layers.1.")).collect();
    let mut map = index["weight_map"].clone();
    for (name, _) in &own {
        map[*name] = "own.safetensors".into();
    }
    files.insert("own.safetensors".into(), safetensors::serialize(own, None).unwrap());
    files.insert(INDEX.into(), serde_json::json!({"weight_map": map}).to_string().into_bytes());
    let (hub, reader) = (Hub::with(files), Reader::new());
    fetch(&hub, &reader, 1..2, &out(&reader, "one")).unwrap();
    assert_eq!(hub.ranges("own.safetensors").len(), 3);
    assert!(hub.ranges("model-1-of-3.safetensors").is_empty());
    packs_as(&repository("fixtures/llama"), &out(&reader, "one"), 1..2);
}

#[test]
fn a_cut_is_resumed_within_a_range_in_this_run_and_in_the_next() {
    let (hub, reader) = (Hub::with(sharded("llama")), Reader::new());
    let folder = out(&reader, "two");
    // Length and header come whole; then the ranges are cut.
    let shard = "model-2-of-3.safetensors";
    let last = sharded("llama")[shard].len();
    hub.fail(shard, &[Fault::Cut(last), Fault::Cut(last), Fault::Cut(1000), Fault::Cut(10)]);
    reader.leave_at.set(300_000);
    assert!(matches!(fetch(&hub, &reader, 1..3, &folder), Err(HubError::Cancelled)));
    assert!(!folder.join(WEIGHTS).exists());
    reader.leave_at.set(u64::MAX);
    let pulled = fetch(&hub, &reader, 1..3, &folder).unwrap();
    assert!(pulled.reused_bytes > 200_000, "{pulled:?}");
    packs_as(&repository("fixtures/llama"), &folder, 1..3);
    let again = fetch(&hub, &reader, 1..3, &folder).unwrap();
    let size = fs::metadata(folder.join(WEIGHTS)).unwrap().len();
    assert!(again.reused_bytes > size - 10_000 && again.fetched_bytes < 60_000, "{again:?}");
}

#[test]
fn another_range_in_the_same_folder_never_overwrites_what_is_there() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let folder = out(&reader, "x");
    fetch(&hub, &reader, 0..1, &folder).unwrap();
    let before = fs::read(folder.join(WEIGHTS)).unwrap();
    let text = fetch(&hub, &reader, 1..2, &folder).unwrap_err().to_string();
    assert!(text.contains(WEIGHTS) && text.contains("--out"), "{text}");
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), before);
}

#[test]
fn a_part_of_another_range_is_not_gone_on_with() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let folder = out(&reader, "x");
    reader.leave_at.set(100_000);
    assert!(matches!(fetch(&hub, &reader, 0..2, &folder), Err(HubError::Cancelled)));
    reader.leave_at.set(u64::MAX);
    fetch(&hub, &reader, 2..4, &folder).unwrap();
    packs_as(&repository("fixtures/llama"), &folder, 2..4);
}

#[test]
fn layers_that_the_model_does_not_have_are_refused_before_weights_come() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    for range in [3..5, 2..2, 4..9] {
        let text = fetch(&hub, &reader, range.clone(), &out(&reader, "x")).unwrap_err().to_string();
        assert!(text.contains(&format!("{}..{}", range.start, range.end)) && text.contains("of 4"), "{text}");
    }
    assert!(hub.ranges(WEIGHTS).iter().all(|range| range.starts_with("0-7") || range.starts_with("8-")));
}

#[test]
fn a_server_that_sends_only_whole_files_is_named() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    hub.fail(WEIGHTS, &[Fault::Whole; 3]);
    let error = fetch(&hub, &reader, 1..2, &out(&reader, "x")).unwrap_err();
    assert!(matches!(error, HubError::NoRanges { .. }), "{error}");
    assert!(error.to_string().contains("--layers"), "{error}");
}

#[test]
fn a_range_that_begins_elsewhere_is_never_taken_for_the_right_one() {
    let (hub, reader) = (Hub::serve("fixtures/llama"), Reader::new());
    let whole = Fault::Cut(usize::MAX);
    hub.fail(WEIGHTS, &[whole, whole, Fault::Late]);
    fetch(&hub, &reader, 1..2, &out(&reader, "x")).unwrap();
    packs_as(&repository("fixtures/llama"), &out(&reader, "x"), 1..2);
    hub.fail(WEIGHTS, &[Fault::Late; MAX_ATTEMPTS as usize]);
    assert!(matches!(fetch(&hub, &reader, 1..2, &out(&reader, "y")), Err(HubError::Cut { .. })));
}

#[test]
fn a_header_that_does_not_describe_its_file_and_a_foreign_shape_are_refused() {
    let weights = fs::read(repository("fixtures/llama").join(WEIGHTS)).unwrap();
    let gpt2 = fs::read(repository("fixtures/gpt2").join(WEIGHTS)).unwrap();
    let config = fs::read(repository("fixtures/llama/config.json")).unwrap();
    let hub = |weights: &[u8]| {
        let files = [("config.json", &config[..]), (WEIGHTS, weights)];
        Hub::with(files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).into())
    };
    let refusal = |hub: &Hub| {
        let reader = Reader::new();
        fetch(hub, &reader, 1..2, &out(&reader, "x")).unwrap_err().to_string()
    };
    let text = refusal(&hub(&weights[..weights.len() - 2]));
    assert!(text.contains(WEIGHTS) && text.contains("describes"), "{text}");
    assert!(refusal(&hub(b"version https://git-lfs")).contains("claims"));
    assert!(refusal(&hub(b"<html>")).contains("8 bytes"));
    assert!(refusal(&hub(&gpt2)).contains("is missing"));
    let wider = String::from_utf8(config.clone()).unwrap().replace("\"vocab_size\": 1000", "\"vocab_size\": 1001");
    let files = [("config.json", wider.into_bytes()), (WEIGHTS, weights)];
    let text = {
        let (hub, reader) = (Hub::with(files.map(|(name, bytes)| (name.to_owned(), bytes)).into()), Reader::new());
        fetch(&hub, &reader, 0..1, &out(&reader, "x")).unwrap_err().to_string()
    };
    assert!(text.contains("embed_tokens") && text.contains("1001"), "{text}");
}
