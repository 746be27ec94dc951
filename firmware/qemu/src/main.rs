//! `cargo xtask firmware` runs this: images in QEMU, in chains with native nodes.
//!
//! What is compared: the ids that a chain gives with a microcontroller in it, those of the same chain with the same layers
//! computed by the same kernels on this machine, and those of the whole model on one node of this machine.
#![forbid(unsafe_code)]

mod logs;
mod machine;
mod oracle;
mod power;
mod swarm;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use machine::{Image, Kind, M3, M4, Machine, Uart};
use oracle::Oracle;
use swarm::{Program, Swarm};
use syn1_kernels_int::{dot_rows, testing};

/// Where things are; the arguments.
struct Places {
    /// The folder with the firmware's built images, by target.
    images: PathBuf,
    program: Program,
    /// A device of this machine that is no CPU.
    gpu: Option<String>,
    power_cuts: u32,
}

fn main() -> Result<()> {
    let places = Places::read()?;
    for (kind, most) in [(M3, MOST_INSTRUCTIONS), (M4, MOST_INSTRUCTIONS_DSP)] {
        multiply_accumulate(&places, kind, most)?;
    }
    let model = places.program.split()?;
    let wanted = places.program.generate()?;
    println!("one node of this machine, int8 weights: {} ids", wanted.len());

    let swarm = Swarm::start(&places.program, &model, ["cpu", "cpu"])?;
    let oracle = Oracle::join(swarm.tcp)?;
    same("two native nodes, and the integer kernels on this machine between them", &wanted, &swarm.ask()?)?;
    let margins = swarm.margins()?;
    drop((oracle, swarm));

    let swarm = Swarm::start(&places.program, &model, ["cpu", "cpu"])?;
    let image = places.image(M3, "ethernet", Uart::Nothing, true);
    let machine = Machine::start(&image, &settings(&swarm), None)?;
    same("two native nodes, and a Cortex-M3 in QEMU on Ethernet between them", &wanted, &swarm.ask()?)?;
    machine.report(&image)?;
    if places.power_cuts > 0 {
        power::cut(&swarm, machine, &image, &wanted, places.power_cuts)?;
    }
    drop(swarm);

    let swarm = Swarm::start(&places.program, &model, ["cpu", "cpu"])?;
    let image = places.image(M3, "serial", Uart::Terminal, false);
    let store = model.store()?;
    let machine = Machine::start(&image, "name=serial\n", Some(&store))?;
    let bridge = places.program.bridge(machine.line()?, swarm.tcp)?;
    same("two native nodes, and a Cortex-M3 in QEMU on a UART between them", &wanted, &swarm.ask()?)?;
    machine.report(&image)?;
    drop((bridge, machine, swarm));

    let swarm = Swarm::start(&places.program, &model, ["cpu", "cpu"])?;
    let line = places.program.home().join("uart");
    let relay_image = places.image(M3, "relay", Uart::Offers(line.clone()), true);
    let relay = Machine::start(&relay_image, &settings(&swarm), None)?;
    relay.wait_for(&relay_image, "the network is up", Duration::from_secs(60))?;
    let image = places.image(M4, "serial", Uart::Joins(line), false);
    let machine = Machine::start(&image, "name=serial\n", Some(&store))?;
    same("two native nodes, and a Cortex-M4 in QEMU behind a relay on a Cortex-M3", &wanted, &swarm.ask()?)?;
    machine.report(&image)?;
    drop(machine);
    drop(swarm);
    relay.report(&relay_image)?;

    let Some(gpu) = &places.gpu else {
        println!("no GPU, not even in software: NOT run: a chain with a GPU, a CPU and a microcontroller");
        return Ok(());
    };
    let swarm = Swarm::start(&places.program, &model, [gpu, "cpu"])?;
    let image = places.image(M4, "ethernet", Uart::Nothing, true);
    let machine = Machine::start(&image, &settings(&swarm), None)?;
    same("a GPU node, a CPU node, and a Cortex-M4 in QEMU on Ethernet between them", &wanted, &swarm.ask()?)?;
    machine.report(&image)?;
    robust(&margins, &swarm.margins()?)
}

