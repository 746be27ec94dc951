//! `cargo xtask sim`: plays seeds until one goes wrong.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use syn1_sim::{Failure, Outcome, run, run_with_liar};

fn main() -> ExitCode {
    let (mut seeds, mut from) = (10_000, 0);
    let mut play: fn(u64) -> Result<Outcome, Box<Failure>> = run;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--liars" {
            play = run_with_liar;
            continue;
        }
        let value = args.next().and_then(|value| value.parse().ok());
        match (arg.as_str(), value) {
            ("--seeds", Some(value)) => seeds = value,
            ("--from", Some(value)) => from = value,
            _ => {
                eprintln!("error: {arg}: expected --seeds N, --from SEED or --liars");
                return ExitCode::from(2);
            }
        }
    }
    let (begun, mut sum) = (Instant::now(), Outcome::default());
    for seed in from..from + seeds {
        match play(seed) {
            Ok(outcome) => add(&mut sum, &outcome),
            Err(failure) => return fail(&failure),
        }
        if (seed + 1 - from).is_multiple_of(10_000) {
            println!("{} seeds, {:.0} s", seed + 1 - from, begun.elapsed().as_secs_f64());
        }
    }
    let Outcome {
        finished,
        failed,
        cancelled,
        tokens,
        events,
        deceived,
        convicted,
        checks,
        recovery,
        prefixes,
        timed,
        foreseen,
        took_us,
    } = sum;
    println!("{seeds} seeds in {:.1} s, {:.0} simulated hours", begun.elapsed().as_secs_f64(), took_us as f64 / 3.6e9);
    println!("{finished} requests finished with the tokens of an undisturbed run ({tokens} tokens)");
    println!("{failed} ended with an error because no node could be had, {cancelled} were given up");
    println!("{events} times a node was killed, cut off, frozen, stopped or joined, or a clock jumped");
    println!(
        "{} nodes were lost from a chain; {} requests went on through others, {} rows were replayed, {} logs were dropped",
        recovery.losses, recovery.rerouted, recovery.replayed_rows, recovery.dropped
    );
    println!(
        "{} rows were computed by two nodes and compared, {convicted} nodes were quarantined and none of them wrongly; \
         {deceived} requests ended with garbage before that",
        checks.rows
    );
    println!(
        "{} requests took over an earlier one's KV caches, with {} tokens of their prompts",
        prefixes.hits, prefixes.tokens
    );
    println!("{} times layers moved to where tokens are faster, while the chain served", recovery.rebalanced);
    println!("{foreseen} of {timed} last texts took what had been predicted, within 15 %");
    ExitCode::SUCCESS
}

fn add(sum: &mut Outcome, outcome: &Outcome) {
    sum.finished += outcome.finished;
    sum.failed += outcome.failed;
    sum.cancelled += outcome.cancelled;
    sum.tokens += outcome.tokens;
    sum.events += outcome.events;
    sum.deceived += outcome.deceived;
    sum.convicted += outcome.convicted;
    sum.checks.rows += outcome.checks.rows;
    sum.timed += outcome.timed;
    sum.foreseen += outcome.foreseen;
    sum.took_us += outcome.took_us;
    sum.recovery.losses += outcome.recovery.losses;
    sum.recovery.rerouted += outcome.recovery.rerouted;
    sum.recovery.replayed_rows += outcome.recovery.replayed_rows;
    sum.recovery.dropped += outcome.recovery.dropped;
    sum.prefixes.hits += outcome.prefixes.hits;
    sum.prefixes.tokens += outcome.prefixes.tokens;
    sum.recovery.rebalanced += outcome.recovery.rebalanced;
}

fn fail(failure: &Failure) -> ExitCode {
    for line in &failure.trace {
        eprintln!("{line}");
    }
    eprintln!("error: seed {}: {}", failure.seed, failure.what);
    eprintln!("play it again with: cargo xtask sim --seeds 1 --from {}", failure.seed);
    ExitCode::FAILURE
}
