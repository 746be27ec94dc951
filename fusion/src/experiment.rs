//! Verify, then time, then tell.

use serde::Serialize;

use crate::arm::{Arm, Candidate};
use crate::gpu::{FusionError, Gpu, Program};
use crate::model::Model;
use crate::reference;
use crate::shape::{Shape, TOKENS};

/// What is measured and how.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The sizes, in turn.
    pub shapes: Vec<Shape>,
    /// The arms, in turn.
    pub arms: Vec<Arm>,
    /// Timed runs of an arm, after [`WARM_UPS`] runs that are not.
    pub runs: usize,
    /// Seconds after which an arm gets no further run; an arm whose first run takes four times as long is left out.
    pub seconds_per_arm: f64,
}

/// How far the experiment is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Arms that are done, of all shapes.
    pub done: usize,
    /// Arms of all shapes.
    pub of: usize,
    /// What is measured now.
    pub shape: Shape,
    /// What is measured now.
    pub arm: Arm,
}

/// The figures of one shape.
#[derive(Clone, Debug, Serialize)]
pub struct ShapeReport {
    /// The sizes.
    pub shape: Shape,
    /// Tokens of a run.
    pub tokens: usize,
    /// Bytes of the weights, all of which a token reads.
    pub weight_bytes: u64,
    /// One for each arm.
    pub arms: Vec<ArmReport>,
}

/// What became of an arm.
#[derive(Clone, Debug, Serialize)]
pub struct ArmReport {
    /// The arm.
    pub arm: Arm,
    /// What a table calls it.
    pub name: &'static str,
    /// Its figures, if it ran and its results are those of the reference.
    pub figures: Option<Figures>,
    /// Why there are none.
    pub left_out: Option<String>,
}

/// The figures of an arm whose results are right.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The largest difference from the f64 forward pass, relative to its largest value.
    pub max_error: f64,
    /// What was found to be fastest, where there was a choice.
    pub sizes: Option<String>,
    /// Dispatches for all tokens.
    pub dispatches: usize,
    /// Submits for all tokens.
    pub submits: usize,
    /// Runs behind the figures; slow arms get fewer.
    pub runs: usize,
    /// Median time of all tokens, from the first recorded command to an idle queue, in ms.
    pub median_ms: f64,
    /// The fastest run, in ms.
    pub min_ms: f64,
    /// The slowest run, in ms.
    pub max_ms: f64,
    /// Tokens a second, from the median.
    pub tokens_per_second: f64,
    /// Bytes of weights that the tokens need, a second; caches may have supplied them.
    pub weight_bytes_per_second: f64,
    /// Times as fast as [`Arm::PerOp`], if that ran.
    pub of_per_op: Option<f64>,
    /// Times as fast as [`Arm::Recompute`], if that ran.
    pub of_recompute: Option<f64>,
}

impl Experiment {
    /// Runs everything. `clock` gives seconds since any fixed moment; `progress` is called before each arm.
    ///
    /// # Errors
    /// [`FusionError::Device`] if the device stops working; an arm that fails alone is reported as left out.
    pub async fn run(
        &self,
        gpu: Gpu<'_>,
        clock: &dyn Fn() -> f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<ShapeReport>, FusionError> {
        let of = self.shapes.len() * self.arms.len();
        let mut reports = Vec::new();
        for &shape in &self.shapes {
            let model = Model::random(shape);
            let reference = reference::forward(&model);
            let mut arms = Vec::new();
            for &arm in &self.arms {
                let done = reports.len() * self.arms.len() + arms.len();
                progress(Progress { done, of, shape, arm });
                let bench = Bench { gpu, model: &model, reference: &reference, clock, experiment: self };
                arms.push(bench.arm(arm).await?);
            }
            compare(&mut arms);
            reports.push(ShapeReport { shape, tokens: TOKENS, weight_bytes: shape.weight_bytes(), arms });
        }
        Ok(reports)
    }
}

/// Puts the ratios in.
fn compare(arms: &mut [ArmReport]) {
    let ms = |wanted: Arm| {
        let report = arms.iter().find(|report| report.arm == wanted);
        report.and_then(|report| report.figures.as_ref()).map(|figures| figures.median_ms)
    };
    let (per_op, recompute) = (ms(Arm::PerOp), ms(Arm::Recompute));
    for figures in arms.iter_mut().filter_map(|report| report.figures.as_mut()) {
        figures.of_per_op = per_op.map(|ms| ms / figures.median_ms);
        figures.of_recompute = recompute.map(|ms| ms / figures.median_ms);
    }
}

struct Bench<'a> {
    gpu: Gpu<'a>,
    model: &'a Model,
    reference: &'a [f64],
    clock: &'a dyn Fn() -> f64,
    experiment: &'a Experiment,
}

