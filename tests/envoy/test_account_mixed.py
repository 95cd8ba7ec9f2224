"""Every kind of request at once, with clients that leave and fleets that fail: all books must say the same.

600 requests here; `FOREBAY_ACCOUNT_REQUESTS=5000` runs the issue's number.
"""

from __future__ import annotations

import json
from pathlib import Path

from account_books import bench_size
from account_books import report as write_report
from account_mixed import mixed_site
from forebay.lab import mixed_load_stage as stage
from forebay.lab.demo_sources import parse_metrics
from forebay.lab.mixed_load import read_fleet, read_metrics_text, run, wait_for_quiet
from forebay.lab.mixed_load_books import read_books
from forebay.lab.mixed_load_compare import Books, compare
from forebay.lab.mixed_load_plan import plan

SEED = 11


def test_ledger_upstreams_budgets_and_metrics_agree(tmp_path: Path) -> None:
    requests = bench_size("FOREBAY_ACCOUNT_REQUESTS", 600)
    trials = plan(stage.mix(SEED, requests))
    with mixed_site(tmp_path, SEED) as site:
        views = run(site.url, trials)
        assert wait_for_quiet(site.admin_url), "it never was quiet"
        entries = [entry for fleet in site.fleets for entry in read_fleet(fleet.base_url)]
        text = read_metrics_text(site.admin_url)
        rows, buckets = read_books(site.ledger.directory)
        report = compare(trials, views, Books(entries, rows, buckets, text, stage.WHOLE_BUDGETS))
        write_report("mixed", report.json())
        metrics = parse_metrics(text)
        assert site.gateway.end() == 0
    # A fleet that tells its use so far in every event told more to a connection that its client had left already.
    interim = [text for text in report.examples.get("not_equal", []) if "chunks-chat (aborted)" in text]
    assert set(report.problems) <= {"not_equal"}, json.dumps(report.json(), indent=1)
    assert report.problems.get("not_equal", 0) == len(interim) <= requests / 500, json.dumps(report.json(), indent=1)
    # The load is what it says: nothing of this was left out by chance.
    assert report.exact_requests > requests / 2
    assert report.estimated_requests > requests / 50
    assert {"ok", "hit", "upstream_error", "aborted", "reset"} <= set(report.outcomes)
    for name in ("panics", "usage_invalid", "settled_twice", "settled_foreign"):
        assert sum(value for _, value in metrics[f"forebay_{name}_total"]) == 0, name
    assert "Traceback" not in site.gateway.said()
