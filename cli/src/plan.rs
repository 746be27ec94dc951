//! `syn1 plan`: who takes which layers, what a token takes, and why; of a coordinator that runs, or of devices in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use syn1_coordinator::outline::{Outline, outline};
use syn1_coordinator::placement::{Demand, Offer, Policy, size};
use syn1_coordinator::predict::HOP_NS;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};

use crate::asking::Trusted;
use crate::bench::shape::{Sketch, Subject};
use crate::coordinator::SLOTS;
use crate::interrupt::blocking;
use crate::options::WireOptions;
use crate::show;
use crate::wire::WireChoice;

/// Options of `syn1 plan`.
#[derive(clap::Args)]
#[command(after_help = "\
A token passes the nodes one after another: its time is every node's layers at that node's pace, the head at the last one,
and a hop for each. Whoever would make a token slower is left out, unless the model does not fit without it. The plan is
made by what the coordinator itself decides with.

What a coordinator serves:   syn1 plan --coordinator http://127.0.0.1:7780
One with --tls auto:         syn1 plan --coordinator https://192.168.1.10:7780 --tls-fingerprint SHA256
What some devices could do:  syn1 plan --fleet devices.json --shape llama-1b

devices.json, of which docs/fleets/home.json is an example:
  {\"devices\": [
    {\"name\": \"desktop\", \"memory_gb\": 8, \"gb_per_s\": 300},
    {\"name\": \"laptop\", \"memory_gb\": 4, \"layer_us\": 450, \"round_trip_ms\": 3},
    {\"name\": \"far\", \"memory_gb\": 16, \"gb_per_s\": 60, \"round_trip_ms\": 40, \"mbit_per_s\": 20}
  ]}
A layer's time is layer_us microseconds, or that of reading its weights at gb_per_s. round_trip_ms is that of the link to the
coordinator, 0 if it is not there; mbit_per_s what the link takes in each direction, without limit if it is not there.")]
pub(crate) struct Args {
    /// The coordinator that is asked
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7780", conflicts_with = "fleet")]
    coordinator: String,
    /// The API key that it asks for, if it asks for one
    #[arg(long, value_name = "KEY", env = "SYN1_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    #[command(flatten)]
    trusted: Trusted,
    /// Devices that are not there: a JSON file
    #[arg(long, value_name = "FILE")]
    fleet: Option<PathBuf>,
    #[command(flatten)]
    subject: Subject,
    /// With --fleet: split over exactly N of them [default: whatever makes a token the fastest]
    #[arg(long, value_name = "N", requires = "fleet", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: Option<u16>,
    /// With --fleet: requests that run at the same time
    #[arg(long, value_name = "N", requires = "fleet", default_value_t = SLOTS, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    #[command(flatten)]
    wire: WireOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let plan = match &args.fleet {
        Some(file) => {
            let sketch = args.subject.sketch().await?;
            hypothetical(&args, &sketch, &Fleet::read(file)?)?
        }
        None => {
            let url = format!("{}/api/plan", args.coordinator.trim_end_matches('/'));
            let (key, trusted) = (args.api_key.clone(), args.trusted.clone());
            blocking(move || ask(&url, key.as_deref(), &trusted)).await?
        }
    };
    if args.json {
        return Ok(show::out(&(serde_json::to_string(&plan)? + "\n"))?);
    }
    Ok(show::out(&table(&plan))?)
}

/// The plan that a coordinator serves.
fn ask(url: &str, key: Option<&str>, trusted: &Trusted) -> Result<Outline> {
    let request = trusted.agent(url, PATIENCE)?.get(url);
    let request = match key {
        Some(key) => request.header("authorization", format!("Bearer {key}")),
        None => request,
    };
    let mut answer = request
        .call()
        .with_context(|| format!("no coordinator answers at {url}: start one, or name another with --coordinator"))?;
    let status = answer.status();
    let text = answer.body_mut().read_to_string().with_context(|| format!("cannot read what {url} answers"))?;
    if !status.is_success() {
        let told: Value = serde_json::from_str(&text).unwrap_or_default();
        let why = told["error"]["message"].as_str().unwrap_or(text.trim());
        bail!("{url} gives no plan: {why}{}", if status == 401 { ": here that is --api-key KEY" } else { "" });
    }
    serde_json::from_str(&text).with_context(|| format!("{url} does not answer with a plan"))
}

/// Devices that need not be there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fleet {
    devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    name: String,
    memory_gb: f64,
    layer_us: Option<f64>,
    gb_per_s: Option<f64>,
    #[serde(default)]
    round_trip_ms: f64,
    mbit_per_s: Option<f64>,
}

impl Fleet {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let fleet: Self = serde_json::from_str(text).context("not a list of devices (`syn1 plan --help` shows one)")?;
        if fleet.devices.is_empty() {
            bail!("there is no device in it");
        }
        Ok(fleet)
    }
}

impl Device {
    /// What it brings to a model whose layers have so many bytes.
    fn offer(&self, layer_bytes: u64) -> Result<Offer> {
        let at_least = |what: &str, value: f64, least: f64| {
            if value.is_finite() && value >= least {
                Ok(value)
            } else {
                bail!("{}: {what} is {value}, at least {least} is expected", self.name)
            }
        };
        let layer_us = match (self.layer_us, self.gb_per_s) {
            (Some(us), None) => at_least("layer_us", us, 0.0)?,
            (None, Some(rate)) => layer_bytes as f64 / at_least("gb_per_s", rate, 0.001)? / 1e3,
            _ => bail!("{}: either layer_us or gb_per_s is expected", self.name),
        };
        let bits = self.mbit_per_s.map(|rate| at_least("mbit_per_s", rate, 0.001)).transpose()?;
        // `as` saturates.
        Ok(Offer {
            memory_bytes: (at_least("memory_gb", self.memory_gb, 0.0)? * 1e9) as u64,
            layer_ns: (layer_us * 1e3).round() as u64,
            hop_ns: HOP_NS.saturating_add((at_least("round_trip_ms", self.round_trip_ms, 0.0)? * 1e6) as u64),
            bytes_per_s: bits.map(|megabits| (megabits * 1e6 / 8.0) as u64),
        })
    }
}

