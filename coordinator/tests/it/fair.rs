//! Prompts beside other people's tokens: toy nodes that take their time, by the clock that the test turns.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::support::{Stage, ask, config, tokens};
use syn1_coordinator::access::Client;
use syn1_coordinator::core::{Action, CoreConfig, NodeId};
use syn1_coordinator::placement::Policy;
use syn1_coordinator::update::Update;
use syn1_core::{Header, Kind};

/// Nodes that take their frames in order: `frame` microseconds for each, and `row` for each row of it.
struct Slow {
    stage: Stage,
    frame: u64,
    row: u64,
    /// What waits at each node, and when it is done with the first of it.
    queues: BTreeMap<NodeId, VecDeque<Header>>,
    done_at: BTreeMap<NodeId, Duration>,
    /// Rows of each prompt's frames, by request, at the first node.
    chunks: BTreeMap<u32, Vec<u16>>,
    prompts: BTreeMap<u32, u32>,
    /// When each token came.
    times: BTreeMap<u32, Vec<Duration>>,
}

impl Slow {
    fn new(nodes: usize, frame: u64, row: u64) -> Self {
        let config = config(Policy::Exactly(nodes));
        let spec = syn1_model::spec::Spec { max_positions: 2048, ..config.spec };
        let mut stage = Stage::of(CoreConfig { spec, max_positions: 2048, slots: 4, chunk: 64, ..config });
        for number in 0..nodes {
            stage.join(&format!("n{number}"));
        }
        assert!(stage.is_ready());
        let (queues, done_at) = (BTreeMap::new(), BTreeMap::new());
        let (chunks, prompts, times) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { stage, frame, row, queues, done_at, chunks, prompts, times }
    }

    fn ask(&mut self, prompt: usize, max_tokens: usize) -> u32 {
        let id = self.stage.core.submit(self.stage.now, Client::Local, ask(prompt, max_tokens)).unwrap();
        self.prompts.insert(id, prompt as u32);
        self.act();
        id
    }

    fn takes(&self, header: &Header) -> Duration {
        Duration::from_micros(self.frame + self.row * u64::from(header.rows))
    }

    fn act(&mut self) {
        while let Some(action) = self.stage.core.poll_action() {
            match action {
                Action::Send(node, header, payload) if header.kind == Kind::Control => {
                    self.stage.answer(node, &header, &payload);
                }
                Action::Send(node, header, _) => {
                    if header.kind == Kind::Tokens && header.position < self.prompts[&header.request] {
                        self.chunks.entry(header.request).or_default().push(header.rows);
                    }
                    let queue = self.queues.entry(node).or_default();
                    queue.push_back(header);
                    if queue.len() == 1 {
                        self.done_at.insert(node, self.stage.now + self.takes(&header));
                    }
                }
                Action::Update(id, update) => {
                    if matches!(update, Update::Token { .. }) {
                        self.times.entry(id).or_default().push(self.stage.now);
                    }
                    self.stage.updates.entry(id).or_default().push(update);
                }
                _ => {}
            }
        }
    }

    /// The next frame is answered; false when there is none.
    fn step(&mut self) -> bool {
        let waiting = self.done_at.iter().filter(|(node, _)| !self.queues[node].is_empty());
        let Some((node, at)) = waiting.min_by_key(|(node, at)| (**at, **node)).map(|(node, at)| (*node, *at)) else {
            return false;
        };
        self.stage.now = at;
        let header = self.queues.get_mut(&node).unwrap().pop_front().unwrap();
        if let Some(next) = self.queues[&node].front().copied() {
            self.done_at.insert(node, at + self.takes(&next));
        }
        let (answer, payload) = self.stage.toys[&node].compute(&header);
        self.stage.core.data(at, node, &answer, &payload);
        self.act();
        true
    }

    /// Until a request has so many tokens.
    fn until(&mut self, request: u32, count: usize) {
        while self.times.get(&request).map_or(0, Vec::len) < count {
            assert!(self.step(), "request {request} does not go on: {:?}", self.stage.core.topology());
        }
    }

