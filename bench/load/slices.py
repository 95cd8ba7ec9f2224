"""Owns one slice: a burst of load on one variant, with the CPU it cost until all was quiet.

Must not know what slices are compared.
On failure: an answer that is not 200, or a request that failed, stops the run: a refused request is a cheap one.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from typing import Any

from bench.load.cpu import cpu_ns, wait_quiet
from bench.load.policy import KEYS
from bench.load.process import BenchError
from bench.load.tools import Tools
from bench.load.variants import Variant

LARGE_BODY_BYTES = 220_000
# What the upstream sends after the content chunks of a stream: finish reason, usage, `[DONE]`.
CLOSING_EVENTS = 3
# Longer than any load that is sent as fast as it goes.
_SEND_S = 300.0


@dataclass(frozen=True)
class Load:
    """Options of one run of the load generator."""

    requests: int
    connections: int = 16
    body_bytes: int = 1_024
    # Content chunks of a streamed answer, the gap between them; 0 chunks: a plain answer.
    chunks: int = 0
    gap_us: int = 0
    repeat_same: bool = False
    # All requests open at once.
    all_open: bool = False
    headers: tuple[str, ...] = ()
    path: str = "/v1/chat/completions"
    # How many keys take turns.
    keys: int = KEYS
    # Whether the body of a stream asks for the usage event.
    usage_unasked: bool = False
    # Of the closing events, those that the client must get.
    closing_events: int = CLOSING_EVENTS
    # Requests that begin in a second, evenly; 0: each as soon as a connection is free.
    per_second: float = 0.0

    def with_header(self, header: str) -> Load:
        """The same load with one header more."""
        return replace(self, headers=(*self.headers, header))

    def arguments(self, port: int, start: int) -> list[str]:
        """The generator's command line; `start` is the index of the first prompt and key."""
        words = ["--addr", f"127.0.0.1:{port}", "--start", str(start), "--body-bytes", str(self.body_bytes)]
        words += ["--path", self.path]
        if self.all_open:
            words += ["--open-streams", str(self.requests)]
        else:
            words += ["--requests", str(self.requests), "--connections", str(self.connections)]
        if self.chunks:
            words += ["--stream", "--chunks", str(self.chunks), "--gap-us", str(self.gap_us)]
            words += ["--closing-events", str(self.closing_events)]
            words += ["--usage-unasked"] if self.usage_unasked else []
        if self.per_second:
            words += ["--per-second", str(self.per_second)]
        if self.keys != KEYS:
            words += ["--keys", str(self.keys)]
        if self.repeat_same:
            words.append("--repeat-same")
        for header in self.headers:
            words += ["--header", header]
        return words


@dataclass(frozen=True)
class Slice:
    """What one slice gave."""

    load: Load
    report: dict[str, Any]
    # CPU by role, in nanoseconds.
    cpu_ns: dict[str, int]

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU a request, all roles together."""
        return self.role_us(*self.cpu_ns)

    @property
    def p50_us(self) -> float:
        """Median latency."""
        return float(self.report["latency_us"]["p50"])

    @property
    def first_data_p50_us(self) -> float:
        """Median time to the first byte of a stream's first event."""
        return float(self.report["first_data_us"]["p50"])

    def role_us(self, *roles: str) -> float:
        """Microseconds of CPU a request, of some roles."""
        return sum(self.cpu_ns.get(role, 0) for role in roles) / 1e3 / self.load.requests

    def per_event_us(self, *roles: str) -> float:
        """Microseconds of CPU an upstream event; of all roles where none is named."""
        events = self.load.requests * (self.load.chunks + CLOSING_EVENTS)
        return sum(self.cpu_ns.get(role, 0) for role in roles or self.cpu_ns) / 1e3 / events

    def failures(self) -> int:
        """Requests that were not answered 200 and whole."""
        return failures(self.load, self.report)


def failures(load: Load, report: dict[str, Any]) -> int:
    """Requests of a load that were not answered 200 and whole."""
    answered = int(report["statuses"].get("200", 0))
    failed = sum(int(count) for count in report["errors"].values())
    return load.requests - answered + failed


@dataclass
class Generator:
    """Sends slices; no two slices of a run share a prompt unless they ask to."""

    tools: Tools
    next_index: int = 0
    # Busy share of the generator's thread in its busiest slice: near 1 it, not the gateway, was measured.
    busiest: float = 0.0
    slices: int = field(default=0)

    def slice(self, variant: Variant, load: Load) -> Slice:
        """Sends `load` to `variant`; every request must be answered 200 and whole."""
        taken = self.try_slice(variant, load)
        if taken.failures():
            raise BenchError(f"`{variant.name}` failed requests under {load}: {taken.report}")
        return taken

    def try_slice(self, variant: Variant, load: Load) -> Slice:
        """Sends `load` to `variant`; failures are left to the caller."""
        before = cpu_ns(variant.pids)
        report = self.send(variant.port, load)
        after = wait_quiet(variant.pids)
        self.busiest = max(self.busiest, report["own_cpu_s"] / report["wall_s"])
        self.slices += 1
        return Slice(load, report, {role: after[role] - before[role] for role in after})

    def send(self, port: int, load: Load) -> dict[str, Any]:
        """The generator's own report."""
        return report_of(self.begin(port, load), _SEND_S)

    def begin(self, port: int, load: Load) -> subprocess.Popen[str]:
        """Sends and does not wait; `report_of` does."""
        command = [str(self.tools.bench), "load", *load.arguments(port, self.next_index)]
        self.next_index += load.requests
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report_of(run: subprocess.Popen[str], timeout_s: float) -> dict[str, Any]:
    """The report of a run of the generator, once it ends.

    Raises: BenchError where it failed or took too long; it is ended then.
    """
    try:
        out, error = run.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate()
        raise BenchError(f"the load generator took more than {timeout_s:.0f} s") from None
    if run.returncode != 0:
        raise BenchError(f"the load generator failed: {error.strip()}")
    report: dict[str, Any] = json.loads(out)
    return report
