//! Every arm on this machine's GPU, with and without subgroup operations.

use std::time::Instant;

use syn1_fusion::{Arm, Experiment, Gpu, Shape, TOLERANCE};
use syn1_kernels::gpu::GpuDevice;

fn device() -> GpuDevice {
    GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"))
}

fn run(gpu: Gpu<'_>, shapes: &[(usize, usize)]) {
    let shapes = shapes.iter().map(|&(width, layers)| Shape::new(width, layers).unwrap()).collect();
    let experiment = Experiment { shapes, arms: Arm::ALL.to_vec(), runs: 1, seconds_per_arm: 1.0 };
    let begun = Instant::now();
    let clock = move || begun.elapsed().as_secs_f64();
    let reports = pollster::block_on(experiment.run(gpu, &clock, &mut |_| {})).unwrap();
    for report in &reports {
        for arm in &report.arms {
            if arm.left_out.as_ref().is_some_and(|why| !why.starts_with("wrong")) {
                assert!([Arm::Recompute, Arm::Grid].contains(&arm.arm), "{arm:?}");
                continue;
            }
            let figures = arm.figures.as_ref().unwrap_or_else(|| panic!("{:?}: {arm:?}", report.shape));
            assert!(figures.max_error <= TOLERANCE);
            let layers = report.shape.layers;
            let dispatches = match arm.arm {
                Arm::PerOp | Arm::OneSubmit => 64 * (13 * layers + 2),
                Arm::Recompute => 64 * layers,
                Arm::Fused1 | Arm::Fused8 | Arm::Fused64 => 64 * 5 * layers,
                // Software adapters get a dispatch for every token.
                Arm::Published | Arm::Workgroup | Arm::Grid => figures.dispatches.min(64),
            };
            assert_eq!(figures.dispatches, dispatches, "{arm:?}");
            assert!(figures.tokens_per_second.is_finite() && figures.submits <= figures.dispatches);
        }
    }
}

#[test]
fn every_arm_gives_the_rows_of_the_f64_forward() {
    let device = device();
    run(Gpu::new(device.device(), device.queue()), &[(32, 2), (256, 1)]);
}

#[test]
fn every_arm_gives_the_rows_of_the_f64_forward_without_subgroups() {
    let device = device();
    run(Gpu::new(device.device(), device.queue()).without_subgroups(), &[(32, 2)]);
}
