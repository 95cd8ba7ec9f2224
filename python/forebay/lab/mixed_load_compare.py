"""The upstreams' books against the gateway's: the ledger, the budgets, the metrics, and what the clients saw.

Owns which request is which, and which sums must agree. Must not know how any set of books is read.
It cannot fail: what does not agree is in the report.

Requests are matched by the trial's id: fleets keep it from `x-trial-id`, the ledger from `x-forebay-eval`, so that a
client that left without an answer is found too. Where an answer came, its `x-forebay-request-id` must be the row's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from forebay.lab.demo_sources import Metrics, parse_metrics
from forebay.lab.mixed_load_client import View
from forebay.lab.mixed_load_plan import Trial

ESTIMATE_TOLERANCE = 0.05
_SHOWN = 20
_EXACT = (1, "EXACT")
_TOKEN_FIELDS = (
    ("prompt_tokens", "prompt_tokens"),
    ("cached_tokens", "cached_prompt_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("output_tokens", "output_tokens"),
    ("reasoning_tokens", "reasoning_tokens"),
)
_METRIC_KINDS = {
    "prompt": "prompt_tokens",
    "cached_prompt": "cached_prompt_tokens",
    "cache_write": "cache_write_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
}

# What the ledger may call an end that a fleet knows, where the client stayed. A cut before the head is Envoy's reply.
_OUTCOMES = {
    "ok": {"ok"},
    "failed": {"upstream_error"},
    "refused": {"upstream_error"},
    "reset": {"reset", "local_reply"},
}
# These ends have no reservation that could be settled.
_NEVER_SETTLED = {"hit", "follow", "refused"}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that must agree.

    `entries`: of all fleets' ledgers. `rows`: the gateway's ledger with the field names of `ledger.proto`; `id` in hex.
    `buckets`: `budget`, `value`, `unit`, `spent`. `whole_budgets`: names of budgets that count every request. `prices`:
    of models by name, with the policy's field names; a row of such a model must cost what its tokens cost.
    """

    entries: Sequence[Row]
    rows: Sequence[Row]
    buckets: Sequence[Row] = ()
    metrics_text: str = ""
    whole_budgets: tuple[str, ...] = ()
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What agrees and what does not. `problems` counts each kind; `examples` shows some of each."""

    requests: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    exact_requests: int = 0
    exact_tokens: int = 0
    estimated_requests: int = 0
    estimated_tokens: int = 0
    estimated_upstream_tokens: int = 0
    sums: dict[str, dict[str, int]] = field(default_factory=dict)
    open_reservations: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def estimate_error_ratio(self) -> float:
        """How far estimates are from the upstreams' own count, in sum."""
        upstream = self.estimated_upstream_tokens
        return abs(self.estimated_tokens - upstream) / upstream if upstream else float(self.estimated_tokens > 0)

    @property
    def passed(self) -> bool:
        """Whether every bar is met."""
        return not self.problems

    def problem(self, kind: str, text: str) -> None:
        """Notes one thing that does not agree."""
        self.problems[kind] = self.problems.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _SHOWN:
            shown.append(text)

    def json(self) -> dict[str, Any]:
        """The form that the bench writes."""
        ratio = round(self.estimate_error_ratio, 5)
        return {"passed": self.passed, "estimate_error_ratio": ratio, **asdict(self)}


def compare(trials: Sequence[Trial], views: Sequence[View], books: Books) -> Report:
    """Holds all books against each other. `trials` and `views` belong together by position."""
    report = Report(requests=len(trials))
    report.outcomes = dict(Counter(str(row["outcome"]) for row in books.rows))
    report.clients = dict(Counter(_seen(view) for view in views))
    by_trial = {str(row["eval"]): row for row in books.rows}
    entries: dict[str, list[Row]] = defaultdict(list)
    for entry in books.entries:
        entries[str(entry["trial"])].append(entry)
    sent = {trial.id for trial in trials}
    for trial, view in zip(trials, views, strict=True):
        _client(trial, view, report)
        _request(_Match(trial, view, entries.pop(trial.id, []), by_trial.get(trial.id)), report)
    for stranger in entries:
        report.problem("upstream_unknown", f"a fleet served `{stranger}`, which nobody sent")
    for row in books.rows:
        if str(row["eval"]) not in sent:
            report.problem("ledger_unknown", f"row {row['id']} ({row['outcome']}) belongs to no trial")
    if len(by_trial) < len(books.rows):
        report.problem("booked_twice", f"{len(books.rows)} rows for {len(by_trial)} trials")
    if report.estimate_error_ratio > ESTIMATE_TOLERANCE:
        told = f"{report.estimated_tokens} estimated, {report.estimated_upstream_tokens} used"
        report.problem("estimate_off", f"{told}: {report.estimate_error_ratio:.1%} in sum")
    _sums(books, report)
    return report


