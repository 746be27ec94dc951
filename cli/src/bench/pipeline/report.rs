//! What `syn1 bench pipeline` makes of its runs.

use std::time::Duration;

use serde::Serialize;
use syn1_coordinator::update::Figures;

use super::super::median;
use super::cable::Cable;

/// What was measured, and where a token's time went.
#[derive(Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    rig: Rig,
    /// Of a token of one text: what the coordinator predicted before any text, and how far that is from the measured one.
    predicted_first_ms: f64,
    off_first: Option<f64>,
    /// The same before the runs that are measured.
    predicted_ms: f64,
    off: Option<f64>,
    /// One text at a time, and many where they were asked for.
    arms: Vec<Arm>,
}

/// What the coordinator predicted of a token of one text.
#[derive(Clone, Copy)]
pub(super) struct Predictions {
    /// Before any text.
    pub(super) first: Duration,
    /// Before the runs that are measured.
    pub(super) then: Duration,
}

/// What the texts ran on.
#[derive(Serialize)]
pub(super) struct Rig {
    pub(super) model: String,
    pub(super) weights: &'static str,
    pub(super) wire: String,
    pub(super) stages: usize,
    /// Threads of each node, where they were asked for.
    pub(super) threads: Option<usize>,
    /// The round trip that was asked for.
    pub(super) round_trip_ms: f64,
    /// The one that a relay has here; 0 without relays.
    pub(super) round_trip_here_ms: f64,
    pub(super) up_mbit_per_s: Option<f64>,
    pub(super) tokens: usize,
    pub(super) runs: usize,
    /// Cores that all nodes share; none where they compute on something else.
    pub(super) shared_cores: Option<usize>,
}

/// Texts at a time. Times are milliseconds of one token of one text.
#[derive(Serialize)]
struct Arm {
    streams: usize,
    /// Of all texts together, from the first request to the last token.
    tokens_per_second: f64,
    /// Times the tokens of one text.
    of_one: f64,
    token_ms: f64,
    compute_ms: f64,
    /// Round trips, and bytes that enter the links.
    link_ms: f64,
    coordinator_ms: f64,
    /// What is left: waiting behind other texts, and what SYN1 adds.
    rest_ms: f64,
    /// The same for a hop, where there are no other texts.
    added_ms_per_hop: Option<f64>,
    /// Share of a token's time that is not computing, where there are no other texts.
    not_compute: Option<f64>,
    bytes_per_hop: f64,
    bound_tokens_per_second: f64,
    /// What the bound follows from.
    bound_by: &'static str,
    of_bound: f64,
}

/// Texts that ran at the same time.
pub(super) struct Run {
    /// From the first request to the last token.
    pub(super) took: Duration,
    pub(super) figures: Vec<Figures>,
    pub(super) hops: Vec<Hop>,
}

/// What passed one node in a run.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    pub(super) frames: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// Of the latest tokens, the median.
    pub(super) compute_us: f64,
}

impl Hop {
    /// What came since `before`.
    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            sent_bytes: self.sent_bytes - before.sent_bytes,
            received_bytes: self.received_bytes - before.received_bytes,
            ..self
        }
    }
}

impl Report {
    pub(super) fn new(rig: Rig, cable: Cable, predicted: Predictions, one: Vec<Run>, many: Vec<Run>) -> Self {
        let here = Cable { round_trip: Duration::from_secs_f64(rig.round_trip_here_ms / 1e3), ..cable };
        let alone = Arm::new(&rig, here, &one, None);
        let of_one = alone.tokens_per_second;
        let together = (!many.is_empty()).then(|| Arm::new(&rig, here, &many, Some(of_one)));
        let Predictions { first, then } = predicted;
        let (predicted_first_ms, predicted_ms) = (first.as_secs_f64() * 1e3, then.as_secs_f64() * 1e3);
        let off = |predicted_ms: f64| Some(predicted_ms / alone.token_ms - 1.0).filter(|off| off.is_finite());
        let (off_first, off) = (off(predicted_first_ms), off(predicted_ms));
        Self {
            rig,
            predicted_first_ms,
            off_first,
            predicted_ms,
            off,
            arms: std::iter::once(alone).chain(together).collect(),
        }
    }

