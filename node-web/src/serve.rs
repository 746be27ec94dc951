//! A tab's node from start to end: test the device, connect, serve, and come back when the link or the device was lost.

use std::cell::{Cell, RefCell};
use std::rc::Weak;

use js_sys::Math;
use serde_json::{Value, json};
use syn1_core::Reason;
use syn1_identity::Keys;
use syn1_node::{Ended, NodeConfig, NodeError};
use syn1_transport_ws::WebLink;
use web_time::Instant;

use crate::cache::Cache;
use crate::device::{Device, Trouble};
use crate::machine::{MAX_ROWS, Machine, random_bytes};
use crate::meter::{Meter, Metered};
use crate::options::NodeOptions;
use crate::signal::{Signal, either};
use crate::timer::sleep;

/// What a page holds of its node.
#[derive(Clone, Default)]
pub(crate) struct Reins {
    /// The node is to end.
    pub(crate) stop: Signal,
    /// Something has changed that may make the next attempt succeed: do not wait for it.
    pub(crate) hurry: Signal,
    pub(crate) meter: Meter,
}

/// Serves until it is told to stop; gives the last words.
///
/// # Errors
/// A sentence, where there is no point in going on.
pub(crate) async fn serve(options: NodeOptions, reins: &Reins, events: &dyn Fn(Value)) -> Result<String, String> {
    let shards = options.shards()?;
    let chosen = Device::choose(options.device, &options.adapter, options.no_gpu.as_deref(), false, events).await?;
    events(json!({ "event": "device", "text": chosen.line }));
    let cache = match Cache::open().await {
        Ok(cache) => Some(cache),
        Err(refused) => {
            events(
                json!({ "event": "notice", "text": format!("the browser keeps no files for this page: {refused}") }),
            );
            None
        }
    };
    let fresh = random_bytes()?;
    // A tab without files is somebody new at every visit.
    let secret = match &cache {
        Some(cache) => cache.secret(fresh).await.unwrap_or(fresh),
        None => fresh,
    };
    let keys = Keys::from_secret(&secret);
    events(json!({ "event": "key", "key": keys.public().to_string() }));
    let mut machine = Machine {
        device: chosen.device,
        keys,
        shards,
        cache,
        memory_limit_bytes: options.memory_bytes.map(|bytes| bytes as u64),
        events,
        leave: Signal::default(),
        trouble: Trouble::default(),
        gpu: RefCell::new(Weak::new()),
        profiled: Cell::new(false),
        manifest: RefCell::default(),
        known: RefCell::default(),
        offered_bytes: Cell::new(u64::MAX),
        most_bytes: Cell::new(u64::MAX),
        held_bytes: Cell::new(0),
        begin: Instant::now(),
    };
    let config = NodeConfig {
        name: options.name.clone(),
        agent: concat!("syn1-node-web/", env!("CARGO_PKG_VERSION")),
        max_payload: MAX_PAYLOAD,
        max_rows: MAX_ROWS,
        credit: CREDIT,
        expect: None,
    };
    let mut pause = FIRST_PAUSE_MS;
    let mut device_losses = 0;
    while !reins.stop.is_raised() {
        (machine.leave, machine.trouble) = (Signal::default(), Trouble::default());
        events(json!({ "event": "connecting", "join": options.coordinator }));
        let ended = attempt(&options, &machine, &config, reins).await;
        if reins.stop.is_raised() {
            break;
        }
        let (what, cause) = if machine.trouble.failed.is_raised() {
            device_losses += 1;
            ("device", "the GPU failed or was taken away".to_owned())
        } else if machine.trouble.short.is_raised() {
            ("memory", machine.offer_less())
        } else {
            match ended {
                Attempt::Over(text) => return Ok(text),
                Attempt::Refused(text) => return Err(text),
                Attempt::Lost(cause) => ("link", cause),
            }
        };
        if device_losses > MOST_DEVICE_LOSSES {
            return Err(format!("the GPU failed {device_losses} times: this tab stops; reload it to try again"));
        }
        if machine.profiled.take() {
            pause = FIRST_PAUSE_MS;
            events(json!({ "event": "lost", "what": what, "cause": cause }));
        }
        // Tabs that lost the same coordinator do not come back in one moment.
        let jittered = (pause as f64 * (0.5 + Math::random())) as u64;
        events(json!({ "event": "retry", "cause": cause, "pause_ms": jittered }));
        reins.hurry.lower();
        either(either(sleep(jittered), reins.hurry.wait()), reins.stop.wait()).await;
        pause = if reins.hurry.lower() { FIRST_PAUSE_MS } else { (pause * 2).min(LONGEST_PAUSE_MS) };
    }
    Ok("stopped".to_owned())
}

