//! `syn1 doctor`: what this machine can do, and what is missing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Result;
use serde::Serialize;
use syn1_coordinator::placement::size;
use syn1_node_host::cache::Cache;
use syn1_node_host::device::adapters;
use syn1_node_host::{Device, DeviceChoice};

use crate::interrupt::blocking;
use crate::model;
use crate::show;

/// Options of `syn1 doctor`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    gpus: Vec<Gpu>,
    cpu: Offer,
    /// What `--device auto` takes.
    auto: String,
    model: Finding,
    cache: Finding,
    ports: Vec<Finding>,
}

#[derive(Serialize)]
struct Gpu {
    index: usize,
    name: String,
}

#[derive(Serialize)]
struct Offer {
    name: String,
    memory_bytes: u64,
    read_bytes_per_s: u64,
}

#[derive(Serialize)]
struct Finding {
    what: String,
    ok: bool,
    text: String,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let report = blocking(examine).await?;
    let text = if args.json { serde_json::to_string(&report)? + "\n" } else { page(&report) };
    Ok(show::out(&text)?)
}

/// Opens every device and measures. Blocks for as long as it takes.
fn examine() -> Result<Report> {
    let cpu = Device::open(&DeviceChoice::Cpu, None)?;
    let auto = Device::open(&DeviceChoice::Auto, None)?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        gpus: adapters().iter().map(|line| Gpu { index: line.index, name: line.to_string() }).collect(),
        cpu: Offer {
            name: cpu.describe().to_owned(),
            memory_bytes: cpu.memory_bytes(u64::MAX)?,
            read_bytes_per_s: cpu.read_bandwidth(READ_BYTES)?,
        },
        auto: auto.describe().to_owned(),
        model: bundled(),
        cache: cache(),
        ports: [7700, 7780].map(port).into(),
    })
}

fn bundled() -> Finding {
    let what = "bundled model".to_owned();
    let opened = model::find(None).and_then(|dir| Ok((syn1_model::ModelFolder::open(&dir)?, dir)));
    match opened {
        Ok((folder, dir)) => Finding { what, ok: true, text: format!("{} in {}", folder.name(), dir.display()) },
        Err(error) => Finding { what, ok: false, text: format!("{error:#}") },
    }
}

fn cache() -> Finding {
    let what = "shard cache".to_owned();
    let opened = Cache::default_dir().and_then(|dir| Cache::open(&dir, Cache::DEFAULT_CAP_BYTES).map(|_| dir));
    match opened {
        Ok(dir) => Finding { what, ok: true, text: dir.display().to_string() },
        Err(error) => Finding { what, ok: false, text: error.to_string() },
    }
}

fn port(port: u16) -> Finding {
    let what = format!("port {port}");
    match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
        Ok(_) => Finding { what, ok: true, text: "free".into() },
        Err(error) => Finding { what, ok: false, text: format!("{error}: choose another with --tcp or --http") },
    }
}

fn page(report: &Report) -> String {
    let mut page = format!("syn1 {}\n\n--device auto takes: {}\n", report.version, report.auto);
    let Offer { name, memory_bytes, read_bytes_per_s } = &report.cpu;
    page += &format!("--device cpu: {name}, {} of memory, reads {}/s\n", size(*memory_bytes), size(*read_bytes_per_s));
    for gpu in &report.gpus {
        page += &format!("--device {}: {}\n", gpu.index, gpu.name);
    }
    if report.gpus.is_empty() {
        page += "no GPU that Vulkan, Metal or DX12 knows: install the GPU's driver to use one\n";
    }
    page += "\n";
    for finding in [&report.model, &report.cache].into_iter().chain(&report.ports) {
        page += &format!("{} {:14} {}\n", if finding.ok { "ok   " } else { "check" }, finding.what, finding.text);
    }
    page
}

/// Big enough that no cache holds it.
const READ_BYTES: u64 = 256 << 20;
