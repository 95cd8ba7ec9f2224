"""Reads what the gateway and the fleets say about themselves: metrics, decision records, counts, request heads.

Owns the reading of those endpoints. Must not know what the demo sent.
A missing endpoint or field is left out of the answer, never guessed; only the fleets must answer.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_TIMEOUT_S = 10

Metrics = dict[str, list[tuple[dict[str, str], float]]]


def read_metrics(admin_url: str) -> Metrics:
    """The gateway's Prometheus metrics by name; empty if the port does not answer."""
    try:
        with urllib.request.urlopen(f"{admin_url}/metrics", timeout=_TIMEOUT_S) as answer:
            return parse_metrics(answer.read().decode())
    except OSError:
        return {}


def parse_metrics(text: str) -> Metrics:
    """Prometheus' text form.

    >>> parse_metrics('forebay_cache_total{outcome="hit"} 3')
    {'forebay_cache_total': [({'outcome': 'hit'}, 3.0)]}
    """
    found: Metrics = defaultdict(list)
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is not None:
            labels = {name: value.replace('\\"', '"') for name, value in _LABEL.findall(match["labels"] or "")}
            found[match["name"]].append((labels, float(match["value"])))
    return dict(found)


def read_records(admin_url: str, limit: int) -> list[dict[str, Any]]:
    """The last decision records; empty if there is no such endpoint."""
    try:
        with urllib.request.urlopen(f"{admin_url}/records?limit={limit}", timeout=_TIMEOUT_S) as answer:
            value = json.load(answer)
    except (OSError, ValueError):
        return []
    items = value.get("records", []) if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, dict)]


def since(before: Metrics, after: Metrics) -> dict[str, float]:
    """How much each series grew, by its flat name, such as `forebay_requests_total{cache=hit,outcome=answer}`."""
    start = {flat(name, labels): value for name, items in before.items() for labels, value in items}
    end = {flat(name, labels): value for name, items in after.items() for labels, value in items}
    return {name: value - start.get(name, 0.0) for name, value in end.items()}


def flat(name: str, labels: dict[str, str]) -> str:
    """A series' name and labels as one text."""
    inside = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name


def stage_means_us(grown: dict[str, float]) -> dict[str, float]:
    """Mean time of each stage of deciding, over the runs of that stage, in the order of the gateway's metrics."""
    means = {}
    for name, total_ns in grown.items():
        stage = name.removeprefix("forebay_stage_ns_total{stage=").removesuffix("}")
        runs = grown.get(f"forebay_stage_runs_total{{stage={stage}}}", 0.0)
        if stage != name and runs:
            means[stage] = total_ns / runs / 1e3
    return means


@dataclass(frozen=True, slots=True)
class ForwardedTimes:
    """Means over forwarded requests whose end is known: as Envoy saw them, and the decision's part."""

    requests: int
    total_ms: float
    first_byte_ms: float
    decision_us: float


def forwarded_times(records: Iterable[dict[str, Any]]) -> ForwardedTimes | None:
    """Reads decision records; None when none of them ended."""
    ended = [r for r in records if r.get("outcome") == "forward" and isinstance(r.get("end"), dict)]
    if not ended:
        return None
    count = len(ended)
    return ForwardedTimes(
        count,
        sum(record["end"]["duration_ns"] for record in ended) / count / 1e6,
        sum(record["end"]["first_byte_ns"] for record in ended) / count / 1e6,
        sum(sum(record["stages_ns"].values()) for record in ended) / count / 1e3,
    )


def fleet_stats(fleet_url: str) -> dict[str, Any]:
    """A fleet's own counts."""
    return dict(_json(f"{fleet_url}/lab/stats"))


def fleet_heads(fleet_url: str) -> list[dict[str, Any]]:
    """The last request heads that a fleet saw."""
    return list(_json(f"{fleet_url}/lab/headers"))


def heads_with(heads: Iterable[dict[str, Any]], secrets: Iterable[str]) -> int:
    """How many heads carry one of the secrets anywhere."""
    wanted = tuple(secrets)
    return sum(any(secret in json.dumps(head) for secret in wanted) for head in heads)


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return json.load(answer)
