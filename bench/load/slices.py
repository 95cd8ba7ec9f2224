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
from bench.load.process import BenchError
from bench.load.tools import Tools
from bench.load.variants import Variant

LARGE_BODY_BYTES = 220_000
# What the upstream sends after the content chunks of a stream: finish reason, usage, `[DONE]`.
CLOSING_EVENTS = 3


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

    def role_us(self, *roles: str) -> float:
        """Microseconds of CPU a request, of some roles."""
        return sum(self.cpu_ns.get(role, 0) for role in roles) / 1e3 / self.load.requests

    def per_event_us(self) -> float:
        """Microseconds of CPU an upstream event."""
        return sum(self.cpu_ns.values()) / 1e3 / (self.load.requests * (self.load.chunks + CLOSING_EVENTS))

    def failures(self) -> int:
        """Requests that were not answered 200 and whole."""
        answered = int(self.report["statuses"].get("200", 0))
        failed = sum(int(count) for count in self.report["errors"].values())
        return self.load.requests - answered + failed


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
        command = [str(self.tools.bench), "load", *load.arguments(port, self.next_index)]
        self.next_index += load.requests
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if run.returncode != 0:
            raise BenchError(f"the load generator failed: {run.stderr.strip()}")
        report: dict[str, Any] = json.loads(run.stdout)
        return report
