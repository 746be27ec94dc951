//! What happens in a simulation, and when: made from the seed before it begins.

use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::{Candidate, Need, Sampler, Sampling};
use syn1_core::Form;
use syn1_model::plan::{Plan, WeightFormat, all_pieces, piece_bytes};

use crate::machine::Traits;
use crate::toy::{Kv, Lie, MAX_POSITIONS, VOCAB, embed, logits, spec};
use crate::world::World;

/// One simulation.
pub(crate) struct Plot {
    pub(crate) layers: usize,
    pub(crate) policy: Policy,
    pub(crate) form: Form,
    pub(crate) slots: usize,
    pub(crate) chunk: usize,
    pub(crate) relay_bytes: usize,
    pub(crate) prefix_cache: PrefixCache,
    pub(crate) machines: Vec<Traits>,
    /// The first machine holds the whole model and is left alone, and so is the coordinator's clock.
    pub(crate) rock: bool,
    /// By time in microseconds.
    pub(crate) scenes: Vec<(u64, Scene)>,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Scene {
    Ask(Generate),
    /// Whoever asked goes away: the nth request.
    Cancel(usize),
    /// A process is killed. What it has sent last may be lost with it; it may be started again.
    Kill {
        reset: bool,
        again_us: Option<u64>,
    },
    /// A cable is pulled: nobody is told.
    Lose,
    /// A process stands still for a while, and reads nothing.
    Freeze(u64),
    /// Ctrl-C at a node.
    Stop,
    Join(Traits),
    /// The coordinator's clock jumps ahead.
    Jump(u64),
    /// A node's clock does.
    JumpNode(u64),
}

impl Plot {
    pub(crate) fn new(world: &World) -> Self {
        let layers = world.between(3, 8) as usize;
        let slots = world.between(1, 4) as usize;
        let count = world.between(1, 5) as usize;
        let rock = world.happens(60);
        let whole = bytes(layers, 0..layers, slots);
        let traits = |big: bool| Traits {
            memory_bytes: if big { whole } else { whole * world.between(25, 130) / 100 },
            row_us: world.between(20, 3_000),
            latency_us: world.one_of(&[50, 300, 5_000, 20_000, 60_000]),
            load_us: world.between(1_000, 2_000_000),
            lie: Lie::None,
        };
        let policy = match world.between(0, 2) {
            0 => Policy::Auto,
            _ if rock => Policy::Exactly(world.between(1, count.min(layers) as u64) as usize),
            _ => Policy::Exactly(count.min(layers)),
        };
        let mut machines: Vec<Traits> =
            (0..count).map(|index| traits(rock && (index == 0 || policy != Policy::Auto))).collect();
        machines.extend((0..world.between(0, 2)).map(|_| traits(world.happens(50))));
        let mut scenes = Vec::new();
        let asks = world.between(3, 14);
        let mut before = Vec::new();
        for number in 0..asks {
            // Some at once; and with a rock, when it is there.
            let at = world.between(u64::from(rock), 6) * 10_000_000 + world.between(0, 1_000_000);
            let mut next = ask(world);
            if !before.is_empty() && world.happens(60) {
                next.prompt = continued(world, layers, &world.one_of(&before));
            }
            before.push(next.clone());
            scenes.push((at, Scene::Ask(next)));
            if world.happens(15) {
                scenes.push((at + world.between(0, 3_000_000), Scene::Cancel(number as usize)));
            }
        }
        for _ in 0..world.between(0, 7) {
            // Often in the middle of something.
            let begun = scenes[world.between(0, asks - 1) as usize].0.max(10_000_000);
            let at = begun + world.between(0, 1_000_000);
            scenes.push((at, disturbance(world, rock, &traits)));
        }
        scenes.sort_by_key(|scene| scene.0);
        Self {
            layers,
            policy,
            form: world.one_of(&Form::ALL),
            slots,
            chunk: world.between(1, 12) as usize,
            relay_bytes: world.one_of(&[0, 2_000, 20_000, 1 << 20]),
            prefix_cache: world.one_of(&[PrefixCache::Own, PrefixCache::Own, PrefixCache::Shared, PrefixCache::Off]),
            machines,
            rock,
            scenes,
        }
    }

