//! Progress on standard error, for people who wait. Bars are silent where nobody looks.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use syn1_coordinator::placement::size;
use syn1_coordinator::update::{Event, Evidence};
use syn1_model::split::Progress;

use crate::show;

/// Bytes that are being packed, read or fetched. Gone when it is dropped.
pub(crate) struct ByteBar {
    bar: ProgressBar,
}

impl ByteBar {
    /// A bar that shows nothing yet.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:20} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar }
    }

    /// `done_bytes` of `total_bytes`; `what` says of what.
    pub(crate) fn show(&self, what: String, done_bytes: u64, total_bytes: u64) {
        if self.bar.is_finished() {
            self.bar.reset();
        }
        self.bar.set_message(what);
        self.bar.set_length(total_bytes);
        self.bar.set_position(done_bytes);
    }

    /// How far a split is.
    pub(crate) fn packing(&self, at: Progress) {
        if let Some(piece) = at.piece {
            self.show(format!("packing {piece}"), at.done_bytes, at.total_bytes);
        }
    }

    /// Takes the bar away until there are more bytes.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Steps of long work. Gone when it is dropped.
pub(crate) struct CountBar {
    bar: ProgressBar,
}

impl CountBar {
    /// A bar of `steps` steps; `what` is done in each.
    pub(crate) fn new(what: &'static str, steps: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr()).with_message(what);
        let style = ProgressStyle::with_template("{msg:20} [{wide_bar}] {pos}/{len} {eta}");
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar }
    }

    /// One more step is done.
    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }
}

impl Drop for CountBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What the swarm does until it is ready: one line that changes, or one line per event. Gone when it is dropped.
pub(crate) struct SwarmProgress {
    /// The changing line; without it events are lines.
    spinner: Option<ProgressBar>,
    loading_said: Option<Instant>,
}

impl SwarmProgress {
    /// A line per event: for a coordinator that goes on.
    pub(crate) fn lines() -> Self {
        Self { spinner: None, loading_said: None }
    }

    /// One changing line: for a command that goes away.
    pub(crate) fn spinner() -> Self {
        let spinner = ProgressBar::new_spinner();
        if !spinner.is_hidden() {
            spinner.enable_steady_tick(Duration::from_millis(100));
        }
        Self { spinner: Some(spinner), loading_said: None }
    }

    /// Tells of an event.
    pub(crate) fn show(&mut self, event: &Event) {
        let text = describe(event);
        if let Some(spinner) = &self.spinner {
            if matches!(event, Event::Packing { .. }) {
                // What changes the text that will come is not to vanish with this line, and packing has a bar of its own.
                spinner.finish_and_clear();
                return show::say(&text);
            }
            if spinner.is_finished() {
                spinner.reset();
            }
            spinner.set_message(show::plain(&text));
        } else if !matches!(event, Event::Loading { .. }) || !self.said_loading() {
            show::say(&text);
        }
    }

    /// Whether loading was told of a moment ago; if not, it is now.
    fn said_loading(&mut self) -> bool {
        let recent = self.loading_said.is_some_and(|said| said.elapsed() < LOADING_EVERY);
        if !recent {
            self.loading_said = Some(Instant::now());
        }
        recent
    }
}

impl Drop for SwarmProgress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// An event in words.
fn describe(event: &Event) -> String {
    match event {
        Event::Joined { node, device, memory_bytes, read_bytes_per_s, layer_ns } => format!(
            "{node} joined: {device}, {} of memory, reads {}/s, {:.0} us a layer",
            size(*memory_bytes),
            size(*read_bytes_per_s),
            *layer_ns as f64 / 1e3
        ),
        Event::Refused { node, why } => format!("{node} was turned away: {why}"),
        Event::Left { node, why } => format!("{node} left: {why}"),
        Event::Unable { node, why } => format!("{node} cannot take its layers: {why}"),
        Event::Placed(parts) => {
            let parts = parts.iter().map(|(node, layers)| format!("{node} {}..{}", layers.start, layers.end));
            format!("layers: {}", parts.collect::<Vec<_>>().join(", "))
        }
        Event::Rebalanced { why } => format!("layers move: {why}"),
        Event::Unplaced { why, .. } => format!("not placed yet: {why}"),
        Event::Packing { format, needed_bytes, why } => format!("{why}: packing {format} ({})", size(*needed_bytes)),
        Event::Loading { node, done_bytes, total_bytes } => {
            format!("{node} loads its shard: {} of {}", size(*done_bytes), size(*total_bytes))
        }
        Event::Loaded { node, fetched_bytes: 0 } => format!("{node} has its shard, nothing had to be sent"),
        Event::Loaded { node, fetched_bytes } => {
            format!("{node} has its shard, {} came over the network", size(*fetched_bytes))
        }
        Event::Disputed { node, checker, evidence } => {
            format!("{node} and {checker} do not agree about {}: a third node is asked", describe_evidence(evidence))
        }
        Event::Quarantined { node, against: [one, other], evidence } => format!(
            "{node} is quarantined, since {one} and {other} agree against it about {}",
            describe_evidence(evidence)
        ),
        Event::Ready { token_ms } => format!("ready: a token went through every layer in {token_ms:.1} ms"),
    }
}

/// What two nodes do not agree about, in words.
fn describe_evidence(evidence: &Evidence) -> String {
    let Evidence { layers: (first, end), request, position, error, allowed } = evidence;
    format!(
        "layers {first}..{end} of request {request} at position {position}: {error:.3} apart where {allowed:.3} is possible"
    )
}

/// Nodes tell how far they are twice a second; a page of that hides what matters.
const LOADING_EVERY: Duration = Duration::from_secs(2);
