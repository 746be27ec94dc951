//! Power cuts: the board loses its power at a random moment of a request, again and again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::{Image, Machine};
use crate::settings;
use crate::swarm::Swarm;

/// Cuts the power `count` times, each time during a request, and gives it back. Every request ends with the right ids or with
/// an error that names the board, and the next one passes.
pub(crate) fn cut(swarm: &Swarm, mut machine: Machine, image: &Image, wanted: &[u64], count: u32) -> Result<()> {
    let (mut recovered, mut failed) = (0, 0);
    let mut random = Random(0x5117_2026);
    for number in 1..=count {
        swarm.ready()?;
        let outcome = std::thread::scope(|scope| -> Result<_> {
            let request = scope.spawn(|| swarm.try_ask());
            std::thread::sleep(Duration::from_millis(random.below(LONGEST_MS)));
            machine.cut();
            std::thread::sleep(Duration::from_millis(random.below(LONGEST_MS)));
            machine = Machine::start(image, &settings(swarm), None)?;
            let outcome = request.join().map_err(|_| anyhow::anyhow!("the request's thread panicked"))?;
            Ok((outcome?, machine))
        });
        let (outcome, again) = outcome.with_context(|| format!("power cut {number}"))?;
        machine = again;
        match outcome {
            Ok(ids) => {
                ensure!(ids == wanted, "power cut {number}: the request went on with other ids: {ids:?}");
                recovered += 1;
            }
            Err(why) => {
                ensure!(why.contains("ethernet"), "power cut {number}: the error does not name the board: {why}");
                failed += 1;
            }
        }
        if number % 50 == 0 {
            println!("{number} power cuts: {recovered} requests recovered, {failed} ended with an error");
        }
    }
    ensure!(swarm.ask()? == wanted, "the ids differ after the last power cut");
    println!("{count} power cuts: {recovered} requests recovered, {failed} ended with an error that names the board");
    Ok(())
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

/// A request takes about half a second; the cut falls into it, and now and then behind it.
const LONGEST_MS: u64 = 600;