impl Bench<'_> {
    async fn arm(&self, arm: Arm) -> Result<ArmReport, FusionError> {
        let left_out = |why: String| ArmReport { arm, name: arm.name(), figures: None, left_out: Some(why) };
        let candidates = match arm.candidates(&self.gpu, self.model) {
            Ok(candidates) => candidates,
            Err(why) => return Ok(left_out(why)),
        };
        let several = candidates.len() > 1;
        let mut best: Option<(f64, Candidate, Program, f64)> = None;
        let mut wrong = String::from("nothing of it can run here");
        for candidate in candidates {
            match self.verified(candidate).await? {
                Err(why) => wrong = why,
                Ok((program, error)) => {
                    let ms = if several { self.median(&program, TRIALS).await.0 } else { 0.0 };
                    if best.as_ref().is_none_or(|best| ms < best.0) {
                        best = Some((ms, candidate, program, error));
                    }
                }
            }
        }
        let Some((_, candidate, program, max_error)) = best else { return Ok(left_out(wrong)) };
        self.median(&program, WARM_UPS).await;
        let (median_ms, times) = self.median(&program, self.experiment.runs).await;
        // What was right once has to be right under repetition.
        let again = self.error(&program).await?;
        if let Err(why) = again {
            return Ok(left_out(why));
        }
        let seconds = median_ms / 1e3;
        Ok(ArmReport {
            arm,
            name: arm.name(),
            left_out: None,
            figures: Some(Figures {
                max_error,
                sizes: candidate.sizes(),
                dispatches: program.dispatches(),
                submits: program.submits.len(),
                runs: times.len(),
                median_ms,
                min_ms: times.first().copied().unwrap_or(median_ms),
                max_ms: times.last().copied().unwrap_or(median_ms),
                tokens_per_second: TOKENS as f64 / seconds,
                weight_bytes_per_second: (self.model.shape.weight_bytes() * TOKENS as u64) as f64 / seconds,
                of_per_op: None,
                of_recompute: None,
            }),
        })
    }

    /// A program that gives the reference's rows, and its error; or what is wrong with it.
    async fn verified(&self, candidate: Candidate) -> Result<Result<(Program, f64), String>, FusionError> {
        let most = FIRST_RUN * self.experiment.seconds_per_arm;
        let made = self.gpu.guarded(async || {
            let program = candidate.program(&self.gpu, self.model);
            let begun = (self.clock)();
            let done = self.gpu.run_while(&program, &|| (self.clock)() - begun <= most).await;
            (program, done)
        });
        let (program, done) = match made.await {
            Ok(made) => made,
            Err(FusionError::Device(what) | FusionError::Wrong(what)) => return Ok(Err(what)),
        };
        let submits = program.submits.len();
        if done < submits {
            return Ok(Err(format!(
                "too slow: after {most:.1} s a single run had made {done} of its {submits} submits"
            )));
        }
        Ok(self.error(&program).await?.map(|error| (program, error)))
    }

    /// The error of a program's last run; or what is wrong with it.
    async fn error(&self, program: &Program) -> Result<Result<f64, String>, FusionError> {
        if let Some(flag) = &program.gave_up
            && self.gpu.read(flag).await?.first() != Some(&0)
        {
            return Ok(Err("its workgroups did not run at the same time: it gave up".into()));
        }
        let words = self.gpu.read(&program.results).await?;
        let found: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
        let error = reference::error(self.reference, &found);
        let right = error <= TOLERANCE;
        Ok(if right { Ok(error) } else { Err(format!("wrong: its rows differ from the f64 forward by {error:.1e}")) })
    }

    /// Median and sorted times of up to `runs` runs, in ms.
    async fn median(&self, program: &Program, runs: usize) -> (f64, Vec<f64>) {
        let mut times = Vec::new();
        let first = (self.clock)();
        while times.len() < runs.max(1) {
            let begun = (self.clock)();
            if !times.is_empty() && begun - first > self.experiment.seconds_per_arm {
                break;
            }
            self.gpu.run(program).await;
            times.push(((self.clock)() - begun) * 1e3);
        }
        times.sort_by(f64::total_cmp);
        (times[(times.len() - 1) / 2], times)
    }
}

/// Runs of an arm before the timed ones.
pub const WARM_UPS: usize = 3;

/// The first run of an arm may take this many times the seconds that its timed runs have together.
const FIRST_RUN: f64 = 4.0;

/// Timed runs of each candidate of an arm.
const TRIALS: usize = 9;

/// Rows that differ more than this from the f64 forward, relative to its largest value, are wrong. f32 sums in another
/// order differ by less than 1e-5.
pub const TOLERANCE: f64 = 1e-4;
