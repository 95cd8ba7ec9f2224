"""The virtual run and the best known policies, on cases whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from bench.batch.best_known import CHOICES, BestKnown, Choice, fullest, oldest, shortest_call
from bench.batch.cost import CostModel
from bench.batch.ideal import bound_per_s, closed_process, every_choice, judge, open_process
from bench.batch.lengths import power_of_two
from bench.batch.own_assembler import OwnAssembler
from bench.batch.partition import cheapest
from bench.batch.virtual import Batch, ClosedLoop, OpenLoop, run
from bench.batch.workload import Workload, poisson_ns
from hypothesis import given, settings
from hypothesis import strategies as st

MS = 1_000_000
# A call takes 10 ms, a token 1 ms.
COST = CostModel(call_ns=10 * MS, token_ns=MS, max_rows=4)


def cost_of(lengths: list[int], ends: list[int], cost: CostModel) -> int:
    spans = pairwise([0, *ends])
    return sum(cost.batch_ns(end - start, lengths[end - 1]) for start, end in spans)


@pytest.mark.parametrize(
    ("lengths", "ends"),
    [
        ([], []),
        ([3], [1]),
        ([5, 5, 5], [3]),
        ([5, 5, 5, 5, 5], [1, 5]),
        ([1, 1, 50, 50], [2, 4]),
        # One call for both costs 10 + 2 * 8, two calls 20 + 2 + 8.
        ([2, 8], [2]),
        # One call for both costs 10 + 2 * 14, two calls 20 + 2 + 14.
        ([2, 14], [1, 2]),
    ],
)
def test_the_cheapest_partition_of_known_cases(lengths: list[int], ends: list[int]) -> None:
    assert cheapest(lengths, COST) == ends


def partitions(lengths: list[int]) -> Iterator[list[list[int]]]:
    """Every way to put requests into batches, not only runs of the sorted lengths."""
    if not lengths:
        yield []
        return
    first, *rest = lengths
    for groups in partitions(rest):
        yield [[first], *groups]
        for place, group in enumerate(groups):
            yield [*groups[:place], [first, *group], *groups[place + 1 :]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6).map(sorted), st.integers(0, 60))
def test_no_partition_of_any_kind_is_cheaper(lengths: list[int], call_ms: int) -> None:
    cost = CostModel(call_ns=call_ms * MS, token_ns=MS, max_rows=3)
    ends = cheapest(lengths, cost)
    assert ends[-1] == len(lengths)
    assert all(1 <= end - start <= 3 for start, end in pairwise([0, *ends]))
    allowed = [groups for groups in partitions(lengths) if all(len(group) <= 3 for group in groups)]
    least = min(sum(cost.batch_ns(len(group), max(group)) for group in groups) for groups in allowed)
    assert cost_of(lengths, ends, cost) == least


def test_one_client_waits_for_its_own_calls_only() -> None:
    course = run(BestKnown(COST, Choice(oldest)), np.array([5, 7, 9]), ClosedLoop(1, 3), COST)
    assert course.answered_ns.tolist() == [15 * MS, 32 * MS, 51 * MS]
    assert course.came_ns.tolist() == [0, 15 * MS, 32 * MS]
    assert (course.batches, course.padded_tokens) == (3, 21)


def test_a_client_is_back_after_its_way() -> None:
    course = run(BestKnown(COST, Choice(oldest)), np.array([5, 7]), ClosedLoop(1, 2, back_ns=3 * MS), COST)
    assert course.came_ns.tolist() == [0, 18 * MS]
    # Two clients: the one that has waited goes at once, without the one that is on its way.
    course = run(BestKnown(COST, Choice(oldest)), np.full(40, 5), ClosedLoop(2, 40, back_ns=MS), COST)
    assert course.batches == 20
    course = run(BestKnown(COST, Choice(oldest)), np.full(40, 5), ClosedLoop(8, 40, back_ns=MS), COST)
    assert course.batches == 10


def test_equal_lengths_fill_every_batch() -> None:
    course = run(BestKnown(COST, Choice(oldest)), np.full(16, 5), ClosedLoop(4, 16), COST)
    assert course.batches == 4
    assert course.answered_ns.max() == 4 * COST.batch_ns(4, 5)
    per_s = 16 * 1e9 / course.answered_ns.max()
    assert per_s == pytest.approx(bound_per_s(np.full(16, 5), COST))


def test_an_open_loop_does_not_wait_for_answers() -> None:
    # The second and third come while the first runs, and go together.
    course = run(BestKnown(COST, Choice(oldest)), np.array([5, 5, 5]), OpenLoop(np.array([0, MS, 2 * MS])), COST)
    assert course.answered_ns.tolist() == [15 * MS, 35 * MS, 35 * MS]
    assert course.latencies_ns().tolist() == [15 * MS, 34 * MS, 33 * MS]


def test_two_instances_run_two_batches_at_once() -> None:
    policy = BestKnown(COST, Choice(oldest), instances=2)
    course = run(policy, np.array([2, 30]), OpenLoop(np.array([0, 0])), COST, instances=2)
    assert course.answered_ns.tolist() == [12 * MS, 40 * MS]


@pytest.mark.parametrize(("rank", "first"), [(oldest, 0), (shortest_call, 1), (fullest, 1)])
def test_the_rank_says_which_batch_goes_first(rank: object, first: int) -> None:
    policy = BestKnown(COST, Choice(rank))  # type: ignore[arg-type]
    for request, length in enumerate([90, 2, 2]):
        policy.arrive(request, length, 0)
    batch = policy.take(0)
    assert batch is not None
    assert first in batch.requests
    assert policy.take(0) is None
    policy.ended(batch, 1)
    assert policy.take(1) is not None


def test_a_policy_that_sends_nothing_is_an_error() -> None:
    class Idle:
        def arrive(self, request: int, length: int, now_ns: int) -> None: ...
        def take(self, now_ns: int) -> Batch | None: ...
        def ended(self, batch: Batch, now_ns: int) -> None: ...
        def wake_at_ns(self, now_ns: int) -> int | None: ...

    with pytest.raises(RuntimeError, match="1 requests wait"):
        run(Idle(), np.array([1]), ClosedLoop(1, 1), COST)


def test_no_policy_passes_the_bound_and_the_best_comes_first() -> None:
    lengths = Workload().lengths(1_500)
    found = every_choice(closed_process(lengths, 64))
    rates = [ideal.per_s for ideal in found]
    assert len(found) == len(CHOICES)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < bound_per_s(lengths, CostModel())


def test_our_own_assembler_answers_everything_and_pads_nobody_short() -> None:
    lengths = Workload().lengths(600)
    for arrivals in (ClosedLoop(64, 600), OpenLoop(poisson_ns(600, 800.0, 1))):
        course = run(OwnAssembler(CostModel()), lengths, arrivals, CostModel())
        assert (course.answered_ns > course.came_ns).all()
        assert course.padded_tokens >= lengths.sum()


def test_rates_are_counted_between_the_beginning_and_the_last_arrival() -> None:
    due_ns = np.arange(0, 1_000 * MS, 20 * MS)
    process = open_process(np.full(50, 5), due_ns, 400 * MS, COST)
    ideal = judge("each alone", BestKnown(COST, Choice(oldest)), process)
    # Between 400 ms and 980 ms: the answers at 415, 435, …, 975 ms.
    assert ideal.per_s == pytest.approx(29 / 0.58)
    assert (ideal.p50_ms, ideal.rows, ideal.waste) == (15.0, 1.0, 0.0)


def test_clients_pad_to_the_next_power_of_two() -> None:
    assert power_of_two(np.array([4, 5, 8, 9, 511, 512])).tolist() == [4, 8, 8, 16, 512, 512]


def test_a_seed_gives_the_same_lengths_within_their_bounds() -> None:
    lengths = Workload(seed=3).lengths(5_000)
    assert (lengths == Workload(seed=3).lengths(5_000)).all()
    assert lengths.min() >= 4
    assert lengths.max() <= 512
    assert (np.diff(poisson_ns(100, 50.0, 1)) >= 0).all()
