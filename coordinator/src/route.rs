//! A request's way through the chain: its frames in flight, what entered each hop, and how it goes on when nodes change.
//!
//! Hops of a request stand in the order of the chain's parts. Each has an epoch of its own, which changes only with its
//! node: a hop whose node stays is not told that another one has changed, and nothing that it computes is lost.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use syn1_core::{Codec, Flags, Form, Header, Kind};

use crate::audit::History;
use crate::inbox::{Inbox, Keep, Relayed};
use crate::limits::REPLAYS_AHEAD;

/// The route of one request.
#[derive(Debug)]
pub(crate) struct Route {
    hops: Vec<Hop>,
    flights: VecDeque<Flight>,
    /// Frames that have entered the first hop.
    entered: u64,
    /// The newest incarnation.
    epoch: u8,
    /// Whether what enters the hops behind the first is kept for a replay. Tokens always are.
    logged: bool,
    /// Rows that were computed once more.
    replayed: u64,
}

/// One node's part in it.
#[derive(Debug)]
struct Hop {
    first_layer: usize,
    /// How its activations travel on.
    form: Form,
    epoch: u8,
    /// Its node was told of the request.
    open: bool,
    inbox: Inbox,
}

/// A part of the chain as a route sees it.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) layers: Range<usize>,
    /// How its activations travel on.
    pub(crate) form: Form,
    /// The hop that it was before, where the same node holds the same layers, with all that it had.
    pub(crate) was: Option<usize>,
}

/// A frame on its way through the chain.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    number: u64,
    pub(crate) position: u32,
    pub(crate) rows: u16,
    hop: usize,
    /// Marked as that of tokens that are not accepted yet.
    predicted: bool,
    /// It has rows of the prompt.
    of_prompt: bool,
    /// What the rows after the first are computed for, where they are guesses.
    pub(crate) guesses: Vec<u32>,
    /// Rows whose outputs have come.
    pub(crate) answered: u16,
    /// A guess was wrong: the outputs that still come count for nothing.
    pub(crate) rejected: bool,
    /// It rebuilds a KV cache: what comes of it was there before.
    pub(crate) replay: bool,
    /// When it was sent to its hop's node, if it was.
    sent: Option<Duration>,
}

/// What a frame that enters a route is.
#[derive(Debug)]
pub(crate) enum Cargo {
    /// Rows of the prompt.
    Prompt,
    /// A token, and guesses for what follows it.
    Token(Vec<u32>),
}

/// A frame for a node.
pub(crate) struct Due {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) of_prompt: bool,
}

/// A frame that a node is to answer next.
#[derive(Debug)]
pub(crate) struct Asking {
    /// When it was sent.
    pub(crate) at: Duration,
    pub(crate) what: Asked,
}

/// What a node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A single token.
    Token,
    /// So many rows of a prompt.
    Prompt(u16),
    /// What says nothing of the time that it takes: guesses, a replay, or the rest of an answer that has begun.
    Other,
}

impl Route {
    /// A route that goes nowhere yet.
    pub(crate) fn new() -> Self {
        Self { hops: Vec::new(), flights: VecDeque::new(), entered: 0, epoch: FIRST_EPOCH, logged: true, replayed: 0 }
    }

    /// Lays it through `stages`.
    pub(crate) fn lay(&mut self, stages: &[Stage]) {
        let keep = self.keep(stages);
        let hop = |(at, stage): (usize, &Stage)| Hop::new(stage, self.epoch, Inbox::new(keep(at)));
        self.hops = stages.iter().enumerate().map(hop).collect();
    }

    /// A route for a request whose nodes have been opened with `epoch` for an earlier one. What passed the boundaries then is
    /// not known: a loss is made up for from the tokens.
    pub(crate) fn behind(epoch: u8) -> Self {
        Self { epoch: epoch.wrapping_add(1), logged: false, ..Self::new() }
    }

    /// Its newest epoch.
    pub(crate) fn epoch(&self) -> u8 {
        self.epoch
    }

    /// The nodes of all hops have what follows from these frames.
    pub(crate) fn pass(&mut self, frames: Vec<(Header, Vec<u8>)>) {
        for (header, payload) in frames {
            self.entered += 1;
            let number = self.entered;
            for (at, hop) in self.hops.iter_mut().enumerate() {
                if at == 0 {
                    hop.inbox.push(Relayed { number, header, payload: payload.clone() });
                    hop.inbox.take();
                } else {
                    hop.inbox.skip(number);
                }
            }
        }
    }

    /// Whether a node is still being fed what another one had.
    pub(crate) fn is_replayed(&self) -> bool {
        self.flights.iter().any(|flight| flight.replay)
    }

