//! `GET /api/events`: the swarm as it changes, as server-sent events.
//!
//! Every event is one `data:` line with a JSON object `{"at": milliseconds since 1970, "event": NAME, "data": ..}`. First
//! come the present state (`topology`, what `GET /api/topology` answers), the latest events, and `figures`; then each
//! event as it happens, followed by the state it led to, and `figures` whenever they have changed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::feed::{Told, unix_ms};
use crate::limits::{FIGURES_EVERY, MAX_WATCHERS, WATCHER_SILENCE};
use crate::server::Shared;
use crate::timing::{Pass, Traffic};

/// Streams until the watcher goes away.
pub(super) async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let Some((past, live)) = shared.watch() else {
        let why = format!("{MAX_WATCHERS} watch already: close another page, or ask GET /api/topology now and then\n");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let watcher = Watcher::new(shared, past, live);
    let lines = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watcher))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(lines)).into_response()
}

/// One who watches.
struct Watcher {
    shared: Arc<Shared>,
    live: broadcast::Receiver<Told>,
    /// Lines that are to be sent.
    ready: VecDeque<String>,
    clock: Interval,
    figures: Option<Figures>,
    last_pass: u64,
    last_line: Instant,
}

/// What changes with every token.
#[derive(PartialEq, Serialize)]
struct Figures {
    /// Running requests.
    running: usize,
    /// Requests that wait.
    queued: usize,
    /// Every node that frames went to.
    nodes: Vec<NodeFigures>,
    /// Passes since the last figures, the latest of them where they were many.
    passes: Vec<Pass>,
}

#[derive(PartialEq, Serialize)]
struct NodeFigures {
    name: String,
    #[serde(flatten)]
    traffic: Traffic,
}

#[derive(Serialize)]
struct Line<'a, T> {
    at: u64,
    event: &'a str,
    data: &'a T,
}

impl Watcher {
    fn new(shared: Arc<Shared>, past: Vec<Told>, live: broadcast::Receiver<Told>) -> Self {
        let mut clock = interval(FIGURES_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ready, last_line) = (VecDeque::new(), Instant::now());
        let mut watcher = Self { shared, live, ready, clock, figures: None, last_pass: 0, last_line };
        watcher.topology();
        watcher.ready.extend(past.iter().filter_map(line));
        watcher
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                self.last_line = Instant::now();
                return Some(line);
            }
            tokio::select! {
                told = self.live.recv() => match told {
                    Ok(told) => self.told(&told),
                    Err(RecvError::Lagged(_)) => self.topology(),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.clock.tick() => self.figures(),
            }
        }
    }

    /// An event and those behind it, and the state that all of them led to.
    fn told(&mut self, told: &Told) {
        self.ready.extend(line(told));
        loop {
            match self.live.try_recv() {
                Ok(told) => self.ready.extend(line(&told)),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        self.topology();
    }

    fn topology(&mut self) {
        let topology = self.shared.look(|core| core.topology());
        self.ready.extend(line(&Line { at: unix_ms(), event: "topology", data: &topology }));
    }

    /// Figures where they have changed; a comment where all has been silent for long.
    fn figures(&mut self) {
        let (topology, passes) = self.shared.look(|core| (core.topology(), core.passes_after(self.last_pass)));
        self.last_pass = passes.last().map_or(self.last_pass, |pass| pass.number);
        let nodes = topology.nodes.into_iter();
        let nodes = nodes.filter_map(|node| Some(NodeFigures { name: node.name, traffic: node.traffic? })).collect();
        let figures = Figures { running: topology.running, queued: topology.queued, nodes, passes };
        if self.figures.as_ref() != Some(&figures) {
            self.ready.extend(line(&Line { at: unix_ms(), event: "figures", data: &figures }));
            self.figures = Some(figures);
        } else if self.last_line.elapsed() >= WATCHER_SILENCE {
            self.ready.push_back(":\n\n".into());
        }
    }
}

/// JSON has no line breaks of its own, so a line is all an event takes.
fn line(event: &impl Serialize) -> Option<String> {
    match serde_json::to_string(event) {
        Ok(json) => Some(format!("data: {json}\n\n")),
        Err(error) => {
            tracing::error!("an event cannot be told: {error}");
            None
        }
    }
}
