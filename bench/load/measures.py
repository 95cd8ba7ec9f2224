"""Owns the named measures: which variants each interleaves, and the bars that it is held to.

Must not know how a variant is started or CPU is read.
On failure: a slice that fails stops the run; a bar that is missed is only said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.load.breakdown import StageClock, body_messages, inner, shares
from bench.load.process import Child
from bench.load.rows import Bar, Row, compare, single
from bench.load.scale import Scale
from bench.load.slices import LARGE_BODY_BYTES, Generator, Load, Slice
from bench.load.variants import Variant

# A request that asks for no caching is never captured.
NOT_CAPTURED = "cache-control: no-store"
# The routes of the bench's policy whose feature keeps no answer, without and with a Python stage.
LOOKED_UP = "/looked-up/chat/completions"
STAGED = "/staged/chat/completions"
# The echo control captures what asks for it; forebay captures what it may cache.
ECHO_CAPTURED = "x-bench-capture: 1"
# The echo control answers by itself.
IMMEDIATE = "x-bench-immediate: 1"
# Between two chunks, so that each is a message of its own rather than one of a coalesced read.
CHUNK_GAP_US = 3_000
# Longer than 2,000 streams take to open.
OPEN_GAP_US = 5_000_000


@dataclass(frozen=True)
class Measure:
    """Rows, and the variants that they compare."""

    take: Callable[[Bench], list[Row]]
    variants: tuple[str, ...]


@dataclass
class Bench:
    """What every measure works with."""

    variants: dict[str, Variant]
    upstream: Child
    generator: Generator
    scale: Scale

    def rounds(self, names: list[str]) -> Iterator[list[Variant]]:
        """The variants of each round, every other round backwards, so that drift favours none."""
        chosen = [self.variants[name] for name in names if name in self.variants]
        for turn in range(self.scale.rounds):
            yield chosen[:: 1 if turn % 2 == 0 else -1]

    def interleave(self, loads: dict[str, Load]) -> dict[str, list[Slice]]:
        """The slices of every variant, round by round, after one warm-up each that is not counted."""
        loads = {name: load for name, load in loads.items() if name in self.variants}
        taken: dict[str, list[Slice]] = {name: [] for name in loads}
        for name, load in loads.items():
            self.generator.slice(self.variants[name], load)
        for variants in self.rounds(list(loads)):
            for variant in variants:
                taken[variant.name].append(self.generator.slice(variant, loads[variant.name]))
        return taken

    def has(self, *names: str) -> bool:
        """Whether these variants run."""
        return all(name in self.variants for name in names)


def governed_cpu(bench: Bench) -> list[Row]:
    """CPU that a governed request adds, beside what the echo control adds. The miss is looked up and not kept."""
    load = Load(bench.scale.requests, path=LOOKED_UP)
    clock = StageClock.read(bench.variants["forebay"]) if bench.has("forebay") else None
    taken = bench.interleave(dict.fromkeys(["none", "logged", "echo", "forebay"], load))
    none = [one.cpu_us for one in taken["none"]]
    added = {name: [one.cpu_us - less for one, less in zip(taken[name], none, strict=True)] for name in taken}
    share = {name: shares(taken[name], taken["none"]) for name in taken}
    rows = [single("plain_cpu_us", "us/request", none, detail={"p50_us": share["none"]["p50_us"]})]
    for name in ("logged", "echo"):
        if name in taken:
            short = {"logged": "access_log_added_cpu_us", "echo": "echo_added_cpu_us"}[name]
            rows.append(compare(short, "us/request", added[name], "plain_cpu_us", none, detail=share[name]))
    if clock is not None:
        detail: dict[str, Any] = dict(share["forebay"])
        # The warm-up of `interleave` went through the same stages.
        stages = StageClock.read(bench.variants["forebay"]).since(clock, load.requests * (bench.scale.rounds + 1))
        log_us = share["logged"]["service_us"] if "logged" in share else 0.0
        detail["service_parts_us"] = inner(stages, detail["service_us"], log_us)
        bars = [Bar("value", at_most=110.0, aim=90.0), Bar("ratio", at_most=1.9, aim=1.6)]
        rows.append(
            compare(
                "governed_added_cpu_us",
                "us/request",
                added["forebay"],
                "echo_added_cpu_us",
                added["echo"],
                bars=bars,
                detail=detail,
            )
        )
    return rows


def beside_governed(bench: Bench) -> list[Row]:
    """What a miss costs whose answer is kept, and a Python stage, each beside the governed request of the same run."""
    rows: list[Row] = []
    if not bench.has("forebay"):
        return rows
    forebay = bench.variants["forebay"]
    ways = {
        "kept_miss_added_cpu_us": Load(bench.scale.requests),
        "python_stage_added_cpu_us": Load(bench.scale.requests, path=STAGED),
    }
    governed = Load(bench.scale.requests, path=LOOKED_UP)
    for name, load in ways.items():
        bench.generator.slice(forebay, load)
        pairs = [
            (bench.generator.slice(forebay, governed), bench.generator.slice(forebay, load))
            for _ in range(bench.scale.rounds)
        ]
        plain = [one.cpu_us for one, _ in pairs]
        added = [other.cpu_us - one.cpu_us for one, other in pairs]
        rows.append(compare(name, "us/request", added, "governed_cpu_us", plain))
    return rows


def governed_p50(bench: Bench) -> list[Row]:
    """Median latency of a governed request at one connection."""
    taken = bench.interleave(
        dict.fromkeys(["none", "echo", "forebay"], Load(bench.scale.single_requests, connections=1, path=LOOKED_UP))
    )
    return _p50_rows("governed_p50_ratio", taken, 1.3)


def large_prompt(bench: Bench) -> list[Row]:
    """Median latency of a 220 KB prompt at 16 connections."""
    load = Load(bench.scale.large_requests, body_bytes=LARGE_BODY_BYTES, path=LOOKED_UP)
    return _p50_rows("large_prompt_p50_ratio", bench.interleave(dict.fromkeys(["none", "echo", "forebay"], load)), 1.4)


def exact_hit(bench: Bench) -> list[Row]:
    """CPU of an exact hit beside Envoy's own direct response, and beside a processor that answers without thought."""
    same = Load(bench.scale.requests, repeat_same=True)
    if bench.has("forebay"):
        bench.generator.slice(bench.variants["forebay"], Load(1, connections=1, repeat_same=True))
    before = bench.upstream.ask()["requests"]
    taken = bench.interleave({"direct": same, "echo": same.with_header(IMMEDIATE), "forebay": same})
    # Not 0: then some of these were misses, and the number is no hit's.
    reached = bench.upstream.ask()["requests"] - before
    direct = [one.cpu_us for one in taken["direct"]]
    rows = [single("direct_response_cpu_us", "us/request", direct)]
    if "echo" in taken:
        immediate = [one.cpu_us for one in taken["echo"]]
        rows.append(compare("echo_immediate_cpu_ratio", "us/request", immediate, "direct_response_cpu_us", direct))
    if "forebay" in taken:
        hits = [one.cpu_us for one in taken["forebay"]]
        detail = {"upstream_requests": reached, "p50_us": round(median(one.p50_us for one in taken["forebay"]), 1)}
        bars = [Bar("ratio", at_most=2.6)]
        rows.append(
            compare(
                "exact_hit_cpu_ratio", "us/request", hits, "direct_response_cpu_us", direct, bars=bars, detail=detail
            )
        )
    return rows