    pub(super) fn table(&self) -> String {
        let Rig { model, weights, wire, stages, round_trip_ms, round_trip_here_ms, up_mbit_per_s, .. } = &self.rig;
        let link = match (*round_trip_ms, up_mbit_per_s) {
            (0.0, None) => "connected directly".into(),
            (ms, None) => format!("links of {ms} ms round trip (here {round_trip_here_ms:.2} ms)"),
            (ms, Some(up)) => {
                format!("links of {ms} ms round trip (here {round_trip_here_ms:.2} ms) at {up} Mbit/s")
            }
        };
        let Rig { tokens, runs, .. } = self.rig;
        let mut table = format!(
            "{model} ({weights}) on {stages} nodes, {link}, wire {wire}\nmedians of {runs} runs, {tokens} tokens a text\n\n\
             {:24}{}\n",
            "texts at a time",
            self.row(|arm| arm.streams.to_string())
        );
        let mut line = |name: &str, cells: String| table += &format!("{name:24}{cells}\n");
        line("tokens per second", self.row(|arm| format!("{:.1}", arm.tokens_per_second)));
        line("times one text", self.row(|arm| format!("{:.2}", arm.of_one)));
        line("bound, tokens/s", self.row(|arm| format!("{:.1}", arm.bound_tokens_per_second)));
        line("  which follows from", self.row(|arm| arm.bound_by.into()));
        line("of the bound", self.row(|arm| format!("{:.0} %", arm.of_bound * 100.0)));
        line("a token of a text", self.row(|arm| ms(arm.token_ms)));
        line("  computing", self.row(|arm| ms(arm.compute_ms)));
        line("  links", self.row(|arm| ms(arm.link_ms)));
        line("  waiting, and SYN1's own", self.row(|arm| ms(arm.rest_ms)));
        line("  (coordinator: of that)", self.row(|arm| ms(arm.coordinator_ms)));
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        line("not computing", self.row(|arm| arm.not_compute.map_or_else(|| "-".into(), percent)));
        line("added per hop", self.row(|arm| arm.added_ms_per_hop.map_or_else(|| "-".into(), ms)));
        line("bytes per hop, both ways", self.row(|arm| format!("{:.0}", arm.bytes_per_hop)));
        let off = |off: Option<f64>| off.map_or_else(String::new, |off| format!(" ({:+.0} %)", off * 100.0));
        let mut line = |when: &str, predicted: f64, of: Option<f64>| {
            table += &format!("{when:24}{:>18}{}\n", ms(predicted), off(of));
        };
        line("predicted for one text", self.predicted_ms, self.off);
        line("  before any text", self.predicted_first_ms, self.off_first);
        table
    }

    fn row(&self, cell: impl Fn(&Arm) -> String) -> String {
        self.arms.iter().map(|arm| format!("{:>18}", cell(arm))).collect()
    }
}

fn ms(ms: f64) -> String {
    format!("{ms:.3} ms")
}

