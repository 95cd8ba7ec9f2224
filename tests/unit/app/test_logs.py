"""Log lines: their form, their fields, and what never gets into them."""

import dataclasses
import io
import json
import logging

import pytest

from forebay.app.logs import FIELDS, JsonFormatter, TextFormatter, configure, default_form
from forebay.ledger.events import log_threshold
from forebay.store import ThresholdEvent


@pytest.fixture
def lines():
    """A logger of its own, and what it wrote in each form."""
    streams = {"json": io.StringIO(), "text": io.StringIO()}
    log = logging.getLogger("forebay.test")
    log.propagate = False
    log.setLevel(logging.DEBUG)
    for form, formatter in (("json", JsonFormatter()), ("text", TextFormatter())):
        handler = logging.StreamHandler(streams[form])
        handler.setFormatter(formatter)
        log.addHandler(handler)
    yield log, streams
    log.handlers.clear()


def as_json(streams):
    return [json.loads(line) for line in streams["json"].getvalue().splitlines()]


def test_a_line_is_an_object_with_time_level_logger_and_message(lines):
    log, streams = lines
    log.warning("policy `%s`\nis refused", "ä")
    (line,) = as_json(streams)
    assert line.pop("time")[10] == "T"
    assert line == {"level": "warning", "logger": "forebay.test", "message": "policy `ä`\nis refused"}


def test_time_is_utc_in_milliseconds():
    record = logging.LogRecord("a", logging.INFO, "", 0, "m", None, None)
    record.created = 1_700_000_000.25
    assert json.loads(JsonFormatter().format(record))["time"] == "2023-11-14T22:13:20.250Z"


def test_only_listed_fields_are_written(lines):
    log, streams = lines
    log.info("m", extra={"slug": "telemetry_failed", "failures": 3, "prompt": "the secret plan", "body": "x"})
    (line,) = as_json(streams)
    assert (line["slug"], line["failures"]) == ("telemetry_failed", 3)
    assert "prompt" not in line
    assert "secret plan" not in streams["json"].getvalue() + streams["text"].getvalue()
    assert streams["text"].getvalue().endswith(" m slug=telemetry_failed failures=3\n")


def test_no_listed_field_is_an_attribute_of_every_record():
    assert not set(FIELDS) & set(vars(logging.makeLogRecord({})))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("key fbk_AbCdEfGhIjKl_mn-op failed", "key [redacted] failed"),
        ("authorization: Bearer abc.def-123456", "authorization: Bearer [redacted]"),
        ("sk-proj-0123456789abcdef", "[redacted]"),
        ("http://user:pass@host/x", "http://[redacted]@host/x"),
        ("sk-1, http://host:4317, a bearer of news", "sk-1, http://host:4317, a bearer of news"),
    ],
)
def test_credentials_are_blacked_out(lines, text, left):
    log, streams = lines
    log.error("%s", text, extra={"slug": text})
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    for line in as_json(streams):
        assert all(left in line[name] for name in ("slug", "exception") if name in line)
    assert as_json(streams)[0]["message"] == left
    if text != left:
        assert text not in streams["text"].getvalue()


def test_an_exception_is_text_in_the_line(lines):
    log, streams = lines
    try:
        raise ValueError("a bad value")
    except ValueError:
        log.exception("stage failed")
    (line,) = as_json(streams)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: a bad value")
    assert "ValueError: a bad value" in streams["text"].getvalue()


def test_a_line_is_bounded(lines):
    log, streams = lines
    log.info("x" * 100_000)
    assert len(streams["json"].getvalue()) < 9_000
    assert as_json(streams)[0]["message"].endswith("... (cut)")


def test_a_budget_s_threshold_has_its_fields(lines):
    log, streams = lines
    passed = ThresholdEvent("team", "acme/bob", 1_700_000_000, 80, spent=81, amount=100)
    log_threshold(log, passed)
    log_threshold(log, dataclasses.replace(passed, percent=100))
    first, second = as_json(streams)
    assert first.pop("time")
    assert first == {
        "level": "info",
        "logger": "forebay.test",
        "message": "budget `team` of `acme/bob` has spent 81 of 100 (80 %)",
        "slug": "budget_threshold",
        "budget": "team",
        "value": "acme/bob",
        "percent": 80,
        "spent": 81,
        "amount": 100,
        "period_start": "2023-11-14T22:13:20Z",
    }
    assert second["level"] == "warning"


def test_a_terminal_gets_text_and_a_pipe_json():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert default_form(Terminal()) == "text"
    assert default_form(io.StringIO()) == "json"


def test_configure_logs_there_and_nowhere_else():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    # `force` closes what it replaces, and pytest still needs its own.
    root.handlers.clear()
    stream = io.StringIO()
    try:
        configure("json", stream)
        logging.getLogger("forebay").info("served")
        logging.getLogger("forebay").debug("not said")
        assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["served"]
    finally:
        root.handlers[:] = before
        root.setLevel(level)
