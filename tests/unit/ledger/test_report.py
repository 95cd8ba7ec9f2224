"""`forebay ledger` over a real file: sums to the nano-USD, forms, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from forebay.cli import main
from forebay.errors import QueryRefused, StoreMissing
from forebay.ledger import Ingest, Journal
from forebay.ledger.query import DIMENSIONS, parse_time
from forebay.ledger.report import Asked, report
from forebay.store import BudgetPlan, LeaseAsk, SqliteStore

DAY_NS = 86_400 * 10**9
MS = 10**6


@pytest.fixture
def ledger(tmp_path, store, desk):
    """Five requests of two tenants, ingested, with the store still open beside the reader."""
    at = desk.start_s * 10**9
    records = [
        desk.record(
            "a",
            cost_nanousd=12_345_678_901,
            prompt_tokens=100,
            output_tokens=10,
            duration_ns=100 * MS,
            feature="search",
            charges=[("b", "acme", 12_345_678_901)],
        ),
        desk.record(
            "b",
            outcome="aborted",
            cost_nanousd=1,
            usage="ESTIMATED",
            duration_ns=900 * MS,
            first_token_ns=800 * MS,
            queue_ns=30 * MS,
            charges=[("b", "acme", 1)],
        ),
        desk.record("c", outcome="hit", usage="NONE", saved_by_cache_nanousd=500, duration_ns=1 * MS, cost_known=False),
        desk.record(
            "d",
            tenant="globex",
            model="large",
            saved_by_routing_nanousd=7,
            cost_nanousd=50,
            duration_ns=300 * MS,
            unix_ns=at + DAY_NS,
            charges=[("b", "globex", 50)],
        ),
        desk.record("e", tenant="globex", outcome="refused", usage="NONE", cost_known=False, code="budget_exhausted"),
        desk.record("f", tenant="o'brien", model="own", cost_known=False, duration_ns=200 * MS, prompt_tokens=9),
    ]
    records[1].stage_ns.extend([5 * MS, 5 * MS])
    desk.segment(tmp_path, 1, desk.frames(*records))
    store.set_budgets({"b": BudgetPlan("nanousd", 20_000_000_000, (50, 80))})
    store.draw(
        [LeaseAsk(1, "b", "acme", "nanousd", desk.start_s, desk.start_s + 86_400, 20_000_000_000, 15_000_000_000)]
    )
    Ingest(Journal(tmp_path), store).run_once()
    return tmp_path


def asked(ledger, **words):
    return json.loads(report(ledger, Asked(form="json", **words), 0))


def test_sums_by_tenant_are_exact(ledger):
    told = asked(ledger)
    acme, globex, brien = told["groups"]
    assert acme == {
        "tenant": "acme",
        "requests": 3,
        "ok": 2,
        "spend_nanousd": 12_345_678_902,
        "spend_usd": "12.345678902",
        "saved_by_cache_nanousd": 500,
        "saved_by_routing_nanousd": 0,
        "wasted_nanousd": 1,
        "prompt_tokens": 100,
        "cached_prompt_tokens": 0,
        "output_tokens": 10,
        "reasoning_tokens": 0,
        "per_ok_nanousd": 6_172_839_451,
        "estimated_ratio": 0.0,
        "unpriced_requests": 0,
        "p50_ns": 100 * MS,
        "p95_ns": 900 * MS,
    }
    assert (globex["tenant"], globex["requests"], globex["ok"], globex["p95_ns"]) == ("globex", 2, 1, 300 * MS)
    assert (brien["tenant"], brien["unpriced_requests"]) == ("o'brien", 1)
    total = told["total"]
    assert (total["requests"], total["spend_nanousd"], total["saved_by_routing_nanousd"]) == (6, 12_345_678_952, 7)
    assert (total["p50_ns"], total["p95_ns"]) == (200 * MS, 900 * MS)


@pytest.mark.parametrize("name", sorted(DIMENSIONS))
def test_every_dimension_can_be_asked_for(ledger, name):
    told = asked(ledger, by=name)
    assert sum(group["requests"] for group in told["groups"]) == 6
    for kind in ("usage", "p95"):
        value = str(told["groups"][0][name])
        narrowed = asked(ledger, kind=kind, by=name, where=[f"{name}={value}"])
        assert len(narrowed["groups"]) <= 1


def test_requests_are_narrowed_by_time_and_by_value(ledger, desk):
    day = parse_time("2027-01-16", 0)
    assert day == 1_800_057_600 * 10**9
    assert asked(ledger, since="2027-01-16")["total"]["requests"] == 1
    assert asked(ledger, until="2027-01-16T00:00:00Z")["total"]["requests"] == 5
    assert asked(ledger, until="2027-01-16T00:00:00+01:00")["total"]["requests"] == 5
    assert asked(ledger, where=["tenant=o'brien"])["total"]["requests"] == 1
    assert asked(ledger, where=["tenant=acme", "feature="])["total"]["requests"] == 2
    assert asked(ledger, where=["tenant=' OR 1=1 --"])["total"] is None
    assert asked(ledger, where=["status=0", "stream=plain"])["total"]["requests"] == 6


def test_orders_and_limits(ledger):
    assert [group["tenant"] for group in asked(ledger, sort="name")["groups"]] == ["acme", "globex", "o'brien"]
    first = asked(ledger, sort="p95", limit=1)
    assert [group["tenant"] for group in first["groups"]] == ["acme"]
    assert (first["groups_left_out"], first["total"]["requests"]) == (2, 6)
    assert [(group["tenant"], group["model"]) for group in asked(ledger, by="tenant,model")["groups"]] == [
        ("acme", "small"),
        ("globex", "large"),
        ("globex", "small"),
        ("o'brien", "own"),
    ]


def test_the_table_is_aligned_and_exact(ledger):
    lines = report(ledger, Asked(limit=2), 0).splitlines()
    assert re.split(r"  +", lines[0]) == [
        *("tenant", "requests", "ok", "spend", "cache saved", "routing saved", "wasted", "tokens in", "tokens out"),
        *("per ok", "estimated", "p50", "p95"),
    ]
    assert re.split(r"  +", lines[2])[:4] == ["acme", "3", "66.7 %", "$12.345678902"]
    assert re.split(r"  +", lines[3])[:4] == ["globex", "2", "50.0 %", "$0.000000050"]
    assert lines[5].startswith("total (with 1 more)")
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[-1] == "1 of 6 requests were served by models without a known price; they count as free here"


def test_csv_has_a_head_and_one_line_for_each_group(ledger):
    rows = list(csv.DictReader(io.StringIO(report(ledger, Asked(form="csv"), 0))))
    assert [(row["tenant"], row["spend_usd"]) for row in rows][:2] == [
        ("acme", "12.345678902"),
        ("globex", "0.000000050"),
    ]


def test_p95_says_who_and_which_stage(ledger):
    told = asked(ledger, kind="p95")
    assert (told["requests"], told["slow"], told["p95_ns"]) == (5, 1, 900 * MS)
    assert told["groups"] == [
        {
            "model": "small",
            "requests": 3,
            "slow": 1,
            "decide_ns": 10 * MS,
            "queue_ns": 30 * MS,
            "first_token_ns": 760 * MS,
            "generation_ns": 100 * MS,
        }
    ]
    assert [request["duration_ns"] // MS for request in told["slowest"]] == [900, 300, 200, 100, 1]
    table = report(ledger, Asked(kind="p95", limit=2), 0)
    assert table.startswith("p95 is 900 ms: 1 of 5 answered requests took that long or longer\n")
    assert "first token 84.4 %" in table
    assert table.count("2027-01-") == 2


def test_budgets_say_how_they_stand(ledger, store, desk):
    (acme, globex) = asked(ledger, kind="budgets")["budgets"]
    assert acme == {
        "budget": "b",
        "value": "acme",
        "unit": "nanousd",
        "period_start_s": desk.start_s,
        "period_end_s": desk.start_s + 86_400,
        "amount": 20_000_000_000,
        "spent": 12_345_678_902,
        "drawn": 15_000_000_000,
        "stranded": 0,
        "threshold_percent": 50,
        "spent_usd": "12.345678902",
    }
    assert (globex["spent"], globex["drawn"], globex["period_end_s"]) == (50, 50, None)
    store.close()
    SqliteStore(ledger, "two").close()
    assert asked(ledger, kind="budgets")["budgets"][0]["stranded"] == 15_000_000_000 - 12_345_678_902
    assert [row["value"] for row in asked(ledger, kind="budgets", where=["value=globex"])["budgets"]] == ["globex"]
    assert asked(ledger, kind="budgets", since="2030-01-01")["budgets"] == []
    lines = report(ledger, Asked(kind="budgets"), 0).splitlines()
    assert re.split(r"  +", lines[2]) == [
        *("b", "acme", "2027-01-15 08:00", "2027-01-16 08:00", "$20.00", "$12.345678902", "61.7 %", "$15.00000000"),
        *("$2.654321098", "50 %"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"by": "nobody"}, "there is no `nobody` to group or filter by; there are tenant, user"),
        ({"by": "tenant,tenant"}, "names each dimension once"),
        ({"by": "tenant; DROP TABLE record"}, "there is no"),
        ({"where": ["tenant"]}, "write `NAME=VALUE`"),
        ({"where": ["tenant=\udcff"]}, "has characters that no name has"),
        ({"where": ["nobody=1"]}, "there is no `nobody`"),
        ({"since": "yesterday"}, "`yesterday` is no time; write `7d`"),
        ({"since": "2027-01-02", "until": "2027-01-01"}, "is no time"),
        ({"sort": "beauty"}, "there is no order `beauty`; there are spend, requests"),
        ({"limit": -1}, "a limit of -1 is none"),
        ({"kind": "budgets", "where": ["tenant=acme"]}, "budgets are not narrowed by `tenant`"),
    ],
)
def test_what_is_not_understood_is_refused(ledger, words, said):
    with pytest.raises(QueryRefused, match=re.escape(said)):
        report(ledger, Asked(**words), 0)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("90s", 10**18 - 90 * 10**9),
        ("7d", 10**18 - 7 * DAY_NS),
        ("999999999w", 0),
        ("1970-01-01T00:00:01.5", 1_500 * MS),
    ],
)
def test_times(text, ns):
    assert parse_time(text, 10**18) == ns


def test_an_absent_and_an_empty_ledger_are_said_with_status_1(tmp_path, capsys):
    assert main(["ledger", str(tmp_path / "none")]) == 1
    assert "error[store_missing]: there is no ledger in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    store = SqliteStore(tmp_path, "one")
    assert main(["ledger", str(tmp_path), "--budgets"]) == 1
    assert "holds no request yet" in capsys.readouterr().err
    store.close()
    (tmp_path / "ledger.sqlite3").write_bytes(b"")
    with pytest.raises(StoreMissing):
        report(tmp_path, Asked(), 0)


def test_the_command_prints(ledger, capsys):
    assert main(["ledger", str(ledger), "--by", "day", "--where", "tenant=globex", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("2027-01-16,1,1,50,0.000000050,")
    assert main(["ledger", str(ledger), "--p95"]) == 0
    assert "the slowest" in capsys.readouterr().out
    assert main(["ledger", str(ledger), "--where", "tenant=nobody"]) == 0
    assert capsys.readouterr().out == "no request fits\n"
    with pytest.raises(SystemExit):
        main(["ledger", str(ledger), "--p95", "--budgets"])


def test_a_folder_may_have_any_name(tmp_path):
    for name in ("a b?c#d%20", "ä&mode=rw", "\udcff"):
        SqliteStore(tmp_path / name, "one").close()
        with pytest.raises(StoreMissing, match="holds no request yet"):
            report(tmp_path / name, Asked(), 0)


def test_a_ledger_in_a_folder_that_may_not_be_written_is_read(ledger, store):
    store.close()
    ledger.chmod(0o500)
    try:
        assert asked(ledger)["total"]["requests"] == 6
    finally:
        ledger.chmod(0o700)