impl Arm {
    fn new(rig: &Rig, cable: Cable, runs: &[Run], of_one: Option<f64>) -> Self {
        let streams = runs.first().map_or(0, |run| run.figures.len());
        let stages = rig.stages as f64;
        let of_runs = |figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
        let tokens_per_second = of_runs(Run::tokens_per_second);
        let (token, compute) = (of_runs(Run::token), of_runs(Run::compute));
        let (sent, received) =
            (of_runs(|run| run.bytes(|hop| hop.sent_bytes)), of_runs(|run| run.bytes(|hop| hop.received_bytes)));
        let link = cable.round_trip.as_secs_f64() + cable.entering(sent + received).as_secs_f64();
        let rest = token - compute - stages * link;
        let slowest = of_runs(Run::slowest_node);
        // Of each part: how many tokens a second it lets through.
        let mut bounds = vec![
            (streams as f64 / (compute + stages * link), "latency"),
            (1.0 / slowest.max(f64::MIN_POSITIVE), "the slowest node"),
        ];
        if let (Some(cores), true) = (rig.shared_cores, compute > 0.0) {
            let threads = rig.threads.unwrap_or(cores).clamp(1, cores);
            bounds.push((cores as f64 / threads as f64 / compute, "shared cores"));
        }
        if cable.bits_per_second.is_some() {
            bounds.push((1.0 / cable.entering(sent.max(received)).as_secs_f64(), "a link's rate"));
        }
        let (bound, bound_by) = bounds.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, "nothing"));
        Self {
            streams,
            tokens_per_second,
            of_one: tokens_per_second / of_one.unwrap_or(tokens_per_second),
            token_ms: token * 1e3,
            compute_ms: compute * 1e3,
            link_ms: stages * link * 1e3,
            coordinator_ms: of_runs(Run::coordinator) * 1e3,
            rest_ms: rest * 1e3,
            added_ms_per_hop: (streams == 1).then_some(rest / stages * 1e3),
            not_compute: (streams == 1).then_some(1.0 - compute / token),
            bytes_per_hop: sent + received,
            bound_tokens_per_second: bound,
            bound_by,
            of_bound: tokens_per_second / bound,
        }
    }
}

/// Seconds, of one token of one text.
impl Run {
    fn tokens_per_second(&self) -> f64 {
        let tokens: usize = self.figures.iter().map(|figures| figures.tokens).sum();
        tokens as f64 / self.took.as_secs_f64()
    }

    /// From one token of a text to the next.
    fn token(&self) -> f64 {
        self.mean(|figures| figures.decode.as_secs_f64() / figures.tokens.saturating_sub(1).max(1) as f64)
    }

    /// Every text has it: a local swarm keeps no KV caches for later, and nodes say it when they give one back.
    fn compute(&self) -> f64 {
        self.mean(|figures| figures.compute.unwrap_or_default().as_secs_f64() / passes(figures))
    }

    fn coordinator(&self) -> f64 {
        self.mean(|figures| figures.coordinator.as_secs_f64() / passes(figures))
    }

    fn slowest_node(&self) -> f64 {
        self.hops.iter().map(|hop| hop.compute_us / 1e6).fold(0.0, f64::max)
    }

    /// Bytes of a frame in one direction, the mean of all hops.
    fn bytes(&self, of: fn(&Hop) -> u64) -> f64 {
        let (bytes, frames) = self.hops.iter().fold((0, 0), |sum, hop| (sum.0 + of(hop), sum.1 + hop.frames));
        bytes as f64 / (frames as f64).max(1.0)
    }

    fn mean(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        self.figures.iter().map(of).sum::<f64>() / self.figures.len().max(1) as f64
    }
}

