"""Log lines of `forebay serve` on standard error: JSON for machines, text for terminals.

Owns: the form of a line, which extra fields may be in it, and what is blacked out. Must not know: who logs, or why.
On failure: a record that cannot be written is left to `logging`, which says so once; nothing stops for a log line.

No line holds text of a request or an answer: nothing here is given any, extra fields are written only if they are
listed below, and a message or an exception is cut at a bound. What looks like a credential is blacked out, in case an
error of a library quotes one.

    {"time":"2026-11-21T10:00:00.123Z","level":"warning","logger":"forebay.app","message":"...","slug":"..."}
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FIELDS", "Form", "JsonFormatter", "TextFormatter", "configure", "default_form"]

Form = Literal["json", "text"]

FIELDS = (
    "slug",
    "request_id",
    "trace_id",
    "span_id",
    "tenant",
    "key",
    "model",
    "pool",
    "route",
    "revision",
    "budget",
    "value",
    "percent",
    "spent",
    "amount",
    "unit",
    "period_start",
    "failures",
    "count",
    "segment",
    "offset",
)
"""What `extra` may add to a line. `key` is a key's id, never the key."""

_MAX_TEXT = 8_192
_CUT = "... (cut)"
_BLACK = "[redacted]"
# Keys of this project, of the usual providers, and whatever stands behind an authorization scheme or in a URL.
_CREDENTIAL = re.compile(
    r"\bfbk_[\w-]{8,}"
    r"|\bsk-[\w-]{8,}"
    r"|(?i:(?<=bearer )[\w.~+/=-]{8,})"
    r"|(?i:(?<=basic )[\w+/=]{8,})"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC, ms), `level`, `logger`, `message`, listed fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line, without its end."""
        line: dict[str, object] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        line.update(_fields(record))
        if exception := self._exception(record):
            line["exception"] = exception
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))

    def _exception(self, record: logging.LogRecord) -> str:
        if record.exc_info and record.exc_info[0] is not None:
            return _clean(self.formatException(record.exc_info))
        return _clean(record.exc_text) if record.exc_text else ""


class TextFormatter(logging.Formatter):
    """The same for a person: local time, level, logger, message, `name=value`, and the exception below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Give the lines, without the last one's end."""
        return _clean(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Add the listed fields to the first line."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


def configure(form: Form, stream: TextIO | None = None) -> None:
    """Log in this form to `stream`, by default standard error, from `info` on, and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def default_form(stream: TextIO | None = None) -> Form:
    """Text for a terminal, JSON for anything else."""
    return "text" if (stream or sys.stderr).isatty() else "json"


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    given = ((name, getattr(record, name, None)) for name in FIELDS)
    return {name: _plain(value) for name, value in given if value is not None}


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float) else _clean(str(value))


def _clean(text: str) -> str:
    cut = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + _CUT
    return _CREDENTIAL.sub(_BLACK, cut)


def _time(unix_s: float) -> str:
    moment = datetime.fromtimestamp(unix_s, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