def uncaptured_stream(bench: Bench) -> list[Row]:
    """Body messages that an uncaptured stream sends to the processor."""
    rows = []
    load = streams(bench.scale).with_header(NOT_CAPTURED)
    for name in ("echo", "forebay"):
        if bench.has(name):
            variant = bench.variants[name]
            before = variant.ext_proc_messages()
            told = body_messages(variant) if name == "forebay" else 0
            bench.generator.slice(variant, load)
            sent = variant.ext_proc_messages() - before
            # Request headers and request body; whatever is above is a response.
            extra = float(sent - 2 * load.requests)
            bars = [Bar("value", at_most=0.0)] if name == "forebay" else []
            prefix = "" if name == "forebay" else "echo_"
            detail = {"streams": load.requests, "events": load.requests * (load.chunks + 3), "messages": sent}
            if name == "forebay":
                detail["body_messages_by_gateway"] = body_messages(variant) - told
            rows.append(
                single(f"{prefix}uncaptured_stream_body_messages", "messages", [extra], bars=bars, detail=detail)
            )
    return rows


def captured_chunk(bench: Bench) -> list[Row]:
    """CPU of a captured chunk: the same streams captured and not, on the same chain."""
    base = streams(bench.scale)
    captured = {"echo": base.with_header(ECHO_CAPTURED), "forebay": base}
    plain = {"echo": base, "forebay": base.with_header(NOT_CAPTURED)}
    names = [name for name in ("echo", "forebay") if bench.has(name)]
    added: dict[str, list[float]] = {name: [] for name in names}
    messages: dict[str, float] = {}
    for variants in bench.rounds(names):
        for variant in variants:
            without = bench.generator.slice(variant, plain[variant.name])
            before = variant.ext_proc_messages()
            with_capture = bench.generator.slice(variant, captured[variant.name])
            # Two of decide, and capture's two headers, a stream.
            bodies = variant.ext_proc_messages() - before - 4 * base.requests
            messages[variant.name] = bodies / (base.requests * (base.chunks + 3))
            added[variant.name].append(with_capture.per_event_us() - without.per_event_us())
    rows = []
    if "echo" in added:
        detail = {"messages_per_event": messages["echo"]}
        rows.append(single("echo_captured_chunk_cpu_us", "us/event", added["echo"], detail=detail))
    if "forebay" in added:
        rows.append(
            compare(
                "captured_chunk_cpu_ratio",
                "us/event",
                added["forebay"],
                "echo_captured_chunk_cpu_us",
                added["echo"],
                bars=[Bar("ratio", at_most=1.3)],
                detail={"messages_per_event": messages["forebay"]},
            )
        )
    return rows


