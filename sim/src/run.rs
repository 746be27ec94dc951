//! One seed, from its first frame to the silence at its end.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use syn1_coordinator::access::Client;
use syn1_coordinator::audit::Checks;
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::Prefixes;
use syn1_coordinator::recovery::Recovery;
use syn1_coordinator::request::Generate;
use syn1_coordinator::update::Update;
use syn1_coordinator::wire::Wire;
use syn1_model::plan::WeightFormat;

use crate::desk::Desk;
use crate::machine::{Door, Machine, Traits, process};
use crate::plot::{Plot, Scene, answer, ask};
use crate::toy::{Lie, MAX_POSITIONS, spec};
use crate::world::World;

/// What came of a simulation in which all went as it must.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Requests that finished with the tokens of an undisturbed run.
    pub finished: usize,
    /// Requests that ended with an error.
    pub failed: usize,
    /// Requests whose owner went away.
    pub cancelled: usize,
    /// Tokens that were told.
    pub tokens: usize,
    /// Times that a machine or a clock was disturbed, or one joined.
    pub events: usize,
    /// Requests that finished with other tokens, before the node that made them up was found.
    pub deceived: usize,
    /// Nodes that were found to compute garbage.
    pub convicted: usize,
    /// What came of spot checks.
    pub checks: Checks,
    /// Losses, and what was done about them.
    pub recovery: Recovery,
    /// KV caches that were kept, and taken over.
    pub prefixes: Prefixes,
    /// Last texts that were long enough to be timed, and those of them whose tokens took what had been predicted, within 15 %.
    pub timed: usize,
    /// See [`Self::timed`].
    pub foreseen: usize,
    /// Simulated microseconds.
    pub took_us: u64,
}

/// What went wrong, and all that led to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The simulation.
    pub seed: u64,
    /// The rule that was broken.
    pub what: String,
    /// Line by line, with seconds since the beginning.
    pub trace: Vec<String>,
}

/// Plays the simulation that follows from `seed`.
///
/// # Errors
/// The first rule that was broken, with the trace.
pub fn run(seed: u64) -> Result<Outcome, Box<Failure>> {
    let world = World::new(seed);
    played(seed, &world, Plot::new(&world))
}

/// The same with a node among the others that computes something else.
///
/// # Errors
/// The first rule that was broken, with the trace.
pub fn run_with_liar(seed: u64) -> Result<Outcome, Box<Failure>> {
    let world = World::new(seed);
    played(seed, &world, Plot::with_liar(&world))
}

fn played(seed: u64, world: &World, plot: Plot) -> Result<Outcome, Box<Failure>> {
    let mut stage = Stage::new(world, plot);
    stage.play().map_err(|what| Box::new(Failure { seed, what, trace: world.trace() }))
}

struct Stage {
    world: World,
    plot: Plot,
    desk: Desk,
    desk_flag: Arc<Flag>,
    door: Door,
    actors: Vec<Actor>,
    asked: Vec<Asked>,
    events: usize,
    /// Microseconds of a token of the last text, as the coordinator predicted.
    predicted_us: Option<f64>,
}

/// A process and its machine.
struct Actor {
    machine: Rc<Machine>,
    process: Option<Pin<Box<dyn Future<Output = ()>>>>,
    flag: Arc<Flag>,
    frozen_until: u64,
    again_at: Option<u64>,
    is_rock: bool,
}

struct Asked {
    ask: Generate,
    id: Option<u32>,
    cancelled: bool,
}

