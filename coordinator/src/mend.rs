//! Which node takes the layers of one that is lost: with as few nodes touched as possible.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::placement::{Demand, Offer, Part, Scales};

/// Gives the parts without a holder to other nodes. A node that has no part takes one whole: one that has `held` just these
/// layers in readiness, or else the fastest that has room;
/// where there is none, the neighbours of the gap take its layers, one of them if it has the room, both otherwise. Everybody
/// else keeps exactly the layers that they have. `holders` are indices into the offers.
///
/// Nothing if the layers find no place this way.
pub(crate) fn mend(
    demand: &Demand<'_>,
    offers: &[Offer],
    held: &[Option<Range<usize>>],
    holders: &[Option<usize>],
    layers: &[Range<usize>],
) -> Option<Vec<Part>> {
    let scales = Scales::new(demand);
    let fits = |node: usize, layers: Range<usize>| scales.bytes(layers) <= offers[node].memory_bytes;
    let mut parts: Vec<(Option<usize>, Range<usize>)> = holders.iter().copied().zip(layers.iter().cloned()).collect();
    // Those that load anyway: one layer more costs them no KV cache.
    let mut fresh = BTreeSet::new();
    while let Some(gap) = parts.iter().position(|part| part.0.is_none()) {
        let layers = parts[gap].1.clone();
        let used: BTreeSet<usize> = parts.iter().filter_map(|part| part.0).collect();
        let spares = (0..offers.len()).filter(|node| !used.contains(node) && fits(*node, layers.clone()));
        let best = spares.min_by_key(|&node| {
            let loads = held[node].as_ref() != Some(&layers);
            (loads, offers[node].layer_ns, Reverse(offers[node].memory_bytes), node)
        });
        if let Some(spare) = best {
            fresh.insert(spare);
            parts[gap].0 = Some(spare);
            continue;
        }
        let neighbour =
            |at: Option<usize>| at.and_then(|at| parts.get(at)).and_then(|part| Some((part.0?, part.1.clone())));
        let (left, right) = (neighbour(gap.checked_sub(1)), neighbour(gap.checked_add(1)));
        // What it costs that a node takes these layers beside its own; nothing if it cannot.
        let cost = |side: &Option<(usize, Range<usize>)>, more: Range<usize>| {
            if more.is_empty() {
                return Some((0, 0));
            }
            let (node, own) = side.as_ref()?;
            let all = own.start.min(more.start)..own.end.max(more.end);
            let time = offers[*node].layer_ns.saturating_mul(more.len() as u64);
            fits(*node, all).then_some((usize::from(!fresh.contains(node)), time))
        };
        let cuts = (layers.start..=layers.end).filter_map(|cut| {
            let (l, r) = (cost(&left, layers.start..cut)?, cost(&right, cut..layers.end)?);
            Some((l.0 + r.0, l.1.saturating_add(r.1), cut))
        });
        let (_, _, cut) = cuts.min()?;
        if cut > layers.start {
            parts[gap - 1].1.end = cut;
        }
        if cut < layers.end {
            parts[gap + 1].1.start = cut;
        }
        parts.remove(gap);
    }
    Some(parts.into_iter().filter_map(|(node, layers)| Some(Part { node: node?, layers })).collect())
}

#[cfg(test)]
mod tests {
    use syn1_model::plan::WeightFormat;
    use syn1_model::spec::Spec;

    use super::*;

    /// A model of 12 layers; memory is given in layers, and one layer's room more for embedding and head.
    fn mended(offers: &[(u64, u64)], holders: &[Option<usize>], layers: &[Range<usize>]) -> Option<Vec<Part>> {
        mended_with(offers, &vec![None; offers.len()], holders, layers)
    }

    fn mended_with(
        offers: &[(u64, u64)],
        held: &[Option<Range<usize>>],
        holders: &[Option<usize>],
        layers: &[Range<usize>],
    ) -> Option<Vec<Part>> {
        let spec = Spec { vocab: 64, max_positions: 64, ..Spec::gpt2_124m() };
        let wire = crate::wire::Wire::everywhere(syn1_core::Form::plain(syn1_core::Codec::F16));
        let demand = Demand { spec: &spec, format: WeightFormat::F16, max_positions: 64, slots: 1, wire: &wire };
        let layer = Scales::new(&demand).bytes(1..2);
        let offer = |&(memory, layer_ns): &(u64, u64)| Offer {
            memory_bytes: layer * (memory + 1),
            layer_ns,
            ..Offer::default()
        };
        mend(&demand, &offers.iter().map(offer).collect::<Vec<_>>(), held, holders, layers)
    }

    fn parts(of: &[(usize, Range<usize>)]) -> Option<Vec<Part>> {
        Some(of.iter().map(|(node, layers)| Part { node: *node, layers: layers.clone() }).collect())
    }

    const THREE: [Range<usize>; 3] = [0..4, 4..8, 8..12];

    #[test]
    fn the_fastest_spare_with_room_takes_the_gap_and_nobody_else_moves() {
        let offers = [(4, 1), (4, 1), (2, 1), (4, 9), (9, 5)];
        let found = mended(&offers, &[Some(0), None, Some(1)], &THREE);
        assert_eq!(found, parts(&[(0, 0..4), (4, 4..8), (1, 8..12)]));
    }

    #[test]
    fn a_spare_that_has_the_layers_already_comes_before_a_faster_one() {
        let (offers, holders) = ([(4, 1), (4, 1), (4, 2), (4, 9)], [Some(0), None, Some(1)]);
        let found = mended_with(&offers, &[None, None, Some(0..4), Some(4..8)], &holders, &THREE);
        assert_eq!(found, parts(&[(0, 0..4), (3, 4..8), (1, 8..12)]));
    }

    #[test]
    fn without_a_spare_the_faster_neighbour_takes_it_alone_if_it_can() {
        let found = mended(&[(12, 5), (12, 3)], &[Some(0), None, Some(1)], &THREE);
        assert_eq!(found, parts(&[(0, 0..4), (1, 4..12)]));
        let found = mended(&[(12, 5), (7, 3)], &[Some(0), None, Some(1)], &THREE);
        assert_eq!(found, parts(&[(0, 0..8), (1, 8..12)]));
    }

    #[test]
    fn neighbours_share_what_neither_can_take_alone() {
        let found = mended(&[(6, 5), (7, 3)], &[Some(0), None, Some(1)], &THREE);
        assert_eq!(found, parts(&[(0, 0..5), (1, 5..12)]));
        assert_eq!(mended(&[(5, 1), (6, 1)], &[Some(0), None, Some(1)], &THREE), None);
    }

    #[test]
    fn one_spare_takes_neighbouring_gaps_together() {
        let found = mended(&[(4, 1), (8, 9)], &[Some(0), None, None], &THREE);
        assert_eq!(found, parts(&[(0, 0..4), (1, 4..12)]));
        assert_eq!(mended(&[(12, 1)], &[None, None, None], &THREE), parts(&[(0, 0..12)]));
        assert_eq!(mended(&[], &[None], std::slice::from_ref(&(0..12))), None);
    }
}
