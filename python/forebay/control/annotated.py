"""Plain Python values to YAML text with comments.

Owns: one notation (a key that begins with `#` is a comment on the key after it) and its text.
Must not know: Envoy. On failure: a value that is no JSON value is a TypeError, a fault of the caller.

Every string is written as JSON writes it, unless it is plainly harmless, so no name of a policy can add structure.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["Script", "text", "typed", "without_comments"]

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_NOT_TEXT = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_WIDTH = 110


class Script(str):
    """A program, written as a block of lines as it stands. Ours alone: no name of a policy is ever one."""

    __slots__ = ()


def typed(message: str, /, **fields: Any) -> dict[str, Any]:
    """Give an `Any` of protobuf: `typed("envoy.config.cluster.v3.Cluster", name="a")`."""
    return {"@type": f"type.googleapis.com/{message}", **fields}


def text(value: dict[str, Any]) -> str:
    """Write a mapping as YAML.

    >>> print(text({"# timeout": "the default is short", "timeout": "1s", "list": [{"a": 1, "b": "x: y"}]}), end="")
    # the default is short
    timeout: "1s"
    list:
    - {a: 1, b: "x: y"}
    """
    return "\n".join(_mapping(value, "")) + "\n"


def without_comments(value: Any) -> Any:
    """Give the same value as YAML readers see it."""
    if isinstance(value, dict):
        return {key: without_comments(item) for key, item in value.items() if not key.startswith("#")}
    if isinstance(value, list):
        return [without_comments(item) for item in value]
    return value


def _mapping(value: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, item in value.items():
        if key.startswith("#"):
            lines += [f"{indent}# {_shown(line)}" for line in str(item).splitlines()]
            continue
        lines += _entry(f"{indent}{_scalar(key)}:", item, indent)
    return lines


def _entry(head: str, item: Any, indent: str) -> list[str]:
    if isinstance(item, Script):
        return [f"{head} |", *(f"{indent}  {line}".rstrip() for line in item.splitlines())]
    short = _flow(item)
    if short is not None and len(head) + 1 + len(short) <= _WIDTH:
        return [f"{head} {short}"]
    if isinstance(item, dict):
        return [head, *_mapping(item, indent + "  ")]
    if isinstance(item, list):
        return [head, *_list(item, indent)]
    return [f"{head} {_scalar(item)}"]


def _list(items: list[Any], indent: str) -> list[str]:
    lines: list[str] = []
    for item in items:
        short = _flow(item)
        if short is not None and (len(indent) + 2 + len(short) <= _WIDTH or not isinstance(item, dict)):
            lines.append(f"{indent}- {short}")
            continue
        if not isinstance(item, dict):
            raise TypeError("a list cannot hold a script, nor a list within it comments")
        body = _mapping(item, indent + "  ")
        first = next(at for at, line in enumerate(body) if not line.lstrip().startswith("#"))
        # Comments on the first key stand above the dash.
        lines += [indent + line[len(indent) + 2 :] for line in body[:first]]
        lines += [f"{indent}- {body[first][len(indent) + 2 :]}", *body[first + 1 :]]
    return lines


def _flow(value: Any) -> str | None:
    """Give a value on one line, or None when it holds comments or a script."""
    if isinstance(value, Script):
        return None
    if isinstance(value, dict):
        if any(key.startswith("#") for key in value):
            return None
        parts = [(key, _flow(item)) for key, item in value.items()]
        if any(item is None for _, item in parts):
            return None
        return "{" + ", ".join(f"{_scalar(key)}: {item}" for key, item in parts) + "}"
    if isinstance(value, list):
        items = [_flow(item) for item in value]
        return None if any(item is None for item in items) else "[" + ", ".join(str(item) for item in items) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.match(value) and value.lower() not in _NOT_TEXT
        return value if plain else f'"{"".join(map(_escaped, value))}"'
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise TypeError(f"`{type(value).__name__}` cannot be written as YAML")


def _escaped(char: str) -> str:
    # JSON's escapes are not enough: YAML has no surrogate pairs.
    if char in '"\\':
        return f"\\{char}"
    if " " <= char <= "~":
        return char
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"


def _shown(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)