/// What became of one conversation.
enum Attempt {
    /// The coordinator's work is done.
    Over(String),
    /// There is no point in coming back.
    Refused(String),
    Lost(String),
}

async fn attempt(options: &NodeOptions, machine: &Machine<'_>, config: &NodeConfig, reins: &Reins) -> Attempt {
    let connect = async {
        let code = options.code.as_deref().filter(|code| !code.is_empty());
        WebLink::connect(&options.coordinator, code, MAX_PAYLOAD).await.map_err(|error| error.to_string())
    };
    let too_long = async {
        either(sleep(CONNECT_MS), reins.stop.wait()).await;
        Err(format!("no answer from {} within {} s", options.coordinator, CONNECT_MS / 1000))
    };
    let link = match either(connect, too_long).await {
        Ok(link) => Metered { link, meter: reins.meter.clone() },
        Err(cause) => return Attempt::Lost(cause),
    };
    let conversation = async { Some(syn1_node::run(link, machine, config).await) };
    let watch = async {
        watch(machine, reins).await;
        machine.leave.raise();
        // The goodbye goes out; a coordinator that takes no bytes is not waited for.
        sleep(GOODBYE_MS).await;
        None
    };
    match either(conversation, watch).await {
        Some(ended) => judged(ended),
        None => Attempt::Lost("the coordinator took no goodbye".to_owned()),
    }
}

/// Ready when the conversation is to end: the page wants it, or the device is gone or has no room.
async fn watch(machine: &Machine<'_>, reins: &Reins) {
    let lost = async {
        loop {
            sleep(WATCH_MS).await;
            if machine.gpu.borrow().upgrade().is_some_and(|gpu| gpu.is_lost()) {
                machine.trouble.failed.raise();
            }
        }
    };
    let trouble = either(machine.trouble.failed.wait(), machine.trouble.short.wait());
    either(either(lost, trouble), reins.stop.wait()).await;
}

fn judged(ended: Result<Ended, NodeError>) -> Attempt {
    match ended {
        Ok(Ended::Stopped) => Attempt::Lost("stopped".to_owned()),
        Ok(Ended::Bye { reason: Reason::Done, text, open: true }) => Attempt::Over(text),
        Ok(Ended::Bye { reason: Reason::Refused | Reason::Version | Reason::Replaced, text, .. }) => {
            Attempt::Refused(format!("the coordinator refused this node: {text}"))
        }
        Ok(Ended::Bye { text, .. }) => Attempt::Lost(format!("the coordinator ended the connection: {text}")),
        Err(error @ (NodeError::Version { .. } | NodeError::WrongCoordinator { .. })) => {
            Attempt::Refused(error.to_string())
        }
        Err(NodeError::Session(fatal)) if matches!(fatal.reason(), Reason::Version | Reason::Refused) => {
            Attempt::Refused(NodeError::Session(fatal).to_string())
        }
        Err(error) => Attempt::Lost(error.to_string()),
    }
}

/// Bytes of a data frame's payload that a tab takes: as a laptop, 256 rows of width 4096 in f32, or the logits of a
/// vocabulary of a million.
const MAX_PAYLOAD: u32 = 4 << 20;
/// Data frames that wait in the tab at most: a prompt's chunks and some requests' tokens, and no more bytes than
/// [`syn1_transport_ws::MOST_WAITING_BYTES`].
const CREDIT: u16 = 15;
const _: () = assert!(CREDIT as usize * (MAX_PAYLOAD as usize + 1024) < syn1_transport_ws::MOST_WAITING_BYTES);
/// A coordinator answers within this or not at all.
const CONNECT_MS: u64 = 10_000;
/// How long a goodbye may take.
const GOODBYE_MS: u64 = 2_000;
/// How often the device is looked at when nothing uses it.
const WATCH_MS: u64 = 1_000;
/// A GPU that fails more often than this, however far apart, is of no use to anybody.
const MOST_DEVICE_LOSSES: u32 = 8;
/// Pause before the first attempt to come back; doubled after each failure.
const FIRST_PAUSE_MS: u64 = 500;
/// Longest pause: a person who restarts a coordinator does not wait longer than this for the nodes.
const LONGEST_PAUSE_MS: u64 = 30_000;
