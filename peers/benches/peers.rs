//! Measures everyone in one run and prints the table that the README shows.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use syn1_core::Codec;
use syn1_core::header::parse;
use syn1_peers::{Activation, PEERS, SHAPES, header_bytes, limits};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .without_plots()
        .configure_from_args();
    let bytes: Vec<Vec<usize>> = SHAPES.iter().map(|shape| measure(&mut criterion, *shape)).collect();
    measure_header(&mut criterion);
    criterion.final_summary();
    for (shape, bytes) in SHAPES.iter().zip(bytes) {
        print_table(&group(*shape), &bytes);
    }
    if let Some(ns) = fastest_ns("header", "parse") {
        println!("\nHeader parse: {ns:.1} ns");
    }
}

/// Measures all of one shape and gives the bytes that each takes.
fn measure(criterion: &mut Criterion, (rows, cols): (u16, u16)) -> Vec<usize> {
    let sent = Activation::sample(rows, cols);
    let mut received = sent.clone();
    let mut group = criterion.benchmark_group(group((rows, cols)));
    if rows > 1 {
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
    }
    let lengths = PEERS.iter().map(|peer| {
        let mut bytes = Vec::new();
        (peer.encode)(&sent, &mut bytes);
        let len = bytes.len();
        group.bench_function(format!("{} encode", peer.name), |bencher| {
            bencher.iter(|| (peer.encode)(black_box(&sent), black_box(&mut bytes)));
        });
        group.bench_function(format!("{} decode", peer.name), |bencher| {
            bencher.iter(|| (peer.decode)(black_box(&bytes), black_box(&mut received)));
        });
        len
    });
    lengths.collect()
}

fn measure_header(criterion: &mut Criterion) {
    let (bytes, limits) = (header_bytes(Codec::Q8, 1, 4096), limits(4096));
    criterion.benchmark_group("header").bench_function("parse", |bencher| {
        bencher.iter(|| parse(black_box(&bytes), black_box(&limits)).is_ok());
    });
}

fn print_table(group: &str, bytes: &[usize]) {
    println!("\n| {group} | bytes | ns to encode | ns to decode | encode, of memcpy | decode, of memcpy |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let times = |name: &str| {
        Some((fastest_ns(group, &format!("{name} encode"))?, fastest_ns(group, &format!("{name} decode"))?))
    };
    let limit = PEERS.first().and_then(|peer| times(peer.name));
    for (peer, bytes) in PEERS.iter().zip(bytes) {
        if let (Some((encode, decode)), Some((copy, copy_back))) = (times(peer.name), limit) {
            let (encodes, decodes) = (encode / copy, decode / copy_back);
            println!("| {} | {bytes} | {encode:.0} | {decode:.0} | {encodes:.1} x | {decodes:.1} x |", peer.name);
        }
    }
}

fn group((rows, cols): (u16, u16)) -> String {
    format!("{rows}x{cols}")
}

/// Nanoseconds of a call in the fastest sample that criterion has kept of a measurement, if it has one: other work on the
/// machine only ever adds to a sample.
fn fastest_ns(group: &str, name: &str) -> Option<f64> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let kept = Path::new(&target).join("criterion").join(group).join(name).join("new/sample.json");
    let samples: serde_json::Value = serde_json::from_slice(&std::fs::read(kept).ok()?).ok()?;
    let (calls, times) = (samples["iters"].as_array()?, samples["times"].as_array()?);
    let per_call = calls.iter().zip(times).filter_map(|(calls, ns)| Some(ns.as_f64()? / calls.as_f64()?));
    per_call.reduce(f64::min)
}
