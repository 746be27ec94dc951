//! The token loop: submits of several turns each, whose ids are handed over as they come.
//!
//! The device has the next submit in its queue while one is read and its ids are handed over. The first submits are of one
//! turn, so that a text begins at once, and each is twice as long as the one before, up to [`RING`] turns or [`LONGEST`].
//!
//! One thread does it all: encoding a token takes a fraction of what the device takes to run it, so the device never waits
//! for it. With one submit under way it would, and a third gains next to nothing.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

use web_time::Instant;
use wgpu::{BindGroup, ComputePass};

use super::activations::{RING, StepState};
use super::device::GpuDevice;
use super::engine::{GpuEngine, Request, pass};
use super::launch::Extent;
use super::persist::Persist;
use super::readback::{Pending, Readback};
use super::sieve::Sieve;
use crate::engine::{Decode, EngineError};
use crate::sampling::Rule;

/// What the token loop needs beside the program.
pub(super) struct Loop {
    /// Where ids are read back: one for each submit under way.
    ids: Vec<Readback>,
    /// Made when somebody asks for top-k or top-p.
    sieve: Option<Sieve>,
}

/// A submit under way.
struct Flight<'a> {
    pending: Pending,
    readback: &'a Readback,
    begun: Instant,
    turns: usize,
}

/// How turns ended.
enum Turned {
    /// All are done, or nobody wants more.
    Through,
    /// The persistent kernel gave up: what it has not handed over is still to be done.
    GaveUp,
}

impl Loop {
    /// For a plan that is `whole`; there is no loop over a part of a model. To be called inside [`GpuDevice::guarded`].
    pub(super) fn new(device: &GpuDevice, whole: bool) -> Self {
        let loops = if whole { IN_FLIGHT } else { 0 };
        Self { ids: (0..loops).map(|_| Readback::new(device, 4 * RING as u64 + 4)).collect(), sieve: None }
    }
}

impl GpuEngine {
    /// See [`Engine::decode`](crate::engine::Engine::decode).
    pub(super) async fn token_loop(
        &mut self,
        decode: Decode<'_>,
        mut sink: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let Decode { slot, position, token, stop, .. } = decode;
        let have = self.request(slot)?.have;
        let end = decode.check(&self.plan, &self.config, have)?;
        self.device.check()?;
        if decode.count == 0 {
            return Ok(());
        }
        let rule = decode.sampler.rule(self.plan.spec.vocab);
        self.prepare(&rule)?;

        // From here on the positions behind are overwritten, also by a loop that is dropped.
        self.set_have(slot, position);
        let (mut handed, mut last) = (0, token);
        let looped = loop {
            let (begin, token) = (position + handed, last);
            self.write_state(StepState { position: begin as u32, rows: 1, wanted: 0, made: 0 }, &[token]);
            let hand_over = |id| {
                (handed, last) = (handed + 1, id);
                let wanted = sink(id);
                if stop.contains(&id) { ControlFlow::Break(()) } else { wanted }
            };
            match self.turns(self.request(slot)?, begin..end, &rule, hand_over).await {
                Ok(Turned::Through) => break Ok(()),
                Ok(Turned::GaveUp) => {
                    tracing::warn!(
                        "{}: a workgroup waited too long for the others: going on without",
                        self.device.name()
                    );
                    self.persist = None;
                }
                Err(error) => break Err(error),
            }
        };
        self.set_have(slot, position + handed);
        looped
    }

    /// Makes what the kernels need to choose by `rule`.
    fn prepare(&mut self, rule: &Rule) -> Result<(), EngineError> {
        if matches!(rule, Rule::Sieved(_)) && self.token_loop.sieve.is_none() {
            self.token_loop.sieve = Sieve::new(&self.device, &mut self.program, &self.activations)?;
        }
        let draw = match rule {
            Rule::Best => Default::default(),
            Rule::Noisy(draw) | Rule::Sieved(draw) => *draw,
        };
        self.device.queue.write_buffer(&self.activations.draw, 0, bytemuck::bytes_of(&draw));
        Ok(())
    }

