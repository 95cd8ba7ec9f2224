"""The dashboard and the alert rules: they parse, name only what the code exports, and say what to do."""

import json
import logging
import re
import shlex
from datetime import datetime, timezone
from pathlib import Path

import promql_parser
import pytest
import yaml

from forebay._core import BatchQueue
from forebay.app.logs import JsonFormatter
from forebay.cli import parser
from forebay.ledger import semconv
from forebay.ledger.events import log_threshold
from forebay.store import ThresholdEvent

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "observability"
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
GROUPS = yaml.safe_load((FOLDER / "prometheus-rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

# Not ours: Prometheus makes it for every target.
PROMETHEUS = {"up"}
# Of each metric; every target has `job` and `instance` beside them. A metric that is not here has none.
LABELS = {
    "forebay_requests_total": {"route", "model", "outcome", "cache"},
    "forebay_stage_ns_total": {"stage"},
    "forebay_stage_runs_total": {"stage"},
    "forebay_settled_total": {"model", "outcome", "usage"},
    "forebay_tokens_total": {"tenant", "model", "kind"},
    "forebay_cost_nanousd_total": {"tenant", "model"},
    "forebay_cost_unknown_total": {"model"},
    "forebay_wasted_nanousd_total": {"model", "outcome"},
    "forebay_request_duration_seconds": {"route", "model"},
    "forebay_time_to_first_token_seconds": {"model"},
    "forebay_time_to_first_byte_seconds": {"model"},
    "forebay_slo_requests_total": {"route", "result"},
    "forebay_budget_spent_ratio": {"budget"},
    "forebay_budget_threshold_total": {"budget", "percent"},
    "forebay_batch_batches_total": {"pool", "model"},
    "forebay_batch_bisected_total": {"pool", "model"},
    "forebay_batch_call_ns": {"pool", "model"},
    "forebay_batch_followed_requests_total": {"pool", "model"},
    "forebay_batch_in_flight": {"pool", "model"},
    "forebay_batch_lead_ns": {"pool", "model"},
    "forebay_batch_oldest_age_seconds": {"pool", "model"},
    "forebay_batch_padded_tokens_total": {"pool", "model"},
    "forebay_batch_queue_rows": {"pool", "model", "priority"},
    "forebay_batch_queue_tokens": {"pool", "model", "priority"},
    "forebay_batch_queue_wait_seconds": {"pool", "model", "priority"},
    "forebay_batch_recalled_requests_total": {"pool", "model"},
    "forebay_batch_rejected_requests_total": {"pool", "model", "reason"},
    "forebay_batch_requests_total": {"pool", "model", "priority"},
    "forebay_batch_rows_total": {"pool", "model"},
    "forebay_batch_size_rows": {"pool", "model"},
    "forebay_batch_slots": {"pool", "model"},
    "forebay_batch_token_ns": {"pool", "model"},
    "forebay_batch_tokens_total": {"pool", "model"},
    "forebay_endpoint_ready": {"pool", "endpoint"},
    "forebay_endpoint_tokens": {"pool", "endpoint"},
    "forebay_model_mismatch": {"pool", "model"},
    "forebay_queue_max_rows": {"pool"},
    "forebay_queue_max_tokens": {"pool"},
    "forebay_sender_failures_total": {"code"},
    "forebay_triton_compute_ns_total": {"endpoint", "model"},
    "forebay_triton_queue_ns_total": {"endpoint", "model"},
    "forebay_triton_requests_total": {"endpoint", "model"},
    "forebay_pool_requests": {"pool"},
    "forebay_pool_routable": {"pool"},
    "forebay_pool_healthy": {"pool"},
    "forebay_slo_errors": {"route"},
    "forebay_slo_first_token": {"model"},
    "forebay_slo_duration": {"route"},
}
SEVERITIES = {"critical", "warning", "info"}


def panel_expressions():
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$__range", "6h"))
        for panel in PANELS
        for target in panel["targets"]
    ]


def all_expressions():
    rules = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES]
    return [*rules, *panel_expressions(), *((a["name"], a["expr"]) for a in DASHBOARD["annotations"]["list"])]


def selectors(expression):
    """Every (metric, labels with their matchers' values) of an expression, and every label it groups by."""
    found, grouped = [], set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {m.name: m.value for m in node.matchers.matchers}))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found, grouped


def exported():
    """Names that stand as literals in the code that writes Prometheus text; histograms under their three names."""
    places = [*(ROOT / "rust/core/src").rglob("*.rs"), *(ROOT / "rust/serve/src").rglob("*.rs")]
    # The lab only reads them.
    places += (path for path in (ROOT / "python/forebay").rglob("*.py") if "lab" not in path.parts)
    literal = re.compile(r"(?:[\"']|# TYPE )(forebay_[a-z_]+)[\"'{ ]")
    names = {name for path in places for name in literal.findall(path.read_text())}
    histograms = {name for name in names if name.endswith("_seconds")}
    # The batch queue puts its names together; its head lines come without any traffic.
    heads = re.findall(r"^# TYPE (\w+) (\w+)$", BatchQueue().metrics_text(), re.MULTILINE)
    names |= {name for name, _ in heads}
    histograms = (histograms - {name for name, _ in heads}) | {name for name, kind in heads if kind == "histogram"}
    return (names - histograms) | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def labels_of(metric):
    """What a series of this metric carries; a histogram's buckets have their bound besides."""
    family, bucket, _ = metric.split(":")[0].partition("_bucket")
    family = re.sub("_(sum|count)$", "", family)
    return LABELS.get(family, set()) | {"job", "instance"} | ({"le"} if bucket else set())


