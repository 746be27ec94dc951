//! A thousand swarms, each with its own mishaps.

use syn1_sim::run;

#[test]
fn whatever_is_lost_every_request_ends_and_none_with_other_tokens() {
    let (mut losses, mut replayed, mut finished, mut hits) = (0, 0, 0, 0);
    for seed in 0..1000 {
        match run(seed) {
            Ok(outcome) => {
                losses += outcome.recovery.losses;
                replayed += outcome.recovery.replayed_rows;
                finished += outcome.finished;
                hits += outcome.prefixes.hits;
            }
            Err(failure) => {
                let last = failure.trace.len().saturating_sub(200);
                panic!("seed {}: {}\n{}", failure.seed, failure.what, failure.trace[last..].join("\n"));
            }
        }
    }
    let happens = losses > 500 && replayed > 5_000 && finished > 4_000 && hits > 500;
    assert!(happens, "{losses} {replayed} {finished} {hits}: too little happens");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [3, 17] {
        assert_eq!(run(seed).unwrap(), run(seed).unwrap());
    }
}
