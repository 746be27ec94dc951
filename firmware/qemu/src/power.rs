//! Power cuts: the board loses its power at random moments of requests, again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::machine::{Image, Machine};
use crate::swarm::Swarm;
use crate::{settings, until};

/// What became of the requests.
#[derive(Default)]
struct Requests {
    recovered: u32,
    failed: u32,
}

/// Cuts the power `count` times, each time while a request runs through the board, and gives it back. The coordinator
/// notices every cut; every request ends with the right ids or with an error that names the board, and the last one passes.
pub(crate) fn cut(swarm: &Swarm, machine: Machine, image: &Image, wanted: &[u64], count: u32) -> Result<()> {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (requests, _machine) = std::thread::scope(|scope| -> Result<_> {
        // One request after the other; more than one cut falls into some of them.
        let asking = scope.spawn(|| ask(swarm, wanted, &over));
        let cutting = (|| -> Result<Machine> {
            let (mut machine, mut random) = (machine, Random(0x5117_2026));
            for number in 1..=count {
                swarm.ready()?;
                std::thread::sleep(Duration::from_millis(random.below(LONGEST_MS)));
                ensure!(!asking.is_finished(), "a request went wrong before power cut {number}");
                let noticed = swarm.losses()? + 1;
                machine.cut();
                until(&format!("power cut {number} is noticed"), PATIENCE, || {
                    Ok((swarm.losses()? >= noticed).then_some(()))
                })?;
                std::thread::sleep(Duration::from_millis(random.below(LONGEST_MS)));
                machine = Machine::start(image, &settings(swarm), None)?;
                if number % 50 == 0 {
                    println!("{number} power cuts, {} s", begun.elapsed().as_secs());
                }
            }
            Ok(machine)
        })();
        over.store(true, Ordering::Relaxed);
        let requests = asking.join().map_err(|_| anyhow!("the requests' thread panicked"))?;
        // What went wrong with a request is the reason why the cuts ended, too.
        let requests = requests?;
        Ok((requests, cutting?))
    })?;
    ensure!(swarm.ask()? == wanted, "the ids differ after the last power cut");
    let Requests { recovered, failed } = requests;
    println!(
        "{count} power cuts in {} s, each noticed: {recovered} requests with the right ids, {failed} that ended with an \
         error which names the board",
        begun.elapsed().as_secs()
    );
    Ok(())
}

/// Asks again and again, until it is over.
fn ask(swarm: &Swarm, wanted: &[u64], over: &AtomicBool) -> Result<Requests> {
    let mut requests = Requests::default();
    while !over.load(Ordering::Relaxed) {
        match swarm.try_ask()? {
            Ok(ids) => {
                ensure!(ids == wanted, "a request went on with other ids: {ids:?}");
                requests.recovered += 1;
            }
            Err(why) => {
                ensure!(why.contains("ethernet"), "the error does not name the board: {why}");
                requests.failed += 1;
            }
        }
    }
    Ok(requests)
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

/// A request takes about half a second without a cut.
const LONGEST_MS: u64 = 300;

/// A link that breaks is noticed at once; one that falls silent, within the session's 15 s.
const PATIENCE: Duration = Duration::from_secs(30);