/// Set when something waits for its owner's turn.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Stage {
    fn new(world: &World, plot: Plot) -> Self {
        let Plot { layers, policy, form, slots, chunk, relay_bytes, prefix_cache, .. } = plot;
        let config = CoreConfig {
            name: "hashes".into(),
            spec: spec(layers),
            format: WeightFormat::F32,
            manifest_sha256: [0; 32],
            smaller: Vec::new(),
            http_port: 1,
            policy,
            wire: Wire::everywhere(form),
            max_positions: MAX_POSITIONS,
            slots,
            chunk,
            relay_bytes,
            prefix_cache,
            tokenizer: None,
        };
        world.note(|| {
            format!(
                "{layers} layers, {policy:?}, {form}, {slots} slots, chunks of {chunk}, {relay_bytes} bytes kept, \
                 prefixes: {prefix_cache:?}"
            )
        });
        let (door, desk_flag) = (Door::default(), Flag::new());
        let desk = Desk::new(world, config, door.clone(), Waker::from(desk_flag.clone()));
        let mut stage = Self {
            world: world.clone(),
            plot,
            desk,
            desk_flag,
            door,
            actors: Vec::new(),
            asked: Vec::new(),
            events: 0,
            predicted_us: None,
        };
        for (index, traits) in stage.plot.machines.clone().into_iter().enumerate() {
            stage.join(traits, (stage.plot.rock && index == 0) || traits.lie != Lie::None);
        }
        stage
    }

    fn join(&mut self, traits: Traits, is_rock: bool) {
        let number = self.actors.len();
        self.world.note(|| format!("n{number} starts{}: {traits:?}", if is_rock { ", a rock" } else { "" }));
        let machine = Rc::new(Machine::new(&self.world, number, self.plot.layers, traits));
        let process = Box::pin(process(machine.clone(), self.door.clone()));
        let flag = Flag::new();
        self.actors.push(Actor { machine, process: Some(process), flag, frozen_until: 0, again_at: None, is_rock });
    }

    fn play(&mut self) -> Result<Outcome, String> {
        let scenes = std::mem::take(&mut self.plot.scenes);
        for (at, scene) in scenes {
            self.until(at, |_| false)?;
            self.scene(scene);
        }
        let end = self.world.now_us() + PATIENCE_US;
        self.until(end, Self::all_ended)?;
        if !self.all_ended() {
            return Err(format!("a request does not end: {:?}", self.desk.core.topology()));
        }
        // Whatever happened, the swarm can serve again.
        let count = if let Policy::Exactly(count) = self.plot.policy { count } else { 1 };
        for _ in 0..count {
            self.join(self.plot.strong(), false);
        }
        // Whoever asks before they are measured may be told that they are too few.
        self.until(self.world.now_us() + 10_000_000, |_| false)?;
        self.predicted_us = self.desk.core.topology().predicted_us;
        self.submit(ask(&self.world));
        let end = self.world.now_us() + PATIENCE_US;
        self.until(end, Self::all_ended)?;
        let last = self.asked.len() - 1;
        if !self.all_ended() || !matches!(self.last_update(last), Some(Update::Finished(_))) {
            return Err(format!(
                "a fresh machine does not help: {:?}, {:?}",
                self.last_update(last),
                self.desk.core.topology()
            ));
        }
        let end = self.world.now_us() + SILENCE_US;
        self.until(end, |_| false)?;
        self.check_silence()?;
        self.outcome()
    }

    /// Plays on until a time, or until `done`.
    fn until(&mut self, end_us: u64, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        self.world.wake_at(end_us, None);
        loop {
            self.turn()?;
            if done(self) || !self.world.advance(end_us) {
                return Ok(());
            }
            if self.world.now_us() >= end_us {
                return self.turn();
            }
        }
    }

    /// All that happens at this moment.
    fn turn(&mut self) -> Result<(), String> {
        let now = self.world.now_us();
        for index in 0..self.actors.len() {
            let actor = &mut self.actors[index];
            if actor.again_at.is_some_and(|at| at <= now) {
                actor.again_at = None;
                let traits = actor.machine.traits;
                self.join(traits, false);
                continue;
            }
            if now < actor.frozen_until || !actor.flag.take() {
                continue;
            }
            let waker = Waker::from(actor.flag.clone());
            if let Some(process) = &mut actor.process
                && process.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                actor.process = None;
            }
        }
        if self.desk_flag.take() || !self.door.borrow().is_empty() {
            self.desk.turn();
            let kept = self.desk.core.recovery().kept_bytes;
            if kept > self.plot.relay_bytes {
                return Err(format!("{kept} bytes are kept, {} are allowed", self.plot.relay_bytes));
            }
        }
        Ok(())
    }

    fn scene(&mut self, scene: Scene) {
        self.events += usize::from(!matches!(scene, Scene::Ask(_) | Scene::Cancel(_)));
        match scene {
            Scene::Ask(ask) => self.submit(ask),
            Scene::Cancel(number) => {
                if let Some(asked) = self.asked.get_mut(number)
                    && let Some(id) = asked.id
                {
                    self.world.note(|| format!("request {id} is given up"));
                    asked.cancelled = true;
                    self.desk.core.cancel(self.desk.now(), id);
                }
            }
            Scene::Join(traits) => self.join(traits, false),
            Scene::Jump(us) => {
                self.world.note(|| format!("the coordinator's clock jumps by {us} us"));
                self.desk.jump(us);
            }
            other => {
                let alive: Vec<usize> = (0..self.actors.len())
                    .filter(|&index| self.actors[index].process.is_some() && !self.actors[index].is_rock)
                    .collect();
                if !alive.is_empty() {
                    let index = self.world.one_of(&alive);
                    self.disturb(index, other);
                }
            }
        }
        self.desk.act();
        self.desk_flag.0.store(true, Ordering::Relaxed);
    }

    fn disturb(&mut self, index: usize, scene: Scene) {
        let now = self.world.now_us();
        self.world.note(|| format!("n{index}: {scene:?}"));
        let actor = &mut self.actors[index];
        match scene {
            Scene::Kill { reset, again_us } => {
                actor.process = None;
                if let Some(cable) = actor.machine.cable.take().filter(|_| reset) {
                    cable.reset();
                }
                if let Some(us) = again_us {
                    actor.again_at = Some(now + us);
                    self.world.wake_at(now + us, None);
                }
            }
            Scene::Lose => {
                if let Some(cable) = &*actor.machine.cable.borrow() {
                    cable.lose();
                }
            }
            Scene::Freeze(us) => {
                actor.frozen_until = now + us;
                self.world.wake_at(now + us, Some(Waker::from(actor.flag.clone())));
            }
            Scene::Stop => actor.machine.stop(),
            Scene::JumpNode(us) => actor.machine.jump(us),
            Scene::Ask(_) | Scene::Cancel(_) | Scene::Join(_) | Scene::Jump(_) => {}
        }
    }

    fn submit(&mut self, ask: Generate) {
        // Several people, so that there are turns to be had.
        let client = Client::Address(IpAddr::V4(Ipv4Addr::from(self.asked.len() as u32 % 3)));
        let id = self.desk.core.submit(self.desk.now(), client, ask.clone()).ok();
        self.world.note(|| {
            let Generate { prompt, max_tokens, speculate, .. } = &ask;
            format!("request {id:?}: {} prompt tokens, {max_tokens} to come, {speculate} guessed", prompt.len())
        });
        self.asked.push(Asked { ask, id, cancelled: false });
        self.desk.act();
        self.desk_flag.0.store(true, Ordering::Relaxed);
    }

    fn last_update(&self, number: usize) -> Option<&Update> {
        self.desk.updates.get(&self.asked[number].id?)?.last()
    }

    fn all_ended(&self) -> bool {
        let ended = |number: usize| matches!(self.last_update(number), Some(Update::Finished(_) | Update::Failed(_)));
        (0..self.asked.len()).all(|number| self.asked[number].cancelled || ended(number))
    }

    /// Nothing runs, so nothing may be left.
    fn check_silence(&self) -> Result<(), String> {
        let topology = self.desk.core.topology();
        if topology.running + topology.queued > 0 {
            return Err(format!("{} requests run and {} wait, but all have ended", topology.running, topology.queued));
        }
        let recovery = self.desk.core.recovery();
        if recovery.kept_bytes > 0 {
            return Err(format!("{} bytes are kept for nobody", recovery.kept_bytes));
        }
        if self.desk.queued() > 0 {
            return Err(format!("{} data frames wait for nobody", self.desk.queued()));
        }
        let kept = self.desk.core.prefixes().kept;
        if kept > self.plot.slots {
            return Err(format!("{kept} KV caches are kept, a node has {}", self.plot.slots));
        }
        for actor in self.actors.iter().filter(|actor| actor.process.is_some()) {
            let open = actor.machine.open.get();
            if open > kept && self.world.now_us() >= actor.frozen_until {
                let number = actor.machine.number;
                return Err(format!("{open} KV caches of n{number} are open, {kept} are kept"));
            }
        }
        Ok(())
    }

    /// How far what was predicted of a token of the last text is from what it took, if that was a token a pass.
    fn off(&self) -> Option<f64> {
        let Some(Update::Finished(end)) = self.last_update(self.asked.len().checked_sub(1)?) else { return None };
        let steps = end.figures.tokens.checked_sub(1).filter(|steps| *steps >= TIMED && end.figures.guessed == 0)?;
        Some(self.predicted_us? / (end.figures.decode.as_secs_f64() * 1e6 / steps as f64) - 1.0)
    }

    fn outcome(&self) -> Result<Outcome, String> {
        let (recovery, checks) = (self.desk.core.recovery(), self.desk.core.checks());
        let convicted = self.desk.convicted.len();
        let prefixes = self.desk.core.prefixes();
        let mut outcome = Outcome {
            recovery,
            prefixes,
            checks,
            convicted,
            events: self.events,
            timed: usize::from(self.off().is_some()),
            foreseen: usize::from(self.off().is_some_and(|off| off.abs() < 0.15)),
            took_us: self.world.now_us(),
            ..Outcome::default()
        };
        let lies = |machine: usize| self.actors[machine].machine.traits.lie != Lie::None;
        if let Some((machine, _)) = self.desk.convicted.iter().find(|(machine, _)| !lies(*machine)) {
            return Err(format!("n{machine} was quarantined, which computes what it should"));
        }
        // The liar is known by the end; before that it may deceive.
        let known_at = self.desk.convicted.first().map_or(u64::MAX, |(_, at)| *at);
        let deceives = (0..self.actors.len()).any(lies);
        for asked in &self.asked {
            let Some(id) = asked.id else { return Err(format!("{:?} was refused", asked.ask)) };
            let updates = self.desk.updates.get(&id).map_or(&[][..], |updates| updates);
            let void = updates.iter().rposition(|update| matches!(update, Update::Again)).map_or(0, |at| at + 1);
            let told = updates[void..].iter().filter_map(|update| match update {
                Update::Token { id, .. } => Some(*id),
                _ => None,
            });
            let ids: Vec<u32> = told.collect();
            outcome.tokens += ids.len();
            let expected = answer(self.plot.layers, &asked.ask);
            if deceives && ids != expected && self.desk.ended.get(&id).is_none_or(|ended| *ended <= known_at) {
                outcome.deceived += 1;
                continue;
            }
            if !expected.starts_with(&ids) {
                return Err(format!("request {id} gave {ids:?}, alone it gives {expected:?}"));
            }
            let ends =
                updates.iter().filter(|update| matches!(update, Update::Finished(_) | Update::Failed(_))).count();
            match updates.last() {
                _ if ends > 1 => return Err(format!("request {id} ended {ends} times")),
                Some(Update::Finished(_)) if ids != expected => {
                    return Err(format!("request {id} ended with {} of {} tokens", ids.len(), expected.len()));
                }
                Some(Update::Finished(_)) => outcome.finished += 1,
                Some(Update::Failed(why)) if why.is_empty() => {
                    return Err(format!("request {id} failed for no reason"));
                }
                Some(Update::Failed(why)) if self.plot.rock => {
                    return Err(format!("request {id} failed though a machine could have taken it: {why}"));
                }
                Some(Update::Failed(_)) => outcome.failed += 1,
                _ if asked.cancelled => outcome.cancelled += 1,
                _ => return Err(format!("request {id} has not ended")),
            }
        }
        if self.plot.rock && !deceives && recovery.restarted > 0 {
            return Err(format!("{} requests had to be computed once more", recovery.restarted));
        }
        Ok(outcome)
    }
}

/// How long requests may take behind the last disturbance: several waits for a node, one after the other.
const PATIENCE_US: u64 = 600_000_000;
/// After which nothing is on its way any more, and who was cut off has noticed.
const SILENCE_US: u64 = 60_000_000;
/// Tokens behind the first of a text that is timed.
const TIMED: usize = 4;