/// Times that a text went through the chain: the last token is not fed, and the prompt goes as one.
fn passes(figures: &Figures) -> f64 {
    figures.tokens.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTED: Predictions = Predictions { first: Duration::from_millis(60), then: Duration::from_millis(45) };

    fn rig() -> Rig {
        Rig {
            model: "m".into(),
            weights: "f16",
            wire: "f16".into(),
            stages: 2,
            threads: Some(1),
            round_trip_ms: 20.0,
            round_trip_here_ms: 20.5,
            up_mbit_per_s: Some(8.0),
            tokens: 11,
            runs: 1,
            shared_cores: Some(2),
        }
    }

    /// Ten steps of `token_us` behind the first token, of which each computes 4 ms.
    fn text(token_us: u64) -> Figures {
        Figures {
            prompt_tokens: 1,
            tokens: 11,
            decode: Duration::from_micros(10 * token_us),
            compute: Some(Duration::from_millis(44)),
            coordinator: Duration::from_micros(110),
            ..Figures::default()
        }
    }

    fn run(texts: usize, token_us: u64, took_ms: u64) -> Run {
        let hop = |compute_us| Hop { frames: 11, sent_bytes: 11 * 100, received_bytes: 11 * 900, compute_us };
        Run {
            took: Duration::from_millis(took_ms),
            figures: vec![text(token_us); texts],
            hops: vec![hop(1_500.0), hop(2_500.0)],
        }
    }

    #[test]
    fn what_a_hop_adds_is_what_computing_round_trips_and_bytes_leave() {
        let cable = Cable { round_trip: Duration::from_millis(20), bits_per_second: Some(8e6) };
        // 4 ms computing, 2 x 20.5 ms round trip, 2 x 1000 bytes at a microsecond each, and 3 ms besides.
        let report = Report::new(rig(), cable, PREDICTED, vec![run(1, 50_000, 550)], vec![]);
        let [arm] = &report.arms[..] else { panic!("one arm") };
        assert!((arm.link_ms - 43.0).abs() < 1e-9, "{}", arm.link_ms);
        assert!((arm.added_ms_per_hop.unwrap() - 1.5).abs() < 1e-9, "{:?}", arm.added_ms_per_hop);
        assert!((arm.not_compute.unwrap() - 0.92).abs() < 1e-9);
        assert!((report.off.unwrap() + 0.1).abs() < 1e-9, "45 ms were predicted");
        assert!((report.off_first.unwrap() - 0.2).abs() < 1e-9, "60 ms were predicted first");
        assert!((arm.bound_tokens_per_second - 1.0 / 0.047).abs() < 1e-9);
        assert_eq!((arm.bound_by, arm.of_one, arm.tokens_per_second), ("latency", 1.0, 20.0));
    }

    #[test]
    fn many_texts_are_bound_by_the_busiest_part() {
        let cable = Cable { round_trip: Duration::ZERO, bits_per_second: None };
        let bound = |rig: Rig| {
            let report = Report::new(rig, cable, PREDICTED, vec![run(1, 5_000, 55)], vec![run(8, 20_000, 220)]);
            let arm = &report.arms[1];
            assert_eq!((arm.streams, arm.added_ms_per_hop, arm.of_one), (8, None, 2.0));
            (arm.bound_by, arm.bound_tokens_per_second.round())
        };
        let direct = || Rig { round_trip_ms: 0.0, round_trip_here_ms: 0.0, up_mbit_per_s: None, ..rig() };
        assert_eq!(bound(direct()), ("the slowest node", 400.0));
        // Each node's steps take both cores.
        assert_eq!(bound(Rig { threads: None, ..direct() }), ("shared cores", 250.0));
        assert_eq!(bound(Rig { shared_cores: None, ..direct() }), ("the slowest node", 400.0));
    }

    #[test]
    fn a_slow_link_bounds_many_texts_by_the_direction_with_more_bytes() {
        let cable = Cable { round_trip: Duration::from_millis(20), bits_per_second: Some(8e5) };
        let report = Report::new(rig(), cable, PREDICTED, vec![run(1, 70_000, 770)], vec![run(64, 700_000, 7_700)]);
        // 900 bytes at ten microseconds each.
        assert_eq!(report.arms[1].bound_by, "a link's rate");
        assert!((report.arms[1].bound_tokens_per_second - 1.0 / 0.009).abs() < 1e-6);
    }

    #[test]
    fn the_table_has_a_column_for_each_arm() {
        let cable = Cable { round_trip: Duration::from_millis(20), bits_per_second: None };
        let report = Report::new(rig(), cable, PREDICTED, vec![run(1, 50_000, 550)], vec![run(8, 60_000, 660)]);
        let table = report.table();
        let line = table.lines().find(|line| line.starts_with("texts at a time")).unwrap();
        assert_eq!(line.split_whitespace().skip(4).collect::<Vec<_>>(), ["1", "8"]);
    }
}
