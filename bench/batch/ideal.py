"""Owns what the cost model allows: the best known policy without overhead for a given arrival process, and a bound.

Must not know real servers.
On failure: nothing here can fail. `python -m bench.batch.ideal` prints the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.batch.best_known import CHOICES, BestKnown, Choice
from bench.batch.cost import COST, CostModel
from bench.batch.lengths import Lengths
from bench.batch.virtual import Arrivals, ClosedLoop, OpenLoop, Policy, run
from bench.batch.workload import Times, Workload, poisson_ns

# Simulated seconds before a run counts, so that the first, empty moments do not.
WARM_NS = 1_000_000_000
# What a client and the way to it take at least on a machine with real sockets; for the second ideal of a closed loop.
BACK_NS = 1_000_000
_SEARCH_STEPS = 8
# Policies that keep up under a long queue; the others starve somebody and are no use for a search.
_PATIENT: tuple[Choice, ...] = CHOICES[:2]


@dataclass(frozen=True)
class Ideal:
    """One policy on one arrival process. `per_s` is requests answered in a second."""

    policy: str
    per_s: float
    p50_ms: float
    p99_ms: float
    rows: float
    # Padded tokens over real ones, less one.
    waste: float
    mean_open: float


@dataclass(frozen=True)
class Process:
    """Requests and when they come. What is due before `begin_ns` is not counted."""

    lengths: Lengths
    arrivals: Callable[[], Arrivals]
    cost: CostModel = COST
    begin_ns: int = WARM_NS


def closed_process(lengths: Lengths, clients: int, cost: CostModel = COST, back_ns: int = 0) -> Process:
    """`clients` that wait for their answers and are back after `back_ns`."""
    return Process(lengths, lambda: ClosedLoop(clients, len(lengths), back_ns), cost)


def open_process(lengths: Lengths, due_ns: Times, begin_ns: int = WARM_NS, cost: CostModel = COST) -> Process:
    """Requests that come when they are due."""
    return Process(lengths, lambda: OpenLoop(due_ns), cost, begin_ns)


def judge(name: str, policy: Policy, process: Process) -> Ideal:
    """One virtual run. Requests a second are counted from the process's `begin_ns` to its last arrival."""
    course = run(policy, process.lengths, process.arrivals(), process.cost)
    last_ns = int(course.came_ns.max())
    begin_ns = min(process.begin_ns, last_ns // 2)
    latencies_ms = course.latencies_ns()[course.came_ns >= begin_ns] / 1e6
    p50, p99 = np.percentile(latencies_ms, (50, 99))
    return Ideal(
        policy=name,
        per_s=course.answered_by(last_ns, begin_ns) / (last_ns - begin_ns) * 1e9,
        p50_ms=float(p50),
        p99_ms=float(p99),
        rows=len(process.lengths) / course.batches,
        waste=course.padded_tokens / int(process.lengths.sum()) - 1,
        mean_open=float(course.latencies_ns().sum() / course.answered_ns.max()),
    )


def every_choice(process: Process) -> list[Ideal]:
    """Each known policy on the same process, the one with most answers a second first."""
    found = [judge(choice.name, BestKnown(process.cost, choice), process) for choice in CHOICES]
    return sorted(found, key=lambda ideal: -ideal.per_s)


def ideal_of(process: Process) -> Ideal:
    """The best known policy; of those within 1 % of the most answers a second, the one with the least p99."""
    found = every_choice(process)
    near = [ideal for ideal in found if ideal.per_s >= found[0].per_s * 0.99]
    return replace(min(near, key=lambda ideal: ideal.p99_ms), per_s=found[0].per_s)


def open_capacity(workload: Workload, clients: int, requests: int) -> float:
    """The rate of Poisson arrivals at which the best known policy has, on average, as many requests open as the closed
    loop has clients.

    Without such a condition there is no largest rate short of `bound_per_s`: the longer the queue, the better its
    batches fit, and the later each answer.

    Units: requests a second.
    """
    lengths = workload.lengths(requests)
    low, high = 0.0, bound_per_s(lengths, COST)
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        process = open_process(lengths, poisson_ns(requests, middle, workload.seed))
        least_open = min(judge(each.name, BestKnown(COST, each), process).mean_open for each in _PATIENT)
        low, high = (middle, high) if least_open <= clients else (low, middle)
    return low


def bound_per_s(lengths: Lengths, cost: CostModel) -> float:
    """What no policy passes, whatever it knows of the future and however many wait.

    A batch has at most `max_rows` rows, so a request's share of the call is at least `call_ns / max_rows`; and it pays
    for its own tokens at least. So `n` requests take at least `n * call_ns / max_rows + token_ns * sum(lengths)` on one
    instance. It is reached only by full batches of equal lengths.
    """
    return 1e9 / (cost.call_ns / cost.max_rows + cost.token_ns * float(lengths.mean()))


def main() -> None:
    """Prints the figures for the bench's own workload."""
    workload, clients = Workload(), 64
    lengths = workload.lengths(12_000)
    print(f"lengths: mean {lengths.mean():.0f}, median {np.median(lengths):.0f} tokens; {clients} clients")
    for ideal in every_choice(closed_process(lengths, clients)):
        print(
            f"  {ideal.policy:<18} {ideal.per_s:7.0f} requests/s  p50 {ideal.p50_ms:5.1f} ms"
            f"  p99 {ideal.p99_ms:6.1f} ms  {ideal.rows:4.1f} rows  padding {ideal.waste:.0%}"
        )
    late = ideal_of(closed_process(lengths, clients, back_ns=BACK_NS))
    print(f"where clients are back after {BACK_NS / 1e6:g} ms: {late.per_s:.0f} requests/s")
    capacity = open_capacity(workload, clients, len(lengths))
    print(f"open loop with {clients} requests open on average: {capacity:.0f} requests/s")
    print(f"no policy passes: {bound_per_s(lengths, COST):.0f} requests/s")


if __name__ == "__main__":
    main()
