//! What is compared.

use serde::Serialize;

use crate::gpu::{Gpu, Program};
use crate::model::Model;
use crate::ops::Submits;
use crate::{fused, grid, ops, published, workgroup};

/// One way to compute the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Every primitive operation is submitted by itself and waited for; with a KV cache.
    PerOp,
    /// The public baseline: no KV cache, the keys and values of the whole past again for every token.
    Recompute,
    /// The same primitive operations, all tokens in one submit.
    OneSubmit,
    /// Five fused dispatches a layer, one token a submit. Submits are not waited for one by one.
    Fused1,
    /// The same, 8 tokens a submit.
    Fused8,
    /// The same, all 64 tokens in one submit.
    Fused64,
    /// One workgroup in a single dispatch as published: 64 threads, a thread a head.
    Published,
    /// One workgroup in a single dispatch, done well.
    Workgroup,
    /// Many workgroups in a single dispatch, which wait for each other's values.
    Grid,
}

impl Arm {
    /// Every arm, in the order of a table.
    pub const ALL: [Self; 9] = [
        Self::PerOp,
        Self::Recompute,
        Self::OneSubmit,
        Self::Fused1,
        Self::Fused8,
        Self::Fused64,
        Self::Published,
        Self::Workgroup,
        Self::Grid,
    ];

    /// What a table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerOp => "each op submitted and waited for",
            Self::Recompute => "public baseline: no KV cache",
            Self::OneSubmit => "the same ops, 64 tokens a submit",
            Self::Fused1 => "fused, 1 token a submit",
            Self::Fused8 => "fused, 8 tokens a submit",
            Self::Fused64 => "fused, 64 tokens a submit",
            Self::Published => "1 workgroup as published",
            Self::Workgroup => "1 workgroup, done well",
            Self::Grid => "many workgroups, 1 dispatch",
        }
    }

    /// The programs to choose the fastest of, each with its name where there are several; or why there is none.
    pub(crate) fn candidates(self, gpu: &Gpu<'_>, model: &Model) -> Result<Vec<Candidate>, String> {
        let only = |candidate| Ok(vec![candidate]);
        match self {
            Self::PerOp => only(Candidate::Ops(Submits::PerOp)),
            Self::Recompute if gpu.is_software() => {
                Err("software adapters leave a kernel's loops after 65,535 turns, and this one needs more".into())
            }
            Self::Recompute => only(Candidate::Recompute),
            Self::OneSubmit => only(Candidate::Ops(Submits::Once)),
            Self::Fused1 => only(Candidate::Fused(1)),
            Self::Fused8 => only(Candidate::Fused(8)),
            Self::Fused64 => only(Candidate::Fused(64)),
            Self::Published => only(Candidate::Published),
            Self::Workgroup => {
                workgroup::candidates(gpu, model).map(|all| all.into_iter().map(Candidate::Workgroup).collect())
            }
            Self::Grid => grid::candidates(gpu, model)
                .map(|all| all.into_iter().map(|(workgroups, each)| Candidate::Grid { workgroups, each }).collect()),
        }
    }
}

/// An arm with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    Ops(Submits),
    Recompute,
    Fused(usize),
    Published,
    Workgroup(usize),
    Grid { workgroups: usize, each: usize },
}

impl Candidate {
    /// Its sizes, where it has any that were chosen.
    pub(crate) fn sizes(self) -> Option<String> {
        match self {
            Self::Workgroup(threads) => Some(format!("{threads} threads")),
            Self::Grid { workgroups, each } => Some(format!("{workgroups} workgroups of {each} threads")),
            Self::Ops(_) | Self::Recompute | Self::Fused(_) | Self::Published => None,
        }
    }

    pub(crate) fn program(self, gpu: &Gpu<'_>, model: &Model) -> Program {
        match self {
            Self::Ops(submits) => ops::program(gpu, model, submits),
            Self::Recompute => published::baseline(gpu, model),
            Self::Fused(each) => fused::program(gpu, model, each),
            Self::Published => published::workgroup(gpu, model),
            Self::Workgroup(threads) => workgroup::program(gpu, model, threads),
            Self::Grid { workgroups, each } => grid::program(gpu, model, workgroups, each),
        }
    }
}
