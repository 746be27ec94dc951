//! Progress on standard error, for people who wait. Silent where nobody looks.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use syn1_coordinator::placement::size;
use syn1_coordinator::update::Event;
use syn1_model::split::Progress;

/// The bar of a split.
pub(crate) struct SplitBar {
    bar: ProgressBar,
}

impl SplitBar {
    pub(crate) fn new() -> Self {
        Self { bar: bytes_bar() }
    }

    pub(crate) fn show(&mut self, progress: &Progress) {
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
        match progress.piece {
            Some(piece) => self.bar.set_message(format!("packing {piece}")),
            None => self.bar.finish_and_clear(),
        }
    }
}

/// What the swarm does until it is ready: one line that changes, or with `lines` one line per event.
pub(crate) struct SwarmProgress {
    spinner: ProgressBar,
    lines: bool,
}

impl SwarmProgress {
    /// `lines` for a coordinator that goes on; a single changing line for a command that goes away.
    pub(crate) fn new(lines: bool) -> Self {
        let spinner = if lines { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self { spinner, lines }
    }

    pub(crate) fn show(&self, event: &Event) {
        let Some(text) = describe(event) else { return };
        if self.lines {
            eprintln!("{text}");
        } else {
            self.spinner.set_message(text);
        }
    }

    pub(crate) fn done(&self) {
        self.spinner.finish_and_clear();
    }
}

/// An event in words; `None` for steps too small for a line of their own.
fn describe(event: &Event) -> Option<String> {
    Some(match event {
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
        Event::Unplaced(why) => format!("not placed yet: {why}"),
        Event::Loading { done_bytes, total_bytes, .. } if done_bytes < total_bytes => return None,
        Event::Loading { .. } => return None,
        Event::Loaded { node, fetched_bytes: 0 } => format!("{node} has its shard, nothing had to be sent"),
        Event::Loaded { node, fetched_bytes } => {
            format!("{node} has its shard, {} came over the network", size(*fetched_bytes))
        }
        Event::Ready { token_ms } => format!("ready: a token went through every layer in {token_ms:.1} ms"),
    })
}

/// Writes to standard output at once; a closed pipe is an error, not a panic.
pub(crate) fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A bar in bytes.
fn bytes_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