@dataclass(frozen=True, slots=True)
class _Match:
    """One trial in every set of books."""

    trial: Trial
    view: View
    entries: list[Row]
    row: Row | None


def _seen(view: View) -> str:
    if view.aborted:
        return "aborted"
    return str(view.status) if view.complete else "broken"


def _client(trial: Trial, view: View, report: Report) -> None:
    """What a client must not see, and must not miss."""
    if view.usage_event and not trial.asks_usage:
        report.problem("usage_leaked", f"{trial.id} did not ask for the usage event and got it")
    if view.status and not view.request_id and not view.aborted:
        report.problem("no_request_id", f"{trial.id} got {view.status} without `x-forebay-request-id`")


def _request(match: _Match, report: Report) -> None:
    trial, row = match.trial, match.row
    used = sum(_entry_tokens(entry) for entry in match.entries)
    if row is None:
        if used:
            report.problem("ledger_missing", f"{trial.id} used {used} tokens upstream and has no row")
        return
    if match.view.request_id and match.view.request_id != row["id"]:
        report.problem("request_id_wrong", f"{trial.id} was told {match.view.request_id}, its row is {row['id']}")
    if row["tenant"] != trial.key.tenant:
        report.problem("tenant_wrong", f"{trial.id} of `{trial.key.tenant}` is booked for `{row['tenant']}`")
    if len(match.entries) > 1:
        report.problem("tried_twice", f"{trial.id} reached fleets {len(match.entries)} times")
        return
    entry = match.entries[0] if match.entries else None
    expected = _OUTCOMES.get(str(entry["outcome"])) if entry is not None and not match.view.aborted else None
    if entry is not None and expected is not None and row["outcome"] not in expected:
        report.problem("outcome_wrong", f"{trial.id}: the fleet says {entry['outcome']}, the row {row['outcome']}")
    if entry is None or entry["outcome"] in ("failed", "refused"):
        if _tokens(row) and not match.view.aborted:
            said = "no fleet saw it" if entry is None else f"the fleet {entry['outcome']} it"
            report.problem("charged_for_nothing", f"{trial.id} ({row['outcome']}): {_tokens(row)} tokens, but {said}")
        elif _tokens(row):
            report.estimated_requests += 1
            report.estimated_tokens += _tokens(row)
        return
    told = entry["outcome"] == "ok" and entry["usage_told"]
    if told and (row["usage"] in _EXACT or not match.view.aborted):
        _exact(match, entry, row, report)
        return
    report.estimated_requests += 1
    report.estimated_tokens += _tokens(row)
    report.estimated_upstream_tokens += used


def _exact(match: _Match, entry: Row, row: Row, report: Report) -> None:
    """The upstream told its usage and the answer went through: every kind of token must be the same."""
    report.exact_requests += 1
    report.exact_tokens += _entry_tokens(entry)
    where = f"{match.trial.id} {match.trial.path} {entry['model']} ({row['outcome']})"
    if row["usage"] not in _EXACT:
        report.problem("not_exact", f"{where}: the upstream told its usage, the row is not exact")
        return
    for theirs, ours in _TOKEN_FIELDS:
        if entry[theirs] != row[ours]:
            report.problem("not_equal", f"{where}: `{ours}` is {row[ours]}, upstream {entry[theirs]}")


def _entry_tokens(entry: Row) -> int:
    return int(entry["prompt_tokens"]) + int(entry["output_tokens"])


def _tokens(row: Row) -> int:
    return int(row["prompt_tokens"]) + int(row["output_tokens"])