@pytest.mark.parametrize(("where", "expression"), all_expressions())
def test_every_expression_parses_and_uses_labels_that_are_there(where, expression):
    found, grouped = selectors(expression)
    assert found, where
    for metric, matchers in found:
        assert set(matchers) <= labels_of(metric), (where, metric)
    assert grouped <= set().union(*(labels_of(metric) for metric, _ in found)), where


def test_every_metric_that_is_used_is_exported():
    """A name that is missing here is one that nothing in the code exports: an alert that can never fire."""
    used = {name for _, expression in all_expressions() for name, _ in selectors(expression)[0]}
    assert sorted(used - exported() - RECORDED - PROMETHEUS) == []


def test_every_bound_of_a_histogram_is_one_that_is_counted():
    bounds = {
        float(matchers["le"])
        for _, expression in all_expressions()
        for name, matchers in selectors(expression)[0]
        if name.endswith("_bucket") and "le" in matchers
    }
    assert bounds
    core = ROOT / "rust/core/src"
    text = "".join(path.read_text() for path in [core / "metrics.rs", *(core / "metrics").glob("*.rs")])
    literals = {int(number.replace("_", "")) for number in re.findall(r"\b\d[\d_]*\b", text)}
    # They are written down in milliseconds, or those of deciding in nanoseconds.
    assert {bound for bound in bounds if not {bound * 1e3, bound * 1e9} & literals} == set()


def test_every_alert_says_what_it_is_how_bad_and_what_to_do():
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert rule["alert"].startswith("Forebay")
        assert rule["labels"]["severity"] in SEVERITIES, rule["alert"]
        assert 20 < len(rule["annotations"]["summary"]) < 120, rule["alert"]
        assert len(rule["annotations"]["description"]) > 80, rule["alert"]


def test_every_command_that_an_alert_names_is_one():
    texts = [rule["annotations"]["description"] for rule in ALERTS]
    commands = {command for text in texts for command in re.findall(r"`forebay ([a-z-]+ [^`]+)`", text)}
    assert {command.split()[0] for command in commands} == {"ledger", "check", "envoy-config"}
    for command in commands:
        parser().parse_args(shlex.split(command))


def test_a_label_that_an_alert_names_is_one_that_its_expression_has():
    """`{{ $labels.route }}` of a sum without `route` would print nothing."""
    for rule in ALERTS:
        found, grouped = selectors(rule["expr"])
        own = grouped or set.intersection(*(labels_of(metric) for metric, _ in found))
        text = rule["annotations"]["summary"] + rule["annotations"]["description"]
        for label in re.findall(r"\$labels\.(\w+)", text):
            assert label in own, (rule["alert"], label)


def test_burn_rates_look_at_a_long_and_a_short_window():
    for rule in (rule for rule in ALERTS if "Burn" in rule["alert"]):
        names = [name for name, _ in selectors(rule["expr"])[0]]
        assert set(names) <= RECORDED
        long, short = (promql_parser.parse_duration(name.split(":burn")[1]) for name in names)
        assert long >= 6 * short
        limits = re.findall(r"> ([\d.]+)", rule["expr"])
        assert limits[0] == limits[1]


def test_panels_have_ids_units_descriptions_and_room():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


def test_every_variable_of_the_dashboard_is_used_and_made():
    made = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    text = json.dumps([panel["targets"] for panel in PANELS]) + json.dumps(DASHBOARD["templating"])
    used = set(re.findall(r"\$\{?([a-z]\w*)", text.replace("$__", "")))
    assert used == made


def test_the_readme_names_each_file_and_each_opentelemetry_metric():
    readme = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme
    metrics = {value for name, value in vars(semconv).items() if name.startswith("METRIC_")}
    assert metrics == set(re.findall(r"^\| `((?:gen_ai|forebay)\.[a-z_.]+)` \|", readme, re.MULTILINE))


def test_the_log_line_of_the_readme_is_one_that_is_written():
    (shown,) = re.findall(r"^(\{\"time\".*\})$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    written = []
    log = logging.getLogger("forebay.ledger.ingest")
    handler = logging.StreamHandler()
    handler.emit = lambda record: written.append(JsonFormatter().format(record))
    log.addHandler(handler)
    start_s = int(datetime(2026, 11, 1, tzinfo=timezone.utc).timestamp())
    log_threshold(log, ThresholdEvent("team", "acme/bob", start_s, 100, 25_000_000_000, 25_000_000_000))
    log.removeHandler(handler)
    (line,) = written
    assert {**json.loads(line), "time": ""} == {**json.loads(shown), "time": ""}


def test_opentelemetry_names_stand_in_one_file():
    code = {path.name: path.read_text() for path in (ROOT / "python/forebay").rglob("*.py")}
    assert [name for name, text in code.items() if re.search(r"[\"']gen_ai\.", text)] == ["semconv.py"]