/// Shows that the ids are the same for a reason: kernels that round otherwise move how much likelier a token is than the second
/// one by far less than the closest decision of the text would need.
fn robust(one: &[(f64, f64)], other: &[(f64, f64)]) -> Result<()> {
    ensure!(one.len() == other.len() && !one.is_empty(), "{} and {} tokens", one.len(), other.len());
    let moved = one.iter().zip(other).map(|((_, one), (_, other))| (one - other).abs()).fold(0.0, f64::max);
    let closest = one.iter().map(|(_, margin)| *margin).fold(f64::INFINITY, f64::min);
    println!(
        "rounding moves a decision by {moved:.4} at most; the closest one has {closest:.4} to spare (log-probabilities)"
    );
    ensure!(LEAST_ROBUST * moved < closest, "the ids are the same by luck: another prompt is needed");
    Ok(())
}

/// What a board that joins `swarm` from inside QEMU has in its settings.
fn settings(swarm: &Swarm) -> String {
    format!("join=10.0.2.2:{}\nname=ethernet\n", swarm.tcp.port())
}

fn same(what: &str, wanted: &[u64], got: &[u64]) -> Result<()> {
    ensure!(wanted == got, "{what}: the ids differ\nwanted {wanted:?}\ngot    {got:?}");
    println!("{what}: the same {} ids", got.len());
    Ok(())
}

/// Instructions for a multiply-accumulate, counted by QEMU: its clock goes on by a nanosecond for each.
fn multiply_accumulate(places: &Places, kind: Kind, most: f64) -> Result<()> {
    let image = places.image(kind, "measure", Uart::Nothing, false);
    let machine = Machine::counting(&image)?;
    let line = machine.wait_for(&image, "thousand instructions", Duration::from_secs(20))?;
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<f64>().ok());
    let (thousands, macs) = numbers.next().zip(numbers.next()).context("the image says no numbers")?;
    let each = 1000.0 * thousands / macs;
    println!("int8 kernel on a {}: {each:.2} instructions a multiply-accumulate ({most} allowed)", kind.name);
    ensure!(each <= most, "{}: {each:.2} instructions a multiply-accumulate, {most} are the budget", kind.name);
    let line = machine.wait_for(&image, VECTORS, Duration::from_secs(60))?;
    let sums: u64 = line.rsplit(' ').next().unwrap_or_default().parse().context("the image says no sums")?;
    let wanted = testing::checksum(dot_rows);
    ensure!(sums == wanted, "{}: its kernel's sums differ from those of this machine's", kind.name);
    println!("its sums of all machines' vectors are this machine's, to the bit");
    Ok(())
}

/// Instructions a multiply-accumulate, at most.
const MOST_INSTRUCTIONS: f64 = 3.0;
const MOST_INSTRUCTIONS_DSP: f64 = 1.5;

/// What the image `measure` says before the sums.
const VECTORS: &str = "the sums of all machines' vectors";

/// The closest decision has so many times to spare what rounding moves.
const LEAST_ROBUST: f64 = 8.0;

impl Places {
    fn read() -> Result<Self> {
        let (mut images, mut syn1, mut repository, mut gpu, mut power_cuts) = (None, None, None, None, 0);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let value = args.next().with_context(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--images" => images = Some(PathBuf::from(value)),
                "--syn1" => syn1 = Some(PathBuf::from(value)),
                "--repository" => repository = Some(PathBuf::from(value)),
                "--gpu" => gpu = Some(value),
                "--power-cuts" => power_cuts = value.parse().context("--power-cuts needs a number")?,
                _ => bail!("unknown argument {arg}"),
            }
        }
        let missing = "cargo xtask firmware says where things are";
        let program = Program::new(syn1.context(missing)?, repository.context(missing)?)?;
        Ok(Self { images: images.context(missing)?, program, gpu, power_cuts })
    }

    fn image(&self, kind: Kind, name: &str, uart: Uart, ethernet: bool) -> Image {
        Image { kind, path: self.images.join(kind.target).join("release").join(name), uart, ethernet }
    }
}

/// Tries until it has something, or `patience` is over.
fn until<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        ensure!(begun.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