    fn keep(&self, stages: &[Stage]) -> impl Fn(usize) -> Keep + use<> {
        let delta = is_delta(stages.iter().map(|stage| stage.form));
        let logged = self.logged;
        move |at| match (at, delta) {
            (1.., _) if !logged => Keep::Nothing,
            (_, true) => Keep::Frames,
            (_, false) => Keep::Rows,
        }
    }

    pub(crate) fn hops(&self) -> usize {
        self.hops.len()
    }

    /// Whether what one node sends to the next depends on the frames before.
    pub(crate) fn is_delta(&self) -> bool {
        is_delta(self.hops.iter().map(|hop| hop.form))
    }

    /// The epoch and form with which a hop is to be opened; nothing where it is open.
    pub(crate) fn open(&mut self, hop: usize) -> Option<(u8, Form)> {
        let hop = self.hops.get_mut(hop).filter(|hop| !hop.open)?;
        hop.open = true;
        Some((hop.epoch, hop.form))
    }

    /// Whether this is the epoch of a hop that is open.
    pub(crate) fn is_current(&self, hop: usize, epoch: u8) -> bool {
        self.hops.get(hop).is_some_and(|hop| hop.open && hop.epoch == epoch)
    }

    /// A frame of tokens enters the first hop.
    pub(crate) fn enter(&mut self, header: Header, payload: Vec<u8>, cargo: Cargo) {
        self.entered += 1;
        let number = self.entered;
        let predicted = header.flags.contains(Flags::PREDICTED);
        let (of_prompt, guesses) = match cargo {
            Cargo::Prompt => (true, Vec::new()),
            Cargo::Token(guesses) => (false, guesses),
        };
        self.flights.push_back(Flight { guesses, predicted, of_prompt, ..Flight::new(number, &header, 0) });
        if let Some(first) = self.hops.first_mut() {
            first.inbox.push(Relayed { number, header, payload });
        }
    }