    /// The same with a machine among them that computes something else, and three that hold everything beside it: one to check
    /// it, one to judge, and one to take its place.
    pub(crate) fn with_liar(world: &World) -> Self {
        let mut plot = Self::new(world);
        let lie = world.one_of(&[Lie::Noise(100), Lie::Noise(10), Lie::Skip, Lie::Weights]);
        let latency_us = world.one_of(&[50, 300, 5_000, 20_000]);
        plot.machines.insert(1, Traits { lie, latency_us, ..plot.strong() });
        plot.machines.extend([Traits { latency_us, ..plot.strong() }; 3]);
        plot
    }

    /// A machine that holds everything and is fast.
    pub(crate) fn strong(&self) -> Traits {
        let memory_bytes = bytes(self.layers, 0..self.layers, self.slots);
        Traits { memory_bytes, row_us: 10, latency_us: 50, load_us: 1000, lie: Lie::None }
    }
}

fn disturbance(world: &World, rock: bool, traits: &dyn Fn(bool) -> Traits) -> Scene {
    match world.between(0, if rock { 8 } else { 10 }) {
        0..3 => Scene::Kill {
            reset: world.happens(50),
            again_us: world.happens(50).then(|| world.between(100_000, 20_000_000)),
        },
        3 => Scene::Lose,
        4 => Scene::Freeze(world.between(100_000, 40_000_000)),
        5 => Scene::Stop,
        6 | 7 => Scene::Join(traits(world.happens(50))),
        8 => Scene::JumpNode(world.between(1_000_000, 100_000_000)),
        _ => Scene::Jump(world.one_of(&[3_000_000, 20_000_000, 3_600_000_000])),
    }
}

/// A request that the coordinator takes.
pub(crate) fn ask(world: &World) -> Generate {
    let seed = world.between(0, 1 << 20);
    let plain = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed, ..Sampling::default() };
    let sampling = world.one_of(&[
        plain.clone(),
        Sampling { temperature: 1.0, top_k: 5, ..plain.clone() },
        Sampling { temperature: 1.3, top_p: 0.9, ..plain.clone() },
        Sampling { repetition_penalty: 1.3, ..plain },
    ]);
    Generate {
        prompt: (0..world.between(1, 40)).map(|_| world.between(1, VOCAB as u64 - 1) as u32).collect(),
        max_tokens: world.between(1, 60) as usize,
        sampling,
        stop: Vec::new(),
        ignore_eos: world.happens(70),
        speculate: world.one_of(&[0, 0, 1, 4]),
    }
}

/// A prompt that begins as an earlier request did, answer included: all of it, or some, and something new.
fn continued(world: &World, layers: usize, earlier: &Generate) -> Vec<u32> {
    let mut ids = [earlier.prompt.clone(), answer(layers, earlier)].concat();
    ids.truncate(world.between(1, ids.len() as u64) as usize);
    ids.extend((0..world.between(0, 8)).map(|_| world.between(1, VOCAB as u64 - 1) as u32));
    ids.truncate(MAX_POSITIONS - 20);
    ids
}

/// What an undisturbed run answers.
pub(crate) fn answer(layers: usize, ask: &Generate) -> Vec<u32> {
    let mut kv = Kv::new(0..layers);
    let mut sampler = Sampler::new(ask.sampling.clone(), &ask.prompt);
    let mut row = [0; 8];
    for (position, id) in ask.prompt.iter().enumerate() {
        row = kv.row(position, embed(*id, position));
    }
    let (mut ids, mut position) = (Vec::new(), ask.prompt.len());
    loop {
        let mut candidates: Vec<Candidate> =
            (0..).zip(logits(row)).map(|(id, logit)| Candidate { id, logit }).collect();
        candidates.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
        if let Need::Top(k) = ask.sampling.need() {
            candidates.truncate(k.into());
        }
        let Ok(id) = sampler.choose(&mut candidates) else { return ids };
        if id == 0 && !ask.ignore_eos {
            return ids;
        }
        ids.push(id);
        if ids.len() >= ask.max_tokens || position >= MAX_POSITIONS {
            return ids;
        }
        row = kv.row(position, embed(id, position));
        position += 1;
    }
}

/// What layers take, as the coordinator counts.
fn bytes(layers: usize, range: std::ops::Range<usize>, slots: usize) -> u64 {
    let spec = spec(layers);
    let weights: u64 = all_pieces(&spec, WeightFormat::F32)
        .into_iter()
        .map(|piece| piece_bytes(&spec, WeightFormat::F32, piece))
        .sum();
    weights + Plan::new(&spec, WeightFormat::F32, range).kv_bytes(MAX_POSITIONS, slots)
}
