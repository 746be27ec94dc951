//! A thousand swarms, each with its own mishaps.

use syn1_sim::run;

#[test]
fn whatever_is_lost_every_request_ends_and_none_with_other_tokens() {
    let (mut losses, mut replayed, mut moved, mut finished) = (0, 0, 0, 0);
    for seed in 0..1000 {
        match run(seed) {
            Ok(outcome) => {
                losses += outcome.recovery.losses;
                replayed += outcome.recovery.replayed_rows;
                moved += outcome.recovery.rebalanced;
                finished += outcome.finished;
            }
            Err(failure) => {
                let last = failure.trace.len().saturating_sub(200);
                panic!("seed {}: {}\n{}", failure.seed, failure.what, failure.trace[last..].join("\n"));
            }
        }
    }
    let enough = losses > 500 && replayed > 5_000 && moved > 50 && finished > 4_000;
    assert!(enough, "{losses} {replayed} {moved} {finished}: too little happens");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [3, 17] {
        assert_eq!(run(seed).unwrap(), run(seed).unwrap());
    }
}
