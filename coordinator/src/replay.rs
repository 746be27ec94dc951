//! What entered a request's hop, computed by another node: for a second opinion of what the hop's own node made of it.

use std::collections::VecDeque;
use std::time::Duration;

use syn1_core::control::{Open, Output};
use syn1_core::{Codec, Flags, Header, Inbound, Kind};

use crate::compare::{Row, rows};
use crate::core::NodeId;
use crate::inbox::Relayed;
use crate::limits::{CHECK_TOP, REPLAYS_AHEAD};

/// A hop's input on its way through another node.
pub(crate) struct Replay {
    /// The request as that node knows it.
    pub(crate) id: u32,
    pub(crate) node: NodeId,
    /// The assignment by which it holds the layers.
    pub(crate) generation: u32,
    /// Everything since position 0.
    inputs: Vec<Relayed>,
    sent: usize,
    /// Rows of several frames that may travel in one, if any.
    merges: Option<u16>,
    opened: bool,
    /// Rows at this position and behind give outputs, at the last hop; nothing at any other.
    wanted_from: Option<u32>,
    vocab: usize,
    /// Rows that are due for each frame that is not answered.
    due: VecDeque<u16>,
    output: Output,
    /// Rows in front that nobody asked for, and how many of them are still to come.
    skipped: usize,
    skip: usize,
    inbound: Inbound<Vec<f32>>,
    /// What it computed, oldest first.
    pub(crate) rows: VecDeque<(u32, Row)>,
    pub(crate) progressed: Duration,
}

impl Replay {
    /// Through `node`, from `inputs` on. `wanted_from` is that of the last hop.
    pub(crate) fn new(
        now: Duration,
        id: u32,
        (node, generation): (NodeId, u32),
        inputs: Vec<Relayed>,
        merges: Option<u16>,
        wanted_from: Option<u32>,
        vocab: usize,
    ) -> Self {
        let top = u16::try_from(vocab).map_or(CHECK_TOP, |vocab| vocab.min(CHECK_TOP));
        Self {
            id,
            node,
            generation,
            inputs,
            sent: 0,
            merges,
            opened: false,
            wanted_from,
            due: VecDeque::new(),
            output: Output::Top(top),
            skipped: 0,
            skip: 0,
            vocab,
            inbound: Inbound::new(Vec::new()),
            rows: VecDeque::new(),
            progressed: now,
        }
    }

    /// Whether anything has entered the hop.
    pub(crate) fn has_inputs(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// Passes over what comes of the inputs so far.
    pub(crate) fn skip_inputs(&mut self) {
        match &mut self.wanted_from {
            Some(wanted_from) => {
                let end = self.inputs.last().map_or(0, Relayed::end);
                *wanted_from = (*wanted_from).max(end);
            }
            None => {
                self.skip = self.inputs.iter().map(|frame| usize::from(frame.header.rows)).sum();
                self.skipped = self.skip;
            }
        }
    }

    /// One more frame has entered the hop.
    pub(crate) fn push(&mut self, frame: Relayed) {
        let behind = self.inputs.len();
        match self.inputs.last_mut() {
            Some(last) if behind > self.sent && self.merges.is_some_and(|most| last.goes_with(&frame, most)) => {
                last.append(frame)
            }
            _ => self.inputs.push(frame),
        }
    }

    /// The message that opens it, before its first frame.
    pub(crate) fn open(&mut self) -> Option<Open> {
        if std::mem::replace(&mut self.opened, true) {
            return None;
        }
        Some(Open {
            request: self.id,
            epoch: EPOCH,
            // Half of f32's bytes, for a rounding that is far below what kernels may differ by.
            codec: Codec::F16 as u8,
            flags: Flags::NONE.bits(),
            output: self.output,
            wanted_from: self.wanted_from.unwrap_or_default(),
        })
    }

    /// The next frame for the node, few at a time, so that it is soon free for other work. One to which rows may be added
    /// waits for them, unless it is the `last`.
    pub(crate) fn due(&mut self, last: bool) -> Option<(Header, Vec<u8>)> {
        let frame = self.inputs.get(self.sent)?;
        let is_newest = self.sent + 1 == self.inputs.len();
        let grows = is_newest && self.merges.is_some_and(|most| frame.header.rows < most);
        if self.due.len() >= REPLAYS_AHEAD || (grows && !last) {
            return None;
        }
        self.sent += 1;
        let Header { position, rows, flags, .. } = frame.header;
        let wanted = self.wanted_from.unwrap_or_default().saturating_sub(position);
        self.due.push_back(rows.saturating_sub(u16::try_from(wanted).unwrap_or(u16::MAX)));
        let flags = flags.without(Flags::PREDICTED);
        Some((Header { request: self.id, epoch: EPOCH, flags, ..frame.header }, frame.payload.clone()))
    }

    /// Takes in an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn answered(&mut self, now: Duration, header: &Header, payload: &[u8]) -> Result<(), String> {
        self.progressed = now;
        let due = self.due.front_mut().ok_or("an answer to a check that nothing asked for")?;
        let kind = if self.wanted_from.is_some() { Kind::Output } else { Kind::Activation };
        if header.kind != kind || header.rows > *due || (header.rows == 0) != (*due == 0) {
            return Err(format!("{:?} of {} rows in place of {due} for a check", header.kind, header.rows));
        }
        *due -= header.rows;
        if *due == 0 {
            self.due.pop_front();
        }
        for row in rows(&mut self.inbound, self.vocab, header, payload)? {
            if self.skip > 0 {
                self.skip -= 1;
            } else {
                self.rows.push_back(row);
            }
        }
        Ok(())
    }

    /// Whether everything that was sent is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.due.is_empty()
    }

    /// Whether everything there is was sent and answered.
    pub(crate) fn is_done(&self) -> bool {
        self.due.is_empty() && self.sent == self.inputs.len()
    }

    /// Bytes that it keeps.
    pub(crate) fn bytes(&self) -> usize {
        let inputs: usize = self.inputs.iter().map(Relayed::bytes).sum();
        inputs + self.rows.iter().map(|(_, row)| row.bytes()).sum::<usize>()
    }

    /// The same input through another node, whose first row will be that behind the first `rows` of this one.
    pub(crate) fn again(&self, now: Duration, id: u32, node: (NodeId, u32), rows: usize) -> Self {
        let mut again = Self::new(now, id, node, self.inputs.clone(), None, self.wanted_from, self.vocab);
        (again.skipped, again.skip) = (self.skipped + rows, self.skipped + rows);
        again
    }
}

/// A request of its own has no incarnation before.
const EPOCH: u8 = 1;