def _sums(books: Books, report: Report) -> None:
    """Ledger, budgets and metrics must have the same sums, to the token and the nano-USD."""
    cost = sum(int(row["cost_nanousd"]) for row in books.rows)
    tokens = sum(map(_tokens, books.rows))
    report.sums["ledger"] = {"cost_nanousd": cost, "tokens": tokens}
    for row in books.rows:
        # What expired costs what was reserved for it, which is above what its tokens can cost.
        rates = None if row["outcome"] == "expired" else books.prices.get(str(row.get("model", "")))
        if rates is not None and int(row["cost_nanousd"]) != _cost_nanousd(row, rates):
            told = f"row {row['id']} costs {row['cost_nanousd']}, its tokens {_cost_nanousd(row, rates)}"
            report.problem("cost_off", told)
    _budgets(books, {"nanousd": cost, "tokens": tokens}, report)
    if books.metrics_text:
        _metrics(parse_metrics(books.metrics_text), books, report)


def _cost_nanousd(row: Row, rates: Row) -> int:
    """What the tokens cost, rounded up once; a kind of prompt token without a price costs what any does."""
    cached, written = int(row["cached_prompt_tokens"]), int(row["cache_write_tokens"])
    counts = {
        "prompt": int(row["prompt_tokens"]) - cached - written,
        "cached_prompt": cached,
        "cache_write": written,
        "output": int(row["output_tokens"]),
    }
    per_million = {kind: int(rates.get(f"{kind}_nanousd_per_million_tokens", 0)) for kind in counts}
    for kind in ("cached_prompt", "cache_write"):
        per_million[kind] = per_million[kind] or per_million["prompt"]
    total = sum(count * per_million[kind] for kind, count in counts.items())
    return -(-total // 1_000_000)


def _budgets(books: Books, whole: dict[str, int], report: Report) -> None:
    charged: Counter[tuple[str, str, int]] = Counter()
    units = {str(bucket["budget"]): str(bucket["unit"]) for bucket in books.buckets}
    for row in books.rows:
        for charge in row.get("charges", ()):
            charged[_bucket(charge)] += int(charge["amount"])
            wanted = {"nanousd": int(row["cost_nanousd"]), "tokens": _tokens(row)}.get(units.get(charge["budget"], ""))
            if wanted is not None and wanted != charge["amount"]:
                told = f"row {row['id']} charges `{charge['budget']}` with {charge['amount']}, its own sum is {wanted}"
                report.problem("charge_off", told)
    spent: Counter[str] = Counter()
    for bucket in books.buckets:
        spent[str(bucket["budget"])] += int(bucket["spent"])
        if charged[_bucket(bucket)] != bucket["spent"]:
            told = f"`{bucket['budget']}` of `{bucket['value']}` spent {bucket['spent']}"
            report.problem("budget_off", f"{told}, its requests sum up to {charged[_bucket(bucket)]}")
    report.sums["budgets"] = dict(spent)
    for name in books.whole_budgets:
        if spent[name] != whole.get(units.get(name, ""), 0):
            told = f"`{name}` spent {spent[name]}, the ledger's sum is {whole.get(units.get(name, ''), 0)}"
            report.problem("budget_off", told)


def _bucket(row: Row) -> tuple[str, str, int]:
    return str(row["budget"]), str(row["value"]), int(row["period_start_s"])


def _metrics(metrics: Metrics, books: Books, report: Report) -> None:
    def total(name: str, **labels: str) -> int:
        series = metrics.get(name, [])
        return round(sum(value for has, value in series if labels.items() <= has.items()))

    sums = {"cost_nanousd": total("forebay_cost_nanousd_total")}
    ledger = {"cost_nanousd": report.sums["ledger"]["cost_nanousd"]}
    for kind, column in _METRIC_KINDS.items():
        sums[column] = total("forebay_tokens_total", kind=kind)
        ledger[column] = sum(int(row[column]) for row in books.rows)
    for outcome in {str(row["outcome"]) for row in books.rows} - _NEVER_SETTLED:
        sums[f"outcome_{outcome}"] = total("forebay_settled_total", outcome=outcome)
        ledger[f"outcome_{outcome}"] = sum(row["outcome"] == outcome for row in books.rows)
    report.sums["metrics"] = sums
    report.open_reservations = total("forebay_open_reservations")
    for name, value in sums.items():
        if value != ledger[name]:
            report.problem("metrics_off", f"`{name}`: metrics say {value}, the ledger {ledger[name]}")
    if report.open_reservations:
        report.problem("reservations_open", f"{report.open_reservations} reservations are still open")
