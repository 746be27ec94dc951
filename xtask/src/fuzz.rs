//! Fuzzes the targets of `fuzz/` with libFuzzer, each for some time, and says what they did.
//!
//! They are built with the compiler in use and LLVM's coverage counters, as `cargo fuzz run --sanitizer none` does it, so
//! what CI runs is what a developer runs, and neither nightly nor cargo-fuzz is needed. `syn1-core` has no unsafe code: a
//! sanitizer of addresses could only speak of its dependencies. The nightly workflow in `.github` has it on.
//!
//! The committed `seeds/TARGET` are read, and what is new is kept in `corpus/TARGET`, from where a later run goes on.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo_command, root, run, setup};

/// `[--minutes N] [TARGET..]`: every target if none is named, each for a minute if nothing else is said.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let (minutes, named) = options(args)?;
    let folder = root()?.join("fuzz");
    let targets = targets(&folder, named)?;
    ensure!(setup::cpp_compiler()?, "libFuzzer is built by a C++ compiler");
    fuzz(&folder, &targets, Duration::from_secs_f64(minutes * 60.0))
}

/// Every target for a few seconds: each one builds, runs, and holds on what lies next to its seeds. Says whether it could:
/// a compiler may be missing, but not in CI.
pub(crate) fn short() -> Result<bool> {
    let folder = root()?.join("fuzz");
    let targets = targets(&folder, Vec::new())?;
    let can = setup::cpp_compiler()?;
    if can {
        fuzz(&folder, &targets, SHORT)?;
    }
    Ok(can)
}

fn options(args: &[String]) -> Result<(f64, Vec<String>)> {
    let (mut minutes, mut named, mut args) = (1.0, Vec::new(), args.iter());
    while let Some(arg) = args.next() {
        match (arg.as_str(), arg.strip_prefix("--minutes=")) {
            ("--minutes", _) => minutes = number(args.next().map_or("", String::as_str))?,
            (_, Some(text)) => minutes = number(text)?,
            _ if arg.starts_with('-') => bail!("unknown option {arg:?}: cargo xtask fuzz [--minutes N] [TARGET..]"),
            _ => named.push(arg.clone()),
        }
    }
    Ok((minutes, named))
}

fn number(text: &str) -> Result<f64> {
    let minutes = text.parse().ok().filter(|minutes| (0.01..=100_000.0).contains(minutes));
    minutes.with_context(|| format!("--minutes takes a number from 0.01 to 100000, not {text:?}"))
}

/// The named targets, or all of them.
fn targets(folder: &Path, named: Vec<String>) -> Result<Vec<String>> {
    let folder = folder.join("fuzz_targets");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        all.extend(entry?.file_name().to_string_lossy().strip_suffix(".rs").map(str::to_owned));
    }
    all.sort();
    ensure!(!all.is_empty(), "{} holds no target", folder.display());
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("no fuzz target {unknown:?}; there are {}", all.join(", "));
    }
    Ok(if named.is_empty() { all } else { named })
}

