"""Owns the measures under a flood: what a person at a screen waits, and how two equal tenants share.

Must not know how requests are put into order.
On failure: an answer that is another request's stops the run; a refused call of the screen counts as a slow one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.batch.bench import CLIENTS, Bench
from bench.batch.generator import UNANSWERED, Calls, Group, Sent
from bench.batch.ideal import closed_process, ideal_of
from bench.batch.policy import key_of
from bench.batch.slices import Window, failures, latencies
from bench.batch.traffic import Traffic, token_rows
from bench.batch.workload import Times, Workload, poisson_ns
from bench.load.rows import Bar, Row, compare, single

MESSAGES = 1_024
# Requests of the screen in a second, each of one row: a tenth of what the model server could do.
SCREEN_PER_S = 150
# Rows of one request of a flood: fewer, larger requests, so that the flood does not take the generator's CPU.
FLOOD_ROWS = 16
TIMES_CAPACITY = 10
# Two tenants that send equally much, and two of which one sends four times as much.
SHARES = {"alike": (5, 5), "unlike": (8, 2)}


@dataclass(frozen=True)
class _Plan:
    """Messages of the screen, then those of the floods; and how many rows a second the model server can do."""

    bench: Bench
    screen: Traffic
    flood: Traffic
    capacity_per_s: float

    @property
    def messages(self) -> list[bytes]:
        """All of them."""
        return self.screen.messages + self.flood.messages

    def screen_group(self, end_s: float, seed: int) -> Group:
        """Single rows of P0."""
        due_ns = _until(end_s, SCREEN_PER_S, seed)
        return Group(0, np.arange(len(due_ns)) % MESSAGES, due_ns, key_of("screen"))

    def flood_group(self, tenant: str, times: float, end_s: float, seed: int) -> Group:
        """A tenant that sends `times` as many rows as the model server can do."""
        due_ns = _until(end_s, times * self.capacity_per_s / FLOOD_ROWS, seed)
        return Group(0, MESSAGES + np.arange(len(due_ns)) % MESSAGES, due_ns, key_of(tenant))

    def send(self, groups: list[Group], end_s: float) -> Sent:
        """Sends them; what waits at the end is taken back by its clients, and nobody else waits for it."""
        site = self.bench.site
        sent = site.generator.send(site.forebay.address, self.messages, groups, end_s, drain_s=1.0)
        self.bench.busiest = max(self.bench.busiest, sent.generator_busy)
        good = (sent.calls["code"] == 0).tolist()
        for message, answer, answered in zip(sent.calls["message"].tolist(), sent.answers, good, strict=True):
            traffic, number = (self.screen, message) if message < MESSAGES else (self.flood, message - MESSAGES)
            if answered:
                traffic.check_sums([number], [answer])
        return sent


def flooded_screen(bench: Bench) -> list[Row]:
    """P0 alone, then beside a P2 flood of ten times what the model server can do."""
    plan, scale = _plan(bench), bench.scale
    window = Window(bench.scale.warm_s, bench.scale.flood_s)
    flooded, allowed, rounds = [], [], []
    for number in range(-1, scale.rounds):
        seed = bench.workload.seed + number
        alone = plan.send([plan.screen_group(window.end_s, seed)], window.end_s)
        before = bench.site.triton_counts("cost")
        groups = [plan.screen_group(window.end_s, seed)]
        groups.append(plan.flood_group("flood", TIMES_CAPACITY, window.end_s, seed))
        both = plan.send(groups, window.end_s)
        _, calls, compute_ns = np.subtract(bench.site.triton_counts("cost"), before).tolist()
        if number < 0:
            continue
        batch_ms = compute_ns / calls / 1e6
        unloaded_ms = float(np.percentile(latencies(alone.calls, window), 99))
        screen = both.calls[both.calls["group"] == 0]
        flooded.append(float(np.percentile(latencies(screen, window), 99)))
        allowed.append(2 * unloaded_ms + batch_ms)
        others = both.calls[both.calls["group"] == 1]
        rounds.append(
            {
                "unloaded_p99_ms": unloaded_ms,
                "batch_ms": batch_ms,
                "flooded_p50_ms": float(np.percentile(latencies(screen, window), 50)),
                "flooded_answered_p99_ms": _answered_p99_ms(screen, window),
                "screen_failed": failures(screen),
                "screen_told": _told(both, 0),
                "flood_sent": len(others),
                "flood_answered": int((others["code"] == 0).sum()),
                "flood_failed": failures(others),
                "flood_told": _told(both, 1),
                "generator_busy": both.generator_busy,
            }
        )
    bars, detail = [Bar("ratio", at_most=1.0)], {"rounds": rounds}
    control = "twice_unloaded_and_a_batch_ms"
    return [compare("flooded_p0_p99_ms", "ms", flooded, control, allowed, bars=bars, detail=detail)]


def _answered_p99_ms(calls: Calls, window: Window) -> float | None:
    """Of the calls that were answered alone; None where none was."""
    answered = calls[calls["code"] == 0]
    return float(np.percentile(latencies(answered, window), 99)) if window.due(answered).any() else None


def _told(sent: Sent, group: int) -> str:
    """What the first call of a group that was refused was told; empty without one."""
    refused = (sent.calls["group"] == group) & (sent.calls["code"] != 0) & (sent.calls["code"] != UNANSWERED)
    return sent.answers[int(np.argmax(refused))].decode(errors="replace") if refused.any() else ""


def fair_shares(bench: Bench) -> list[Row]:
    """Two tenants of equal weight that both send more than there is room for."""
    plan = _plan(bench)
    return [_shares(plan, name, times) for name, times in SHARES.items()]


def _shares(plan: _Plan, name: str, times: tuple[int, int]) -> Row:
    scale, seed = plan.bench.scale, plan.bench.workload.seed
    window = Window(scale.warm_s, scale.flood_s)
    apart: list[float] = []
    rounds: list[dict[str, Any]] = []
    for number in range(scale.rounds):
        groups = [
            plan.flood_group(tenant, many, window.end_s, seed + 10 * number + place)
            for place, (tenant, many) in enumerate(zip(("even", "odd"), times, strict=True))
        ]
        calls = plan.send(groups, window.end_s).calls
        tokens = [_tokens(plan, calls[window.answered(calls) & (calls["group"] == group)]) for group in (0, 1)]
        apart.append(abs(2 * tokens[0] / max(sum(tokens), 1) - 1))
        rounds.append({"tokens": tokens, "failed": [failures(calls[calls["group"] == group]) for group in (0, 1)]})
    bars = [Bar("value", at_most=0.05)] if len(set(times)) == 1 else []
    detail = {"times_capacity": list(times), "rounds": rounds}
    return single(f"fair_share_apart_{name}", "share", apart, bars=bars, detail=detail)


def _tokens(plan: _Plan, calls: Any) -> int:
    """Tokens of the requests of some calls. Both tenants draw their lengths alike, so padding is alike too."""
    return int(plan.flood.tokens[calls["message"] - MESSAGES].sum())


def _plan(bench: Bench) -> _Plan:
    seed = bench.workload.seed
    lengths = bench.workload.lengths(MESSAGES)
    capacity = ideal_of(closed_process(bench.workload.lengths(bench.scale.virtual_requests), CLIENTS)).per_s
    flood = Workload(seed=seed + 1).lengths(MESSAGES)
    return _Plan(
        bench,
        Traffic.of("cost", token_rows(lengths, seed)),
        Traffic.of("cost", token_rows(flood, seed + 1, FLOOD_ROWS)),
        capacity,
    )


def _until(end_s: float, per_s: float, seed: int) -> Times:
    times = poisson_ns(round(per_s * end_s * 2) + 10, per_s, seed)
    return times[times < end_s * 1e9]
