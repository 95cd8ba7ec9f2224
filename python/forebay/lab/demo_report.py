"""The demo's result as text for people; every number in it was computed by the run.

Owns wording and layout. Must not compute anything that the result does not hold.
A part that was not run says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from forebay.lab.demo import DemoResult
from forebay.lab.demo_pass import Pass


def report(result: DemoResult) -> str:
    """The whole report."""
    parts = (_kinds, _answers, _stages, _savings, _ledger, _fleets, _tensors, _checks)
    return "\n\n".join("\n".join(part(result)) for part in parts)


def _kinds(result: DemoResult) -> Iterator[str]:
    sent = sum(line.sent for line in result.kinds)
    yield f"WHAT HAPPENED TO EACH KIND OF REQUEST ({sent} in {result.wall_s:.1f} s)"
    yield f"  {'':24}{'sent':>6}{'answered':>10}{'from cache':>12}{'refused':>9}{'failed':>8}   p50 / p95 ms"
    for line in result.kinds:
        refused, failed = sum(line.refused.values()), sum(line.failed.values())
        counts = f"{line.sent:>6}{line.answered:>10}{line.from_cache:>12}{refused:>9}{failed:>8}"
        yield f"  {line.kind:24}{counts}   {_ms(line.p50_ms)} / {_ms(line.p95_ms)}"
    for line in result.kinds:
        for code, count in (line.refused | line.failed).items():
            yield f"    {line.kind}: {count} x {code}"


def _answers(result: DemoResult) -> Iterator[str]:
    yield "HOW LONG AN ANSWER TOOK, BY WHO GAVE IT (as the client saw it, its own work included)"
    for line in result.answers:
        first = f", first token after {_ms(line.ttft_p50_ms)} ms (p50)" if line.ttft_p50_ms is not None else ""
        yield f"  {line.kind:28}{line.answered:>5} answers, p50 {_ms(line.p50_ms)} ms, p95 {_ms(line.p95_ms)} ms{first}"
    chosen = ", ".join(f"{name or 'unnamed'} {count}" for name, count in sorted(result.models.items()))
    yield f"  models: {chosen}"


def _stages(result: DemoResult) -> Iterator[str]:
    yield "WHERE THE TIME WENT"
    if result.forwarded is not None:
        mean = result.forwarded
        yield f"  a forwarded request took {mean.total_ms:.0f} ms, its first byte came after {mean.first_byte_ms:.0f}"
        yield f"  (means of {mean.requests}); the decision took {mean.decision_us:.0f} microseconds of it"
    if not result.stages_us:
        yield "  the gateway showed no times of its stages"
        return
    width = max(result.stages_us.values()) or 1.0
    yield "  the stages of a decision, mean microseconds each time that one ran:"
    for name, mean_us in result.stages_us.items():
        yield f"    {name:12}{mean_us:>9.1f}  {'#' * round(30 * mean_us / width)}"


def _savings(result: DemoResult) -> Iterator[str]:
    saved = result.savings
    tokens = saved.tokens + saved.used_tokens
    share = saved.tokens / tokens if tokens else 0.0
    yield "WHAT THE CACHE SAVED"
    yield f"  {saved.answers} answers, {saved.tokens:,} of {tokens:,} tokens ({share:.0%})"
    money = f"{saved.nanousd / 1e9:.4f} USD saved, {saved.used_nanousd / 1e9:.4f} USD spent"
    yield f"  {money}" + (f"; {saved.unpriced} answers have no known price" if saved.unpriced else "")


def _ledger(result: DemoResult) -> Iterator[str]:
    yield "WHAT IT COST, BY THE LEDGER"
    books = result.ledger
    if books is None:
        yield "  not part of this run"
        return
    tokens = f"{'tokens in':>11}{'tokens out':>12}"
    yield f"  {'tenant':10}{'model':14}{'requests':>9}{tokens}{'spent':>16}{'saved by cache':>16}"
    for line in books.lines:
        tokens = f"{line.prompt_tokens:>11,}{line.output_tokens:>12,}"
        money = f"{_usd(line.spent_nanousd):>16}{_usd(line.saved_nanousd):>16}"
        yield f"  {line.tenant:10}{line.model or '-':14}{line.requests:>9}{tokens}{money}"
    estimated = sum(line.estimated for line in books.lines)
    yield f"  {_usd(books.spent_nanousd)} in all; the use of {estimated} requests is estimated, of the others told"


def _fleets(result: DemoResult) -> Iterator[str]:
    yield "WHAT THE FLEETS COUNTED THEMSELVES"
    for name, stats in result.fleets.items():
        faults = f"{stats['failures']} failed on purpose, {stats['resets']} cut on purpose"
        work = f"{stats['prompt_tokens']:,} prompt and {stats['completion_tokens']:,} output tokens"
        yield f"  {name:14}{stats['requests']:>5} requests, at most {stats['peak_in_flight']} at once, {work}, {faults}"


def _tensors(result: DemoResult) -> Iterator[str]:
    tensors = result.tensors
    if tensors is None:
        yield "SENTENCES TO VECTORS (real MiniLM in a real Triton)"
        yield "  not part of this run"
        return
    lengths = f"{tensors.shortest_tokens} to {tensors.longest_tokens} tokens"
    yield f"SENTENCES TO VECTORS (real MiniLM in a real Triton on one core; each sentence at its own length, {lengths})"
    yield from _passes(tensors.passes)
    if tensors.costly:
        yield "  the same sentences to a model that costs as on a GPU (4 ms a call and 2 us a token, padding included):"
        yield from _passes(tensors.costly)
    if tensors.error:
        yield f"  failed: {tensors.error}"


def _passes(passes: list[Pass]) -> Iterator[str]:
    yield f"  {'':30}{'sentences/s':>12}{'rows a batch':>14}{'padding':>9}   p50 / p95 / p99 ms"
    for done in passes:
        counts = f"{done.rows_per_s:>12,.0f}{done.mean_batch_rows:>14.1f}{done.padding:>9.0%}"
        yield f"  {done.way:30}{counts}   {_ms(done.p50_ms)} / {_ms(done.p95_ms)} / {_ms(done.p99_ms)}"


def _checks(result: DemoResult) -> Iterator[str]:
    yield f"WHAT MUST HOLD: {len(result.checks) - len(result.failures)} of {len(result.checks)}"
    for check in result.checks:
        yield f"  {'ok  ' if check.held else 'FAIL'}  {check.name}: {check.detail}"


def _usd(nanousd: int) -> str:
    """Exact, because it is an integer."""
    return f"${nanousd // 10**9}.{nanousd % 10**9:09}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"
