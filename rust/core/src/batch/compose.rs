//! Owns: which lengths leave together: the cheapest way to serve everything that waits, as one pure function.
//! Must not know: requests, tenants, tensors; what a batch costs is told.
//! On failure: not applicable.

use std::ops::RangeInclusive;

/// Rows that wait and are padded to one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// The length
    pub padded: u64,
    /// Rows
    pub rows: u64,
}

/// Which of `steps`, whose lengths rise, go with `head`. Everything that waits is parted into runs of neighbouring
/// steps, each served in batches padded to its longest, so that all together cost least; the run of the head goes.
/// `cost` is what a batch of rows and length takes, `max_rows` how many rows of a length one batch holds.
/// Cost: the square of the steps.
pub(super) fn together(
    steps: &[Step],
    head: usize,
    cost: impl Fn(u64, u64) -> f64,
    max_rows: impl Fn(u64) -> u64,
) -> RangeInclusive<usize> {
    // `best[n]`: the least cost of the first `n` steps, and where the last of their runs begins.
    let mut best: Vec<(f64, usize)> = Vec::with_capacity(steps.len() + 1);
    best.push((0.0, 0));
    for end in 0..steps.len() {
        let length = steps[end].padded;
        let most = max_rows(length).max(1);
        let full_cost = cost(most, length);
        let mut least = (f64::INFINITY, end);
        let mut rows = 0;
        for first in (0..=end).rev() {
            rows += steps[first].rows;
            let (full, rest) = (rows / most, rows % most);
            let remainder = if rest > 0 { cost(rest, length) } else { 0.0 };
            let all = best[first].0 + full as f64 * full_cost + remainder;
            if all < least.0 {
                least = (all, first);
            }
        }
        best.push(least);
    }
    let mut end = steps.len();
    while end > 0 {
        let first = best[end].1;
        if first <= head {
            return first..=end - 1;
        }
        end = first;
    }
    head..=head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(of: &[(u64, u64)]) -> Vec<Step> {
        of.iter().map(|&(padded, rows)| Step { padded, rows }).collect()
    }

    /// 4 ms and 2 us for every padded token.
    fn cost(rows: u64, length: u64) -> f64 {
        4000.0 + 2.0 * (rows * length) as f64
    }

    #[test]
    fn lengths_part_where_padding_costs_more_than_another_batch() {
        let waiting = steps(&[(10, 8), (12, 8), (500, 8)]);
        assert_eq!(together(&waiting, 0, cost, |_| 64), 0..=1);
        assert_eq!(together(&waiting, 2, cost, |_| 64), 2..=2);
        let few = steps(&[(10, 1), (500, 1)]);
        assert_eq!(together(&few, 0, cost, |_| 64), 0..=1);
    }

    #[test]
    fn full_batches_of_one_length_go_alone() {
        let waiting = steps(&[(100, 64), (110, 64)]);
        assert_eq!(together(&waiting, 0, cost, |_| 64), 0..=0);
        assert_eq!(together(&waiting, 1, cost, |_| 64), 1..=1);
    }

    #[test]
    fn the_head_is_always_among_them() {
        let waiting = steps(&[(1, 3), (50, 1), (51, 9), (400, 2), (512, 1)]);
        for head in 0..waiting.len() {
            assert!(together(&waiting, head, cost, |length| 1000 / length).contains(&head));
        }
    }
}