    /// Runs the turns at `positions` and hands their ids over until there are no more or nobody wants them.
    async fn turns(
        &self,
        request: &Request,
        positions: Range<usize>,
        rule: &Rule,
        mut hand_over: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Turned, EngineError> {
        let mut readbacks = self.token_loop.ids.iter().cycle();
        let (mut pace, mut ahead) = (Pace::default(), positions.start);
        let (mut in_flight, mut ids) = (VecDeque::with_capacity(IN_FLIGHT), Vec::with_capacity(RING));
        let result = loop {
            // The device gets its next work before anybody is told of the last.
            while ahead < positions.end && in_flight.len() < IN_FLIGHT {
                let Some(readback) = readbacks.next() else { break };
                let made = ahead - positions.start;
                // What the kernels keep of ids is a ring, and a submit's are read in one piece.
                let turns = pace.turns.min(positions.end - ahead).min(RING - made % RING);
                in_flight.push_back(self.submit(request, made, ahead..ahead + turns, rule, readback));
                ahead += turns;
            }
            if ids.drain(..).try_for_each(&mut hand_over).is_break() {
                break Ok(Turned::Through);
            }
            let Some(Flight { pending, readback, begun, turns }) = in_flight.pop_front() else {
                break Ok(Turned::Through);
            };
            let mut gave_up = false;
            let keep = |bytes: &[u8]| {
                let (chosen, status) = bytemuck::cast_slice::<u8, u32>(bytes).split_at(turns);
                gave_up = status.iter().any(|status| *status != 0);
                ids.extend_from_slice(chosen);
            };
            if let Err(error) = readback.finish(&self.device, pending, keep).await {
                break Err(error);
            }
            if gave_up {
                break Ok(Turned::GaveUp);
            }
            pace.took(ids.len(), begun, Instant::now());
        };
        // What still runs writes only what later work overwrites; later work waits for it in the device's queue.
        in_flight.into_iter().for_each(|flight| flight.readback.forget(flight.pending));
        result
    }

    /// Records and submits the turns at `positions`, in front of which the loop `made` others, and asks for their ids.
    fn submit<'a>(
        &self,
        request: &Request,
        made: usize,
        positions: Range<usize>,
        rule: &Rule,
        readback: &'a Readback,
    ) -> Flight<'a> {
        let begun = Instant::now();
        let turns = positions.len();
        let mut bytes = 4 * turns as u64;
        let mut encoder = self.encoder();
        self.record_turns(&mut pass(&mut encoder), request, positions, made == 0, rule);
        readback.copy_from(&mut encoder, &self.activations.chosen, 4 * (made % RING) as u64, bytes);
        if let Some((persist, _)) = self.one_dispatch(request, rule) {
            readback.copy_to(&mut encoder, &persist.status, bytes, 4);
            bytes += 4;
        }
        Flight { pending: readback.start(bytes, self.device.queue.submit([encoder.finish()])), readback, begun, turns }
    }

    /// Records the turns at `positions`: each runs the token in the state through the model, chooses the next by `rule`, adds
    /// it to the ring `chosen` and makes it the state's. The first of all turns embeds the token that the loop begins with.
    pub(super) fn record_turns(
        &self,
        pass: &mut ComputePass<'_>,
        request: &Request,
        positions: Range<usize>,
        is_first: bool,
        rule: &Rule,
    ) {
        let (program, binds) = (&self.program, &request.binds);
        for launch in program.embed.iter().filter(|_| is_first) {
            launch.record(pass, binds, Extent::new(positions.start, 1));
        }
        if let Some((persist, binds)) = self.one_dispatch(request, rule) {
            return persist.record(pass, binds, positions.len() as u32);
        }
        for position in positions {
            let extent = Extent::new(position, 1);
            for launch in &program.body {
                launch.record(pass, binds, extent);
            }
            match (rule, &self.token_loop.sieve) {
                (Rule::Sieved(draw), Some(sieve)) => sieve.record(pass, draw),
                _ => program.best.iter().for_each(|launch| launch.record(pass, binds, extent)),
            }
            for launch in &program.turn {
                launch.record(pass, binds, extent);
            }
        }
    }

    /// The kernel that makes turns of `request` by `rule` in one dispatch, and its bind group, where they can be.
    fn one_dispatch<'a>(&'a self, request: &'a Request, rule: &Rule) -> Option<(&'a Persist, &'a BindGroup)> {
        self.persist.as_ref().zip(request.persist.as_ref()).filter(|_| *rule == Rule::Best)
    }
}

/// How many turns the next submit has.
struct Pace {
    turns: usize,
    /// When the last submit was done.
    done: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { turns: 1, done: None }
    }
}

impl Pace {
    /// Takes in that a submit of `turns` turns was done at `now`.
    fn took(&mut self, turns: usize, begun: Instant, now: Instant) {
        // It had the device from its beginning on, or from the end of the one before.
        let time = now.duration_since(self.done.unwrap_or(begun).max(begun));
        self.done = Some(now);
        let turn = time.as_nanos().max(1).div_ceil(turns.max(1) as u128);
        let fit = usize::try_from(LONGEST.as_nanos() / turn).unwrap_or(RING);
        self.turns = (2 * self.turns).min(fit).clamp(1, RING);
    }
}

/// Submits that the device has at a time: it works on one while the other is read.
const IN_FLIGHT: usize = 2;

/// How long a submit may take, so that text flows, a loop that is to end does so soon, and no watchdog looks.
const LONGEST: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of each of `submits` submits where a turn takes `turn`.
    fn paces(turn: Duration, submits: usize) -> Vec<usize> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let mut under_way = VecDeque::from([(1, now), (1, now)]);
        let mut seen = Vec::new();
        for _ in 0..submits {
            let Some((turns, begun)) = under_way.pop_front() else { break };
            now += turn * turns as u32;
            pace.took(turns, begun, now);
            seen.push(turns);
            under_way.push_back((pace.turns, now));
        }
        seen
    }

    #[test]
    fn submits_grow_from_one_turn_to_the_ring_or_to_what_is_soon_done() {
        assert_eq!(paces(Duration::from_micros(100), 10), [1, 1, 2, 4, 8, 16, 16, 16, 16, 16]);
        assert_eq!(paces(Duration::from_millis(4), 6), [1, 1, 2, 4, 5, 5]);
        assert_eq!(paces(Duration::from_millis(70), 4), [1, 1, 1, 1]);
    }

    #[test]
    fn a_submit_shrinks_when_turns_become_slow() {
        let now = Instant::now();
        let mut pace = Pace { turns: 16, done: None };
        pace.took(16, now, now + Duration::from_millis(160));
        assert_eq!(pace.turns, 2);
    }
}