def open_streams(bench: Bench) -> list[Row]:
    """Errors among streams that are all open at once."""
    load = Load(bench.scale.open_streams, chunks=3, gap_us=OPEN_GAP_US, all_open=True)
    rows = []
    for name in ("none", "echo", "forebay"):
        if bench.has(name):
            taken = bench.generator.try_slice(bench.variants[name], load)
            failures = float(taken.failures())
            most_open = int(taken.report["most_open"])
            bars = [Bar("value", at_most=0.0)] if name == "forebay" else []
            prefix = "" if name == "forebay" else f"{name}_"
            detail: dict[str, Any] = {"most_open": most_open, "first_data_us": taken.report["first_data_us"]}
            detail |= {"errors": taken.report["errors"], "statuses": taken.report["statuses"]}
            rows.append(single(f"{prefix}open_streams_errors", "requests", [failures], bars=bars, detail=detail))
    return rows


END_TO_END: dict[str, Measure] = {
    "governed_cpu": Measure(governed_cpu, ("none", "logged", "echo", "forebay")),
    "beside_governed": Measure(beside_governed, ("forebay",)),
    "governed_p50": Measure(governed_p50, ("none", "echo", "forebay")),
    "exact_hit": Measure(exact_hit, ("direct", "echo", "forebay")),
    "uncaptured_stream": Measure(uncaptured_stream, ("echo", "forebay")),
    "captured_chunk": Measure(captured_chunk, ("echo", "forebay")),
    "large_prompt": Measure(large_prompt, ("none", "echo", "forebay")),
    "open_streams": Measure(open_streams, ("none", "echo", "forebay")),
}


def streams(scale: Scale) -> Load:
    """Streams whose chunks are each a message of its own."""
    return Load(scale.streams, chunks=scale.chunks, gap_us=CHUNK_GAP_US)


def _p50_rows(name: str, taken: dict[str, list[Slice]], at_most: float) -> list[Row]:
    p50 = {variant: [one.p50_us for one in slices] for variant, slices in taken.items()}
    short = name.removesuffix("_ratio")
    rows = []
    if "echo" in p50:
        rows.append(compare(f"echo_{short}_us", "us", p50["echo"], f"plain_{short}_us", p50["none"]))
    if "forebay" in p50:
        bars = [Bar("ratio", at_most=at_most)]
        rows.append(compare(name, "us", p50["forebay"], f"echo_{short}_us", p50["echo"], bars=bars))
    return rows
