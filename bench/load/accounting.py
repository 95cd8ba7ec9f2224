"""Owns the measures of accounting: what usage extraction costs a chunk, what the books cost a request, the first token.

Must not know how a variant is started or CPU is read.
On failure: a slice that fails stops the run; a bar that is missed is only said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from bench.load.cpu import thread_cpu_ns
from bench.load.measures import LOOKED_UP, Bench, Measure, streams
from bench.load.rows import Bar, Row, compare
from bench.load.slices import CLOSING_EVENTS, Load, Slice

# A stream of which only the first chunk is timed: so short that many fit, and the second still comes by itself.
_FEW_CHUNKS = 2
_SHORT_GAP_US = 1_000
# Rounds of what is reported beside and held to no bar.
_FEW_ROUNDS = 3


def usage_chunk(bench: Bench) -> list[Row]:
    """CPU that reading usage adds to an event of a stream, where its usage event is kept and where it is dropped."""
    if not bench.has("forebay", "no_usage"):
        return []
    # Not kept, so that no copy of the answer is in it.
    asked = replace(streams(bench.scale), path=LOOKED_UP)
    unasked = replace(asked, usage_unasked=True)
    dropped = replace(unasked, closing_events=CLOSING_EVENTS - 1)
    return [
        _chunk_row(bench, "usage_chunk_cpu_us", dict.fromkeys(["forebay", "no_usage", "spine"], asked)),
        _chunk_row(bench, "usage_dropped_chunk_cpu_us", {"forebay": dropped, "no_usage": unasked, "spine": unasked}),
    ]


def _chunk_row(bench: Bench, name: str, loads: dict[str, Load]) -> Row:
    taken = bench.interleave(loads)
    pairs = list(zip(taken["forebay"], taken["no_usage"], strict=True))
    added = [one.per_event_us() - less.per_event_us() for one, less in pairs]
    detail = {
        "envoy_us": _middle([one.per_event_us("envoy") - less.per_event_us("envoy") for one, less in pairs]),
        "gateway_us": _middle([one.per_event_us("service") - less.per_event_us("service") for one, less in pairs]),
    }
    if "spine" in taken:
        both = zip(taken["no_usage"], taken["spine"], strict=True)
        detail["decompressors_us"] = _middle([one.per_event_us() - less.per_event_us() for one, less in both])
    return compare(
        name,
        "us/event",
        added,
        "unread_chunk_cpu_us",
        [less.per_event_us() for _, less in pairs],
        bars=[Bar("value", at_most=4.0)],
        detail=detail,
    )


def accounting_cpu(bench: Bench) -> list[Row]:
    """CPU that the books add to a request: usage, ledger, two budgets, telemetry; and to the first one of a key."""
    if not bench.has("spine", "accounted"):
        return []
    accounted = bench.variants["accounted"]
    sink = accounted.unpaid["sink"]
    load = Load(bench.scale.requests, path=LOOKED_UP, keys=bench.scale.budget_keys)
    spans, records = sink.ask()["spans"], accounted.gateway_metric("forebay_ledger_records_total")
    taken = bench.interleave(dict.fromkeys(["spine", "no_usage", "forebay", "ledger", "accounted"], load))
    sent = load.requests * (bench.scale.rounds + 1)
    # Near 1: the ledger's work fell into the slices. Near the policy's 1 % for the requests that were traced.
    detail: dict[str, object] = {
        "records_per_request": round((accounted.gateway_metric("forebay_ledger_records_total") - records) / sent, 4),
        "spans_per_request": round((sink.ask()["spans"] - spans) / sent, 4),
        "all_us": _added(taken["accounted"], taken["spine"]),
    }
    for part, one, less in (
        ("decompressors_us", "no_usage", "spine"),
        ("usage_us", "forebay", "no_usage"),
        ("ledger_and_budgets_us", "ledger", "forebay"),
        ("telemetry_us", "accounted", "ledger"),
    ):
        if one in taken and less in taken:
            detail[part] = _added(taken[one], taken[less])
    before, after = (_gateway_threads(bench, name, load) for name in ("spine", "accounted"))
    detail["gateway_threads_us"] = {name: round(after[name] - before.get(name, 0.0), 2) for name in after}
    row = _added_row("accounting_cpu_us", taken, [Bar("value", at_most=15.0)], detail)
    new_keys = bench_with_few_rounds(bench).interleave(
        dict.fromkeys(["spine", "accounted"], Load(bench.scale.requests, path=LOOKED_UP))
    )
    p50 = {f"{name}_p50_us": _middle([one.p50_us for one in slices]) for name, slices in new_keys.items()}
    return [row, _added_row("accounting_new_key_cpu_us", new_keys, [], {"all_us": _added(*_ends(new_keys)), **p50})]


def _gateway_threads(bench: Bench, name: str, load: Load) -> dict[str, float]:
    """Microseconds of each kind of the gateway's threads a request, in one slice: what is done where.

    `forebay-serve` decides, `forebay-journal` writes the journal, `python` fills the ledger, draws leases, sends spans.
    """
    variant = bench.variants[name]
    before = thread_cpu_ns(variant.pids["service"])
    bench.generator.slice(variant, load)
    after = thread_cpu_ns(variant.pids["service"])
    return {kind: (ns - before.get(kind, 0)) / 1e3 / load.requests for kind, ns in after.items()}


def bench_with_few_rounds(bench: Bench) -> Bench:
    """The same bench for what is only reported."""
    return replace(bench, scale=replace(bench.scale, rounds=min(_FEW_ROUNDS, bench.scale.rounds)))


def _ends(taken: dict[str, list[Slice]]) -> tuple[list[Slice], list[Slice]]:
    return taken["accounted"], taken["spine"]


def _added_row(name: str, taken: dict[str, list[Slice]], bars: list[Bar], detail: dict[str, object]) -> Row:
    spine = [one.cpu_us for one in taken["spine"]]
    added = [one.cpu_us - less for one, less in zip(taken["accounted"], spine, strict=True)]
    return compare(name, "us/request", added, "spine_governed_cpu_us", spine, bars=bars, detail=detail)


def _added(slices: Sequence[Slice], base: Sequence[Slice]) -> dict[str, float]:
    """Microseconds that a request costs more, in each process; medians over the rounds."""
    pairs = list(zip(slices, base, strict=True))
    return {
        "envoy": _middle([one.role_us("envoy") - less.role_us("envoy") for one, less in pairs]),
        "gateway": _middle([one.role_us("service") - less.role_us("service") for one, less in pairs]),
    }


def first_token(bench: Bench) -> list[Row]:
    """Time to the first token of a stream at one connection, above plain Envoy's."""
    if not bench.has("none", "accounted"):
        return []
    load = Load(
        bench.scale.single_requests,
        connections=1,
        chunks=_FEW_CHUNKS,
        gap_us=_SHORT_GAP_US,
        path=LOOKED_UP,
        keys=bench.scale.budget_keys,
    )
    taken = bench.interleave(dict.fromkeys(["none", "forebay", "accounted"], load))
    first = {name: [one.first_data_p50_us for one in slices] for name, slices in taken.items()}
    plain = first.pop("none")
    added = {
        name: [ours - theirs for ours, theirs in zip(values, plain, strict=True)] for name, values in first.items()
    }
    detail = {"without_books_added_us": _middle(added["forebay"])} if "forebay" in added else {}
    detail["p95_added_us"] = _middle(
        [
            ours.report["first_data_us"]["p95"] - theirs.report["first_data_us"]["p95"]
            for ours, theirs in zip(taken["accounted"], taken["none"], strict=True)
        ]
    )
    bars = [Bar("value", at_most=600.0)]
    return [
        compare(
            "first_token_p50_added_us",
            "us",
            added["accounted"],
            "plain_first_token_p50_us",
            plain,
            bars=bars,
            detail=detail,
        )
    ]


ACCOUNTING: dict[str, Measure] = {
    "usage_chunk": Measure(usage_chunk, ("forebay", "no_usage", "spine")),
    "accounting_cpu": Measure(accounting_cpu, ("spine", "no_usage", "forebay", "ledger", "accounted")),
    "first_token": Measure(first_token, ("none", "forebay", "accounted")),
}


def _middle(values: Sequence[float]) -> float:
    return round(median(values), 2)
