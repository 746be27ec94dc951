//! Steps of several requests as one pass over the weights: which of them go together, and in which order their rows do.

use syn1_model::plan::Plan;

use crate::engine::{EngineConfig, EngineError, Slot, Step, StepResult};

/// The steps of one pass and all of their rows. Filled again for every pass, so that it allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Group {
    members: Vec<Member>,
    rows: Vec<GroupRow>,
    unwanted: usize,
}

/// A step of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its number among the steps that were given.
    pub(crate) step: usize,
    /// Whose KV cache.
    pub(crate) slot: Slot,
    /// Its rows.
    pub(crate) rows: usize,
    /// Its rows that give a result: those with logits, or all in a range without the head.
    pub(crate) wanted: usize,
    /// Positions in the KV cache behind it.
    pub(crate) end: usize,
}

/// A row of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupRow {
    /// The number of its step in [`Group::members`].
    pub(crate) member: usize,
    /// Its number in that step.
    pub(crate) row: usize,
    /// Its position in the request.
    pub(crate) position: usize,
}

impl Group {
    /// Room for `config`'s steps, so that none of them takes memory.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let members = Vec::with_capacity(config.slots.min(config.max_rows));
        Self { members, rows: Vec::with_capacity(config.max_rows), unwanted: 0 }
    }

    /// The group of one step of `rows` rows, which was checked.
    pub(crate) fn alone(&mut self, plan: &Plan, step: &Step<'_>, rows: usize) {
        self.members.clear();
        self.members.push(Member::of(plan, 0, step, rows));
        self.order();
    }

    /// Takes the steps that `results` has no entry for yet, as many as have `most` rows together (the first one always) and
    /// KV caches in one bank. Each gets its entry: the error of one that is refused, else nothing yet. `have` says how many
    /// positions a KV cache holds, and in which bank it is.
    pub(crate) fn gather(
        &mut self,
        (plan, config): (&Plan, &EngineConfig),
        steps: &[Step<'_>],
        most: usize,
        have: impl Fn(Slot) -> Result<(usize, usize), EngineError>,
        results: &mut Vec<StepResult>,
    ) {
        self.members.clear();
        let (mut taken, mut first) = (0, None);
        for (index, step) in steps.iter().enumerate().skip(results.len()) {
            let twice = steps.iter().take(index).any(|other| other.slot == step.slot);
            let checked = if twice { Err(EngineError::Twice(step.slot.0)) } else { have(step.slot) };
            match checked.and_then(|(have, bank)| Ok((step.check(plan, config, have)?, bank))) {
                Err(error) => results.push(Err(error)),
                Ok((rows, bank)) if first.is_some_and(|first| taken + rows > most || bank != first) => break,
                Ok((rows, bank)) => {
                    (taken, first) = (taken + rows, Some(bank));
                    self.members.push(Member::of(plan, index, step, rows));
                    results.push(Ok(0..0));
                }
            }
        }
        self.order();
    }

    /// Rows that give no logits stand in front of all that do, so that the head's rows are consecutive. Between rows the
    /// order means nothing: a layer's keys and values are all stored before any row attends to them.
    fn order(&mut self) {
        self.rows.clear();
        for wanted in [false, true] {
            if wanted {
                self.unwanted = self.rows.len();
            }
            for (number, member) in self.members.iter().enumerate() {
                let first = member.rows - member.wanted;
                let range = if wanted { first..member.rows } else { 0..first };
                let position = member.end - member.rows;
                self.rows.extend(range.map(|row| GroupRow { member: number, row, position: position + row }));
            }
        }
    }

    /// Its steps.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// All rows, in the order in which they are computed.
    pub(crate) fn rows(&self) -> &[GroupRow] {
        &self.rows
    }

    /// Rows in front of the first that gives a result.
    pub(crate) fn unwanted(&self) -> usize {
        self.unwanted
    }

    /// Enters what became of the group: its results stand from `begin` on, `row` values for each row that gives one.
    pub(crate) fn settle(
        &self,
        outcome: Result<(), EngineError>,
        mut begin: usize,
        row: usize,
        results: &mut [StepResult],
    ) {
        for member in &self.members {
            let end = begin + member.wanted * row;
            if let Some(result) = results.get_mut(member.step) {
                *result = outcome.clone().map(|()| begin..end);
            }
            begin = end;
        }
    }
}