fn hypothetical(args: &Args, sketch: &Sketch, fleet: &Fleet) -> Result<Outline> {
    let form = match args.wire.wire {
        WireChoice::Form(form) => form,
        WireChoice::Auto => Form::plain(Codec::F16),
    };
    let wire = Wire::everywhere(form);
    let Sketch { name, spec, format, max_positions } = sketch;
    let demand = Demand { spec, format: *format, max_positions: *max_positions, slots: args.slots.into(), wire: &wire };
    let layer_bytes = demand.layer_weight_bytes();
    let offers = fleet.devices.iter().map(|device| device.offer(layer_bytes)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = fleet.devices.iter().map(|device| device.name.clone()).collect();
    let policy = args.nodes.map_or(Policy::Auto, |nodes| Policy::Exactly(nodes.into()));
    Ok(outline(name, policy, &demand, &names, &offers)?)
}

fn table(plan: &Outline) -> String {
    let ms = |us: f64| format!("{:.2} ms", us / 1e3);
    let mut text = format!(
        "{} ({}), {} of weights and KV caches\n\n{:20} {:>12} {:>22} {:>12} {:>12}\n",
        plan.model,
        plan.weights,
        size(plan.needed_bytes),
        "node",
        "layers",
        "memory",
        "computing",
        "link"
    );
    for part in &plan.taken {
        let layers = format!("{}..{}", part.layers.0, part.layers.1);
        let memory = format!("{} of {}", size(part.needs_bytes), size(part.memory_bytes));
        let (compute, link) = (ms(part.compute_us), ms(part.link_us));
        text += &format!("{:20} {layers:>12} {memory:>22} {compute:>12} {link:>12}\n", show::plain(&part.name));
    }
    let (token, compute, link) = (ms(plan.token_us), ms(plan.compute_us), ms(plan.link_us));
    text += &format!(
        "\na token: {token}, of which computing {compute}, links {link}: {:.1} tokens/s of one text, at most {:.1} of many \
         together\n\n{}\n",
        plan.tokens_per_second,
        plan.most_tokens_per_second,
        show::plain(&plan.reason)
    );
    for left in &plan.left_out {
        text += &format!("left out: {}: {}\n", show::plain(&left.name), show::plain(&left.why));
    }
    text
}

/// A coordinator that runs answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    fn device(json: &str) -> Result<Offer> {
        let mut fleet = Fleet::parse(&format!("{{\"devices\": [{json}]}}"))?;
        fleet.devices.remove(0).offer(2_000_000)
    }

    #[test]
    fn a_layers_time_is_given_or_follows_from_its_bytes() {
        let offer = device(r#"{"name": "a", "memory_gb": 1.5, "layer_us": 450.5}"#).unwrap();
        let want = Offer { memory_bytes: 1_500_000_000, layer_ns: 450_500, hop_ns: HOP_NS, bytes_per_s: None };
        assert_eq!(offer, want);
        let rates = r#"{"name": "a", "memory_gb": 1, "gb_per_s": 4, "round_trip_ms": 20, "mbit_per_s": 20}"#;
        let offer = device(rates).unwrap();
        assert_eq!((offer.layer_ns, offer.hop_ns, offer.bytes_per_s), (500_000, 20_000_000 + HOP_NS, Some(2_500_000)));
    }

    #[test]
    fn a_coordinator_that_asks_for_a_key_is_told_it_and_without_one_the_option_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api/plan", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut link, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    link.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let (status, body) = match head.contains("authorization: bearer a-key-of-16-bytes") {
                    true => (503, "no node has joined yet"),
                    false => (401, r#"{"error": {"message": "no API key was sent"}}"#),
                };
                let length = body.len();
                write!(link, "HTTP/1.1 {status} no\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
                    .unwrap();
            }
        });
        let error = ask(&url, None, &Trusted::default()).unwrap_err().to_string();
        assert!(error.ends_with("no API key was sent: here that is --api-key KEY"), "{error}");
        let error = ask(&url, Some("a-key-of-16-bytes"), &Trusted::default()).unwrap_err().to_string();
        assert!(error.ends_with("no node has joined yet"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_device_that_cannot_be_is_named() {
        for (json, what) in [
            (r#"{"name": "a", "memory_gb": 1}"#, "a: either layer_us or gb_per_s"),
            (r#"{"name": "a", "memory_gb": 1, "layer_us": 1, "gb_per_s": 1}"#, "a: either layer_us or gb_per_s"),
            (r#"{"name": "a", "memory_gb": -1, "layer_us": 1}"#, "a: memory_gb is -1"),
            (r#"{"name": "a", "memory_gb": 1, "gb_per_s": 0}"#, "a: gb_per_s is 0"),
            (r#"{"name": "a", "memory_gb": 1, "layer_us": 1, "mbit_per_s": 0}"#, "a: mbit_per_s is 0"),
            (r#"{"name": "a", "memory_gb": 1, "layer_us": 1, "ram": 3}"#, "not a list of devices"),
            ("", "there is no device"),
        ] {
            let error = format!("{:#}", device(json).unwrap_err());
            assert!(error.contains(what), "{error}");
        }
    }
}