    /// Frames on their way, replays not counted.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.iter().filter(|flight| !flight.replay).count()
    }

    /// How many of them are at the first hop.
    pub(crate) fn at_first(&self) -> usize {
        self.flights.iter().filter(|flight| flight.hop == 0 && !flight.replay).count()
    }

    /// Whether the node of this hop has rows of the prompt to compute.
    pub(crate) fn has_prompt_at(&self, hop: usize) -> bool {
        self.flights.iter().any(|flight| flight.of_prompt && flight.hop == hop && flight.sent.is_some())
    }

    /// The next frame for the node of an open hop; one of the prompt only if it `may_prompt`. A replay goes a few frames at a
    /// time, so that the frames of other requests come in between.
    pub(crate) fn due(&mut self, now: Duration, at: usize, may_prompt: bool) -> Option<Due> {
        let hop = self.hops.get_mut(at).filter(|hop| hop.open)?;
        let number = hop.inbox.due()?;
        let ahead = self.flights.iter().filter(|flight| flight.hop == at && flight.replay && flight.sent.is_some());
        let is_it = |flight: &&mut Flight| (flight.hop, flight.number, flight.sent) == (at, number, None);
        let busy = ahead.count() >= REPLAYS_AHEAD;
        let flight = self.flights.iter_mut().find(is_it);
        let of_prompt = flight.as_ref().is_some_and(|flight| flight.of_prompt);
        if (busy && flight.as_ref().is_some_and(|flight| flight.replay)) || (of_prompt && !may_prompt) {
            return None;
        }
        let Relayed { header, payload, .. } = hop.inbox.take()?;
        let flags = header.flags.without(Flags::PREDICTED);
        let mut header = Header { epoch: hop.epoch, flags, ..header };
        if let Some(flight) = flight {
            flight.sent = Some(now);
            header = if flight.predicted { header.predicted() } else { header };
        }
        Some(Due { header, payload, of_prompt })
    }

    /// How a hop's rows travel on, whether rows of several frames may be put together, and all that its node was sent; nothing
    /// while that owes an answer, or where something was forgotten.
    pub(crate) fn history(&self, hop: usize) -> Option<History> {
        let owes = self.flights.iter().any(|flight| flight.hop == hop && flight.sent.is_some());
        let delta = self.hops.iter().rev().skip(1).any(|hop| hop.form.flags().contains(Flags::DELTA));
        let hop = self.hops.get(hop).filter(|_| !owes)?;
        Some((hop.form, !delta, hop.inbox.history()?))
    }

    /// Nothing that was computed counts any more; everything comes in anew, in the next epoch.
    pub(crate) fn anew(&mut self, stages: &[Stage]) {
        self.epoch = self.epoch.wrapping_add(1);
        self.flights.clear();
        self.logged = true;
        self.lay(stages);
    }

    /// The frame that the node of this hop is to answer next.
    pub(crate) fn asked(&self, hop: usize) -> Option<Asking> {
        let flight = self.flights.iter().find(|flight| flight.hop == hop)?;
        let what = match flight {
            Flight { replay: true, .. } | Flight { answered: 1.., .. } => Asked::Other,
            Flight { of_prompt: true, rows, .. } => Asked::Prompt(*rows),
            Flight { rows: 1, .. } => Asked::Token,
            Flight { .. } => Asked::Other,
        };
        Some(Asking { at: flight.sent?, what })
    }

    /// The flight that an answer of this hop belongs to; nothing where it comes from a node's time before.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(crate) fn answered(&self, hop: usize, header: &Header) -> Result<Option<usize>, String> {
        if !self.is_current(hop, header.epoch) {
            return Ok(None);
        }
        let at = self.flights.iter().position(|flight| flight.hop == hop);
        let at = at.filter(|&at| self.flights[at].sent.is_some()).ok_or("an answer that nothing asked for")?;
        let predicted = self.flights[at].predicted;
        if header.flags.contains(Flags::PREDICTED) != predicted {
            return Err(format!("an answer with flags {} to a frame that was predicted: {predicted}", header.flags));
        }
        Ok(Some(at))
    }

    /// Takes a flight on to the next hop, with the activation that is the answer of the one where it is. A replay whose rows
    /// are known there ends.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub(crate) fn relay(&mut self, at: usize, header: &Header, payload: &[u8]) -> Result<(), String> {
        let flight = &mut self.flights[at];
        if header.kind != Kind::Activation || (header.position, header.rows) != (flight.position, flight.rows) {
            return Err(format!(
                "{:?} of {} rows at position {} in place of an activation of {} rows at position {}",
                header.kind, header.rows, header.position, flight.rows, flight.position
            ));
        }
        // It goes on to the next node as it is, so it must be what that node was told to expect.
        let form = self.hops.get(flight.hop).map_or(Form::plain(Codec::F32), |hop| hop.form);
        let extra = header.flags.without(form.flags()).without(Flags::QUANTIZED).without(Flags::PREDICTED);
        if ![form.codec(), Codec::F32].contains(&header.codec) || !extra.is_empty() {
            return Err(format!("an activation in {} with flags {} in place of {form}", header.codec, header.flags));
        }
        let Some(next) = self.hops.get_mut(flight.hop + 1) else { return Ok(()) };
        if next.inbox.has(flight.number) {
            self.end(at);
        } else {
            (flight.hop, flight.sent) = (flight.hop + 1, None);
            next.inbox.push(Relayed { number: flight.number, header: *header, payload: payload.to_vec() });
        }
        Ok(())
    }

    pub(crate) fn flight(&mut self, at: usize) -> &mut Flight {
        &mut self.flights[at]
    }

    /// A flight is over.
    pub(crate) fn end(&mut self, at: usize) {
        if let Some(flight) = self.flights.remove(at).filter(|flight| flight.replay) {
            self.replayed += u64::from(flight.rows);
        }
    }

    /// Rows that were replayed since this was asked last.
    pub(crate) fn take_replayed(&mut self) -> u64 {
        std::mem::take(&mut self.replayed)
    }

    /// The oldest frame that each node has not answered: hop and time.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (usize, Duration)> {
        (0..self.hops.len()).filter_map(|hop| Some((hop, self.asked(hop)?.at)))
    }

    /// Bytes that are kept for replays, tokens not counted.
    pub(crate) fn kept(&self) -> usize {
        self.hops.iter().skip(1).map(|hop| hop.inbox.kept()).sum()
    }

    /// Keeps nothing but tokens from now on: a loss is made up for from the first hop.
    pub(crate) fn forget(&mut self) {
        self.logged = false;
        self.hops.iter_mut().skip(1).for_each(|hop| hop.inbox.forget());
    }

    /// Goes on through `stages`, in frames of at most `most` rows where rows are replayed. Gives whether the last hop has to
    /// be opened anew.
    ///
    /// A hop whose node was there before goes on as if nothing had happened. Each other one gets all that entered it before,
    /// from position 0 on. Where that is not known, since there was no boundary or what passed it was forgotten, the hop
    /// before computes it once more.
    pub(crate) fn reroute(&mut self, stages: &[Stage], most: u16) -> bool {
        self.epoch = self.epoch.wrapping_add(1);
        let keep = self.keep(stages);
        let mut old: Vec<Option<Hop>> = std::mem::take(&mut self.hops).into_iter().map(Some).collect();
        let firsts: Vec<usize> = old.iter().flatten().map(|hop| hop.first_layer).collect();
        let known = |layer: usize| old.iter().flatten().any(|hop| hop.first_layer == layer && hop.inbox.is_whole());
        let begins: Vec<bool> = stages.iter().map(|stage| known(stage.layers.start)).collect();
        let mut stays: Vec<bool> = stages.iter().map(|stage| stage.was.is_some()).collect();
        for at in (1..stages.len()).rev() {
            stays[at - 1] &= stays[at] || begins[at];
        }

        // Where each flight goes on.
        let mut flights = VecDeque::new();
        for mut flight in std::mem::take(&mut self.flights) {
            let stayed = stages.iter().position(|stage| stage.was == Some(flight.hop)).filter(|&at| stays[at]);
            if let Some(at) = stayed {
                flight.hop = at;
            } else if flight.replay || flight.rejected {
                continue;
            } else {
                let layer = firsts.get(flight.hop).copied().unwrap_or(0);
                let holds = stages.iter().rposition(|stage| stage.layers.start <= layer).unwrap_or(0);
                flight.hop = (0..=holds).rev().find(|&at| begins[at]).unwrap_or(0);
                (flight.sent, flight.answered) = (None, 0);
            }
            flights.push_back(flight);
        }

        let mut replays = VecDeque::new();
        for (at, stage) in stages.iter().enumerate() {
            let hop = if stays[at] {
                stage.was.and_then(|was| old.get_mut(was)?.take())
            } else {
                let same =
                    old.iter_mut().find(|hop| hop.as_ref().is_some_and(|hop| hop.first_layer == stage.layers.start));
                let inbox = same.and_then(Option::take).map(|hop| hop.inbox).filter(Inbox::is_whole);
                let mut inbox = inbox.unwrap_or_else(|| Inbox::new(keep(at)));
                // One that is on its way further on may have to come back here.
                let live = |number| flights.iter().any(|flight: &Flight| !flight.replay && flight.number == number);
                inbox.rewind(keep(at), &live, most);
                let here = |number| flights.iter().any(|flight| (flight.hop, flight.number) == (at, number));
                let dead = inbox.frames().filter(|frame| !here(frame.number));
                replays
                    .extend(dead.map(|frame| Flight { replay: true, ..Flight::new(frame.number, &frame.header, at) }));
                Some(Hop::new(stage, self.epoch, inbox))
            };
            self.hops.push(hop.unwrap_or_else(|| Hop::new(stage, self.epoch, Inbox::new(keep(at)))));
        }
        replays.append(&mut flights);
        self.flights = replays;
        stays.last() == Some(&false)
    }

    /// Forgets that any node had any of it: everything is computed once more, from the tokens on.
    pub(crate) fn restart(&mut self, stages: &[Stage], most: u16) -> bool {
        for hop in self.hops.iter_mut().skip(1) {
            hop.inbox.forget();
        }
        let anew: Vec<Stage> = stages.iter().map(|stage| Stage { was: None, ..stage.clone() }).collect();
        self.reroute(&anew, most)
    }
}