impl Member {
    fn of(plan: &Plan, number: usize, step: &Step<'_>, rows: usize) -> Self {
        let wanted = if plan.heads() { rows.saturating_sub(step.wanted) } else { rows };
        Self { step: number, slot: step.slot, rows, wanted, end: step.position + rows }
    }
}

#[cfg(test)]
mod tests {
    use syn1_model::Spec;
    use syn1_model::plan::WeightFormat;

    use super::*;
    use crate::engine::Input;

    const CONFIG: EngineConfig = EngineConfig { max_positions: 64, slots: 8, max_rows: 16 };

    fn plan() -> Plan {
        Plan::new(&Spec { layers: 1, ..Spec::gpt2_124m() }, WeightFormat::F16, 0..1)
    }

    fn step(slot: usize, position: usize, ids: &[u32], wanted: usize) -> Step<'_> {
        Step { slot: Slot(slot), position, input: Input::Tokens(ids), wanted }
    }

    fn gather(group: &mut Group, steps: &[Step<'_>], most: usize, results: &mut Vec<StepResult>) {
        group.gather((&plan(), &CONFIG), steps, most, |slot| Ok((10, slot.0 / 4)), results);
    }

    #[test]
    fn rows_without_logits_stand_in_front_and_results_in_the_order_of_steps() {
        let (mut group, mut results) = (Group::default(), Vec::new());
        let steps = [step(3, 4, &[1], 0), step(1, 10, &[1, 2, 3], 2), step(2, 0, &[5, 6], 9)];
        gather(&mut group, &steps, 16, &mut results);
        let rows: Vec<_> = group.rows().iter().map(|row| (row.member, row.row, row.position)).collect();
        assert_eq!(rows, [(1, 0, 10), (1, 1, 11), (2, 0, 0), (2, 1, 1), (0, 0, 4), (1, 2, 12)]);
        assert_eq!(group.unwanted(), 4);
        group.settle(Ok(()), 100, 7, &mut results);
        assert_eq!(results, [Ok(100..107), Ok(107..114), Ok(114..114)]);
    }

    #[test]
    fn a_pass_ends_in_front_of_the_step_that_does_not_fit_and_a_long_one_goes_alone() {
        let (mut group, mut results) = (Group::default(), Vec::new());
        let steps = [step(0, 0, &[1; 3], 0), step(1, 0, &[1; 2], 0), step(2, 0, &[1; 9], 0), step(3, 0, &[1], 0)];
        for want in [&[0, 1][..], &[2], &[3]] {
            gather(&mut group, &steps, 5, &mut results);
            assert_eq!(group.members().iter().map(|member| member.step).collect::<Vec<_>>(), want);
        }
        assert_eq!(results.len(), 4);
    }

    #[test]
    fn steps_with_caches_in_other_banks_go_in_another_pass() {
        let (mut group, mut results) = (Group::default(), Vec::new());
        let steps = [3, 0, 4, 7, 1].map(|slot| step(slot, 0, &[1], 0));
        for want in [&[0, 1][..], &[2, 3], &[4]] {
            gather(&mut group, &steps, 5, &mut results);
            assert_eq!(group.members().iter().map(|member| member.step).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn a_refused_step_is_named_and_the_others_stay() {
        let (mut group, mut results) = (Group::default(), Vec::new());
        let far = [step(0, 0, &[1], 0), step(1, 11, &[1], 0), step(0, 1, &[1], 0), step(2, 3, &[], 0)];
        gather(&mut group, &far, 5, &mut results);
        assert_eq!(group.rows().len(), 1);
        let refused = [
            Ok(0..0),
            Err(EngineError::Gap { have: 10, got: 11 }),
            Err(EngineError::Twice(0)),
            Err(EngineError::Rows { got: 0, max: 16 }),
        ];
        assert_eq!(results, refused);
    }
}
