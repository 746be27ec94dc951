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

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use machine::{Image, Machine};
use oracle::Oracle;
use swarm::{Program, Swarm};

/// Where things are; the arguments.
struct Places {
    /// The firmware's built images.
    images: PathBuf,
    program: Program,
    power_cuts: u32,
}

fn main() -> Result<()> {
    let places = Places::read()?;
    multiply_accumulate(&places.images)?;
    let model = places.program.split()?;
    let wanted = places.program.generate()?;
    println!("one node of this machine, int8 weights: {} ids", wanted.len());

    let swarm = Swarm::start(&places.program, &model, 2)?;
    let oracle = Oracle::join(swarm.tcp)?;
    same("two native nodes, and the integer kernels on this machine between them", &wanted, &swarm.ask()?)?;
    drop((oracle, swarm));

    let swarm = Swarm::start(&places.program, &model, 2)?;
    let image = Image { path: places.images.join("ethernet"), serial: false };
    let machine = Machine::start(&image, &settings(&swarm), None)?;
    same("two native nodes, and a Cortex-M3 in QEMU on Ethernet between them", &wanted, &swarm.ask()?)?;
    machine.report(&image)?;
    if places.power_cuts > 0 {
        power::cut(&swarm, machine, &image, &wanted, places.power_cuts)?;
    }
    drop(swarm);

    let swarm = Swarm::start(&places.program, &model, 2)?;
    let image = Image { path: places.images.join("serial"), serial: true };
    let store = model.store()?;
    let machine = Machine::start(&image, "name=serial\n", Some(&store))?;
    let bridge = places.program.bridge(machine.line()?, swarm.tcp)?;
    same("two native nodes, and a Cortex-M3 in QEMU on a UART between them", &wanted, &swarm.ask()?)?;
    machine.report(&image)?;
    drop(bridge);
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
fn multiply_accumulate(images: &Path) -> Result<()> {
    let image = Image { path: images.join("measure"), serial: false };
    let machine = Machine::counting(&image)?;
    let line = machine.wait_for(&image, "thousand instructions", Duration::from_secs(20))?;
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<f64>().ok());
    let (thousands, macs) = numbers.next().zip(numbers.next()).context("the image says no numbers")?;
    let each = 1000.0 * thousands / macs;
    println!("int8 kernel on a Cortex-M3: {each:.2} instructions a multiply-accumulate ({MOST_INSTRUCTIONS} allowed)");
    ensure!(
        each <= MOST_INSTRUCTIONS,
        "{each:.2} instructions a multiply-accumulate, {MOST_INSTRUCTIONS} are the budget"
    );
    Ok(())
}

const MOST_INSTRUCTIONS: f64 = 4.0;

impl Places {
    fn read() -> Result<Self> {
        let (mut images, mut syn1, mut repository, mut power_cuts) = (None, None, None, 0);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let value = args.next().with_context(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--images" => images = Some(PathBuf::from(value)),
                "--syn1" => syn1 = Some(PathBuf::from(value)),
                "--repository" => repository = Some(PathBuf::from(value)),
                "--power-cuts" => power_cuts = value.parse().context("--power-cuts needs a number")?,
                _ => bail!("unknown argument {arg}"),
            }
        }
        let missing = "cargo xtask firmware says where things are";
        let program = Program::new(syn1.context(missing)?, repository.context(missing)?)?;
        Ok(Self { images: images.context(missing)?, program, power_cuts })
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