impl Hop {
    fn new(stage: &Stage, epoch: u8, inbox: Inbox) -> Self {
        Self { first_layer: stage.layers.start, form: stage.form, epoch, open: false, inbox }
    }
}

impl Flight {
    fn new(number: u64, header: &Header, hop: usize) -> Self {
        Self {
            number,
            position: header.position,
            rows: header.rows,
            hop,
            predicted: false,
            of_prompt: false,
            guesses: Vec::new(),
            answered: 0,
            rejected: false,
            replay: false,
            sent: None,
        }
    }
}

/// Whether a route whose hops send in these forms has frames that depend on those before. What the last one sends are
/// outputs.
fn is_delta(forms: impl DoubleEndedIterator<Item = Form>) -> bool {
    forms.rev().skip(1).any(|form| form.flags().contains(Flags::DELTA))
}

/// Every request's first incarnation.
const FIRST_EPOCH: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn stages(layers: &[(Range<usize>, Option<usize>)]) -> Vec<Stage> {
        let form = Form::plain(Codec::F32);
        layers.iter().map(|(layers, was)| Stage { layers: layers.clone(), form, was: *was }).collect()
    }

    /// A route over two hops of two layers each, both open, with `frames` single tokens that have entered.
    fn route(frames: u32) -> Route {
        let mut route = Route::new();
        route.lay(&stages(&[(0..2, None), (2..4, None)]));
        open(&mut route);
        (0..frames)
            .for_each(|position| route.enter(Header::tokens(1, 0, position, 1), vec![0; 4], Cargo::Token(Vec::new())));
        route
    }

    fn open(route: &mut Route) {
        for hop in 0..2 {
            assert!(route.open(hop).is_some());
        }
    }

    /// Sends all that is due at a hop: positions, rows and epochs.
    fn send(route: &mut Route, hop: usize) -> Vec<(u32, u16, u8)> {
        std::iter::from_fn(|| route.due(NOW, hop, true))
            .map(|Due { header, .. }| (header.position, header.rows, header.epoch))
            .collect()
    }

    /// The first hop's node answers what it was sent.
    fn relay(route: &mut Route, epoch: u8, position: u32, rows: u16) {
        let header = Header::activation(1, epoch, position, Codec::F32, rows, 1).unwrap();
        let at = route.answered(0, &header).unwrap().unwrap();
        route.relay(at, &header, &vec![0; header.payload_len as usize]).unwrap();
    }

    /// The last hop's node answers.
    fn arrive(route: &mut Route, epoch: u8) {
        let at = route.answered(1, &Header::acknowledge(1, epoch, 0)).unwrap().unwrap();
        route.end(at);
    }

    #[test]
    fn a_new_holder_is_fed_what_the_old_one_was_and_the_other_hop_is_left_alone() {
        let mut route = route(3);
        assert_eq!(send(&mut route, 0), [(0, 1, 1), (1, 1, 1), (2, 1, 1)]);
        (0..3).for_each(|position| relay(&mut route, 1, position, 1));
        assert_eq!(send(&mut route, 1).len(), 3);
        (0..2).for_each(|_| arrive(&mut route, 1));
        assert!(route.reroute(&stages(&[(0..2, Some(0)), (2..4, None)]), 8), "the last hop is another one");
        assert_eq!((route.open(0), route.open(1).map(|open| open.0)), (None, Some(2)));
        // Two that were answered in one frame, and the one that was not by itself.
        assert_eq!(send(&mut route, 1), [(0, 2, 2), (2, 1, 2)]);
        assert!(send(&mut route, 0).is_empty());
        assert_eq!(route.answered(1, &Header::acknowledge(1, 1, 1)), Ok(None), "an old answer");
        arrive(&mut route, 2);
        assert_eq!((route.take_replayed(), route.in_flight()), (2, 1));
    }

    #[test]
    fn what_is_known_at_the_next_hop_does_not_come_there_again() {
        let mut route = route(2);
        send(&mut route, 0);
        relay(&mut route, 1, 0, 1);
        assert!(!route.reroute(&stages(&[(0..2, None), (2..4, Some(1))]), 8));
        route.open(0);
        assert_eq!(send(&mut route, 0), [(0, 1, 2), (1, 1, 2)]);
        relay(&mut route, 2, 0, 1);
        relay(&mut route, 2, 1, 1);
        assert_eq!(send(&mut route, 1), [(0, 1, 1), (1, 1, 1)]);
    }

    #[test]
    fn a_frame_that_is_on_its_way_further_on_stays_by_itself() {
        let mut route = route(2);
        send(&mut route, 0);
        (0..2).for_each(|position| relay(&mut route, 1, position, 1));
        route.forget();
        assert!(!route.reroute(&stages(&[(0..2, None), (2..4, Some(1))]), 8));
        // Now the second is lost too: what is on its way there begins again at the first, frame by frame.
        assert!(route.reroute(&stages(&[(0..2, None), (2..4, None)]), 8));
        open(&mut route);
        assert_eq!(send(&mut route, 0), [(0, 1, 3), (1, 1, 3)]);
        (0..2).for_each(|position| relay(&mut route, 3, position, 1));
        assert_eq!(send(&mut route, 1), [(0, 1, 3), (1, 1, 3)]);
    }

    #[test]
    fn layers_that_move_together_are_computed_from_the_boundary_that_is_known() {
        let mut route = route(2);
        send(&mut route, 0);
        (0..2).for_each(|position| relay(&mut route, 1, position, 1));
        send(&mut route, 1);
        (0..2).for_each(|_| arrive(&mut route, 1));
        // A boundary that was not there before, behind a node that keeps its name and not its layers.
        route.reroute(&stages(&[(0..1, None), (1..4, None)]), 8);
        open(&mut route);
        assert_eq!(send(&mut route, 0), [(0, 2, 2)]);
        relay(&mut route, 2, 0, 2);
        assert_eq!(send(&mut route, 1), [(0, 2, 2)]);
    }
}
