"""The whole comparison over real books: fleets, the store's SQLite file, an admin port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forebay.lab.fleet import Fleet, fleet_in_thread
from forebay.lab.fleet_spec import Accounting, FleetSpec, Latency, LogNormal
from forebay.lab.mixed_load import main, read_fleet, run, wait_for_quiet
from forebay.lab.mixed_load_books import read_books
from forebay.lab.mixed_load_compare import Books, compare
from forebay.lab.mixed_load_plan import CHAT, LoadKey, MixSpec, Trial, plan
from forebay.ledger._pb.ledger_pb2 import BudgetCharge, LedgerRecord
from forebay.ledger.rows import row
from forebay.store import BudgetPlan, JournalPosition, SqliteStore

KEY = LoadKey("app", "secret", "acme")
SPEC = FleetSpec(models=("m",), latency=Latency(output_tokens=LogNormal(20.0), time_scale=0.0))


def trials(requests: int) -> tuple[Trial, ...]:
    # The same as the command makes of `--key app=secret@acme --model chat=m --seed 1`.
    return plan(MixSpec((KEY,), {CHAT: ("m",)}, requests=requests, shares={CHAT: 0.45}))


def write_books(directory: Path, entries: list[dict[str, Any]]) -> None:
    """What a gateway without a fault would write about what the fleets served."""
    store = SqliteStore(directory, "test")
    store.set_budgets({"money": BudgetPlan("nanousd", 10**12), "tokens": BudgetPlan("tokens", 10**12)})
    records = [record_of(number, entry) for number, entry in enumerate(entries, 1)]
    store.write([row(record) for record in records], JournalPosition(1, 1))
    store.close()


def record_of(number: int, entry: dict[str, Any]) -> LedgerRecord:
    tokens = entry["prompt_tokens"] + entry["output_tokens"]
    exact = entry["outcome"] == "ok" and entry["usage_told"]
    return LedgerRecord(
        id=number.to_bytes(16, "big"),
        unix_ns=time.time_ns(),
        tenant="acme",
        eval=entry["trial"],
        outcome=entry["outcome"],
        usage=LedgerRecord.EXACT if exact else LedgerRecord.ESTIMATED,
        prompt_tokens=entry["prompt_tokens"],
        output_tokens=entry["output_tokens"],
        cost_known=True,
        cost_nanousd=7 * tokens,
        charges=[
            BudgetCharge(budget="money", value="acme", period_start_s=3600, amount=7 * tokens),
            BudgetCharge(budget="tokens", value="acme/app", period_start_s=3600, amount=tokens),
        ],
    )


@contextmanager
def admin_port(metrics: Callable[[], str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = metrics().encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with fleet_in_thread(SPEC) as running:
        yield running


def settle(fleet: Fleet) -> None:
    while fleet.stats.in_flight:
        threading.Event().wait(0.001)


def test_books_in_a_real_store_agree_with_a_fleets(tmp_path: Path, fleet: Fleet) -> None:
    sent = trials(120)
    views = run(fleet.base_url, sent, clients=8)
    settle(fleet)
    entries = read_fleet(fleet.base_url)
    write_books(tmp_path, entries)
    rows, buckets = read_books(tmp_path)
    assert {bucket["budget"]: bucket["unit"] for bucket in buckets} == {"money": "nanousd", "tokens": "tokens"}
    assert rows[0]["charges"][0]["value"] == "acme"
    assert len(rows[0]["id"]) == 32
    report = compare(sent, views, Books(entries, rows, buckets, "", ("money", "tokens")))
    # No gateway stands between, so nobody numbered the answers.
    assert set(report.problems) == {"no_request_id"}
    assert report.exact_requests > 60
    assert report.sums["budgets"]["tokens"] == report.sums["ledger"]["tokens"] > 0


def test_the_command_sends_waits_compares_and_says_whether_the_bar_is_met(
    tmp_path: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    held = iter(["forebay_open_reservations 2", "forebay_open_reservations 0\nforebay_ledger_lag_bytes 9"])

    def metrics() -> str:
        text = next(held, None)
        if text is not None:
            return text
        if not (tmp_path / "ledger.sqlite3").exists():
            settle(fleet)
            write_books(tmp_path, fleet.ledger.json())
        return "forebay_open_reservations 0\nforebay_ledger_lag_bytes 0"

    with ExitStack() as stack:
        admin = stack.enter_context(admin_port(metrics))
        options = ["--url", fleet.base_url, "--admin", admin, "--ledger", str(tmp_path), "--fleet", fleet.base_url]
        options += ["--key", "app=secret@acme", "--model", "chat=m", "--requests", "40", "--clients", "4"]
        assert main(options) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["requests"] == 40
    assert set(report["problems"]) == {"no_request_id", "metrics_off"}
    assert [trial.id for trial in trials(40)] == [entry.trial for entry in sorted(fleet.ledger.entries(), key=_trial)]


def _trial(entry: Any) -> str:
    return str(entry.trial)


def test_a_gateway_that_stays_busy_is_not_waited_for_forever() -> None:
    with admin_port(lambda: "forebay_open_reservations 1") as admin:
        assert not wait_for_quiet(admin, 0.0)


def test_an_estimate_may_be_off_by_five_percent_in_sum_and_no_more(fleet: Fleet) -> None:
    silent = FleetSpec(models=("m",), latency=SPEC.latency, accounting=Accounting("never"))
    with fleet_in_thread(silent) as quiet:
        sent = plan(MixSpec((KEY,), {CHAT: ("m",)}, requests=60, abort_ratio=0.0, shares={CHAT: 1.0}))
        views = run(quiet.base_url, sent, clients=8)
        entries = read_fleet(quiet.base_url)
    for factor, kinds in ((1.04, {"no_request_id"}), (1.08, {"no_request_id", "estimate_off"})):
        rows = [
            {
                "id": str(number),
                "eval": entry["trial"],
                "tenant": "acme",
                "outcome": "ok",
                "usage": "ESTIMATED",
                "prompt_tokens": round(entry["prompt_tokens"] * factor),
                "output_tokens": round(entry["output_tokens"] * factor),
                "cost_nanousd": 0,
            }
            for number, entry in enumerate(entries)
        ]
        report = compare(sent, views, Books(entries, rows))
        assert set(report.problems) == kinds, report.json()
        assert report.estimate_error_ratio == pytest.approx(factor - 1, abs=0.01)