    /// Milliseconds between tokens of a request, from the `first`th to the `last`th.
    fn gaps(&self, request: u32, first: usize, last: usize) -> Vec<f64> {
        let gap = |pair: &[Duration]| (pair[1] - pair[0]).as_secs_f64() * 1e3;
        self.times[&request][first..=last].windows(2).map(gap).collect()
    }
}

fn longest(gaps: &[f64]) -> f64 {
    gaps.iter().copied().fold(0.0, f64::max)
}

fn p95(mut gaps: Vec<f64>) -> f64 {
    gaps.sort_by(f64::total_cmp);
    gaps[gaps.len() * 95 / 100]
}

#[test]
fn a_prompt_of_400_tokens_makes_anothers_tokens_take_no_three_times_as_long() {
    // Weights that are read once a frame, rows that cost as much as a token each, and something between.
    for (nodes, frame, row) in [(1, 2000, 100), (1, 10, 2000), (1, 900, 1300), (2, 900, 1300), (4, 2000, 300)] {
        let mut slow = Slow::new(nodes, frame, row);
        let stream = slow.ask(3, 1000);
        slow.until(stream, 50);
        let alone = longest(&slow.gaps(stream, 10, 49));
        let others: Vec<u32> = (0..2).map(|_| slow.ask(400, 1)).collect();
        let mut last = 0;
        while slow.times.len() < 3 {
            last = slow.times[&stream].len();
            assert!(slow.step());
        }
        let beside = slow.gaps(stream, 50, last - 1);
        let (most, nearly) = (longest(&beside) / alone, p95(beside) / alone);
        assert!(nearly < 2.6, "{nodes} {frame} {row}: {nearly:.2} times as long at p95");
        // Now and then more rows are tried than fit.
        assert!(most < 3.1, "{nodes} {frame} {row}: {most:.2} times as long once");
        for other in others {
            slow.until(other, 1);
            assert_eq!(slow.stage.ids(other), tokens(399, 1));
        }
    }
}

#[test]
fn chunks_are_whole_where_nobody_gets_tokens_and_small_where_somebody_does() {
    let mut slow = Slow::new(2, 900, 1300);
    let first = slow.ask(300, 400);
    slow.until(first, 20);
    assert_eq!(slow.chunks[&first], [64, 64, 64, 64, 44]);
    let second = slow.ask(40, 1);
    slow.until(second, 1);
    assert!(slow.chunks[&second].iter().all(|rows| *rows <= 4), "{:?}", slow.chunks[&second]);
    assert_eq!(slow.stage.ids(first)[..20], tokens(299, 20));
}

#[test]
fn prompts_beside_a_stream_have_their_turns() {
    let mut slow = Slow::new(1, 900, 1300);
    let stream = slow.ask(3, 2000);
    slow.until(stream, 10);
    let long = slow.ask(1000, 1);
    let begun = slow.stage.now;
    let short = slow.ask(20, 1);
    slow.until(short, 1);
    let took = slow.stage.now - begun;
    let fed = |id: u32| slow.chunks[&id].iter().map(|rows| usize::from(*rows)).sum::<usize>();
    assert!((15..=30).contains(&fed(long)), "{} rows of the long prompt while the short one had 20", fed(long));
    assert!(took < Duration::from_millis(300), "{took:?}");
    slow.until(long, 1);
    assert_eq!((slow.stage.ids(short), slow.stage.ids(long)), (tokens(19, 1), tokens(999, 1)));
}

#[test]
fn a_prompt_whose_owner_goes_away_makes_way_for_the_next() {
    let mut slow = Slow::new(2, 900, 1300);
    let stream = slow.ask(3, 2000);
    slow.until(stream, 10);
    let (gone, other) = (slow.ask(500, 1), slow.ask(50, 1));
    for _ in 0..7 {
        slow.step();
    }
    slow.stage.core.cancel(slow.stage.now, gone);
    slow.act();
    slow.until(other, 1);
    assert_eq!(slow.stage.ids(other), tokens(49, 1));
    assert_eq!(slow.stage.core.topology().running, 1);
}