/// Runs the targets, as many at once as there are processors.
fn fuzz(folder: &Path, targets: &[String], time: Duration) -> Result<()> {
    let programs = build(folder)?;
    // Without it Ctrl-C would end us before the targets, which hear it too, have said what they did.
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
    let waiting = Mutex::new(targets.iter().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    println!("{:20} {:>12} {:>9} {:>9} {:>9} {:>7}", "target", "executions", "per s", "coverage", "features", "corpus");
    let work = || {
        while let Some(target) = next(&waiting) {
            let outcome = one(folder, &programs, target, time);
            outcome.iter().for_each(|outcome| println!("{}", outcome.row()));
            lock(&done).push(outcome);
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect::<Result<Vec<_>>>()?;
    let findings: Vec<_> = done.iter().filter_map(|outcome| outcome.finding.as_deref()).collect();
    ensure!(findings.is_empty(), "{}", findings.join("\n"));
    let executions: u64 = done.iter().map(|outcome| outcome.stats.executions).sum();
    println!("{executions} executions of {} targets without a finding", done.len());
    ensure!(!STOP.load(Ordering::Relaxed), "stopped before the end");
    Ok(())
}

/// Builds all targets and says where they lie.
fn build(folder: &Path) -> Result<PathBuf> {
    let target_dir = folder.join("target/coverage");
    let host = setup::host()?;
    // Named, so that build scripts and macros, which run on this machine, are built without the flags.
    let args = ["build", "--quiet", "--release", "--bins", "--target", &host];
    let mut command = cargo_command(&args);
    command.current_dir(folder).env("CARGO_TARGET_DIR", &target_dir);
    run(command.env("RUSTFLAGS", FLAGS.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    Ok(target_dir.join(host).join("release"))
}

/// What a target did.
struct Outcome {
    target: String,
    stats: Stats,
    /// What was found and where the input lies.
    finding: Option<String>,
}

impl Outcome {
    fn row(&self) -> String {
        let Self { target, stats, finding } = self;
        let Stats { executions, per_second, coverage, features, corpus } = stats;
        let found = if finding.is_some() { "  FOUND" } else { "" };
        format!("{target:20} {executions:>12} {per_second:>9} {coverage:>9} {features:>9} {corpus:>7}{found}")
    }
}

fn one(folder: &Path, programs: &Path, target: &str, time: Duration) -> Result<Outcome> {
    let (corpus, artifacts) = (folder.join("corpus").join(target), folder.join("artifacts").join(target));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = artifacts.join("log");
    let stderr = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(programs.join(target));
    command.current_dir(folder).stderr(stderr).arg(&corpus).arg(folder.join("seeds").join(target));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={}", time.as_secs().max(1))).args(LIBFUZZER);
    let status = command.spawn().with_context(|| format!("cannot run {command:?}")).and_then(wait)?;
    let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    let sound = status.success() || STOP.load(Ordering::Relaxed) && input_of(&said).is_none();
    let finding = (!sound).then(|| {
        let input = input_of(&said).map_or_else(String::new, |path| format!(", its input is {path}"));
        format!("{target} ended with {status}{input}, what it said is {}", log.display())
    });
    Ok(Outcome { target: target.to_owned(), stats: Stats::read(&said), finding })
}

/// Waits for the end, which after Ctrl-C comes by itself or is brought about.
fn wait(mut child: Child) -> Result<ExitStatus> {
    let mut stopped = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if STOP.load(Ordering::Relaxed) && stopped.get_or_insert_with(Instant::now).elapsed() > GRACE {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The file with the input that libFuzzer complains of.
fn input_of(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path)
}

/// What libFuzzer counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stats {
    executions: u64,
    per_second: u64,
    /// Edges of the control flow that were taken.
    coverage: u64,
    /// Edges by how often they were taken, and comparisons by how close they were.
    features: u64,
    /// Inputs that are kept.
    corpus: u64,
}

impl Stats {
    fn read(said: &str) -> Self {
        let mut stats = Self::default();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            for pair in words.windows(2) {
                let [name, value] = pair else { continue };
                let Ok(value) = value.split(['/', 'b']).next().unwrap_or_default().parse() else { continue };
                match *name {
                    "stat::number_of_executed_units:" => stats.executions = value,
                    "stat::average_exec_per_sec:" => stats.per_second = value,
                    "cov:" => stats.coverage = value,
                    "ft:" => stats.features = value,
                    "corp:" => stats.corpus = value,
                    _ => {}
                }
            }
        }
        stats
    }
}

/// The next target that waits; a function, so that nobody else waits for the lock while the target runs.
fn next<'a>(waiting: &Mutex<VecDeque<&'a String>>) -> Option<&'a String> {
    lock(waiting).pop_front().filter(|_| !STOP.load(Ordering::Relaxed))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether Ctrl-C came.
static STOP: AtomicBool = AtomicBool::new(false);

const SHORT: Duration = Duration::from_secs(5);

/// How long a target may take to end after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);

const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
    // libFuzzer finds the counters of a module by the symbols at their ends, which the linker must not drop.
    "-Clink-dead-code",
];

const LIBFUZZER: [&str; 3] = ["-print_final_stats=1", "-max_len=4096", "-timeout=10"];

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
INFO: seed corpus: files: 260 min: 1b max: 37b total: 7536b rss: 33Mb
#261\tINITED cov: 255 ft: 324 corp: 60/1438b exec/s: 0 rss: 42Mb
#2742808\tREDUCE cov: 256 ft: 325 corp: 61/1437b lim: 4096 exec/s: 58357 rss: 499Mb L: 36/37 MS: 2 EraseBytes-
artifact_prefix='artifacts/x/'; Test unit written to artifacts/x/crash-1
stat::number_of_executed_units: 3750698
stat::average_exec_per_sec:     61486
";

    fn strings(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn what_libfuzzer_counted_last_is_read() {
        let stats = Stats { executions: 3_750_698, per_second: 61_486, coverage: 256, features: 325, corpus: 61 };
        assert_eq!(Stats::read(SAID), stats);
        assert_eq!(Stats::read("killed"), Stats::default());
    }

    #[test]
    fn the_input_of_a_finding_is_named() {
        assert_eq!(input_of(SAID), Some("artifacts/x/crash-1"));
        assert_eq!(input_of("Done 100 runs"), None);
    }

    #[test]
    fn minutes_may_stand_anywhere() {
        let both = [strings(&["header", "--minutes", "2.5"]), strings(&["--minutes=2.5", "header"])];
        for args in both {
            assert_eq!(options(&args).unwrap(), (2.5, strings(&["header"])));
        }
        assert_eq!(options(&[]).unwrap(), (1.0, Vec::new()));
        for wrong in [&["--minutes"][..], &["--minutes", "-1"], &["--minutes=NaN"], &["--hours", "1"]] {
            assert!(options(&strings(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_target_that_is_none_is_refused_with_those_that_are() {
        let folder = root().unwrap().join("fuzz");
        let error = targets(&folder, strings(&["heder"])).unwrap_err().to_string();
        assert!(error.contains("\"heder\"") && error.contains("header"), "{error}");
        assert!(targets(&folder, Vec::new()).unwrap().contains(&"header".to_owned()));
    }
}
