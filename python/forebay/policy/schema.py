"""A YAML tree held against the policy message: every field that does not fit is said, with its path and line.

Owns: names, types, ranges and enum values. Must not know: what the fields mean (that is `forebay._core`'s part).
On failure: closed; with one finding the tree is not converted.
"""

from __future__ import annotations

from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from forebay.policy.finding import Finding
from forebay.policy.yaml_tree import Mapping, Node, Scalar, Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable

    # `Policy.DESCRIPTOR` is the C implementation's class; the typed one only describes it.
    Descriptor = Any

__all__ = ["Reading", "read"]

_MAX_OF = {
    FieldDescriptor.TYPE_UINT32: 2**32 - 1,
    FieldDescriptor.TYPE_UINT64: 2**64 - 1,
}
_NOTHING = object()


class Reading:
    """What a walk over the tree gave: the JSON form, the line of every path, and the findings."""

    def __init__(self) -> None:
        self.json: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.findings: list[Finding] = []


def read(root: Node, descriptor: Descriptor) -> Reading:
    """Hold a tree against a message.

    Returns: the message's proto-JSON form (snake_case names); `lines` holds every path that the file writes,
    such as `models[2].pools[0]`; with findings the JSON is incomplete and must not be used.
    Cost: linear in the tree with its aliases followed.
    """
    walk = _Walk()
    value = walk.message(root, descriptor, "")
    if isinstance(value, dict):
        walk.reading.json = value
    return walk.reading


class _Walk:
    def __init__(self) -> None:
        self.reading = Reading()

    def message(self, node: Node, descriptor: Descriptor, path: str) -> Any:
        if not isinstance(node, Mapping):
            return self._wrong(node, path, f"must be a mapping of the fields of `{descriptor.name}`")
        out: dict[str, Any] = {}
        chosen: dict[str, str] = {}
        for entry in node.entries:
            below = f"{path}.{entry.key}" if path else entry.key
            field = descriptor.fields_by_name.get(entry.key)
            if field is None:
                self._say("unknown_field", below, _no_field(descriptor, entry.key), entry.line, entry.column)
                continue
            self.reading.lines[below] = entry.line
            oneof = field.containing_oneof
            if oneof is not None and chosen.setdefault(oneof.name, entry.key) != entry.key:
                message = f"`{chosen[oneof.name]}` and `{entry.key}` exclude each other; keep one"
                self._say("both_given", below, message, entry.line, entry.column)
                continue
            if isinstance(entry.value, Scalar) and entry.value.value is None:
                self._say("empty_value", below, _empty(field), entry.line, entry.column)
                continue
            value = self._field(entry.value, field, below)
            if value is not _NOTHING:
                out[entry.key] = value
        return out

    def _field(self, node: Node, field: FieldDescriptor, path: str) -> Any:
        if not field.is_repeated:
            return self._single(node, field, path)
        if not isinstance(node, Sequence):
            return self._wrong(node, path, "must be a list, such as `[a, b]` or lines that begin with `- `")
        values = []
        for index, item in enumerate(node.items):
            below = f"{path}[{index}]"
            self.reading.lines[below] = item.line
            value = self._single(item, field, below)
            if value is not _NOTHING:
                values.append(value)
        return values

    def _single(self, node: Node, field: FieldDescriptor, path: str) -> Any:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            return self.message(node, field.message_type, path)
        if field.type == FieldDescriptor.TYPE_ENUM:
            return self._enum(node, field, path)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._bool(node, path)
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._text(node, path)
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return self._number(node, path)
        return self._integer(node, field, path)

    def _bool(self, node: Node, path: str) -> Any:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        return self._wrong(node, path, "must be `true` or `false` (`yes`, `no`, `on` and `off` are text)")

    def _text(self, node: Node, path: str) -> Any:
        if not isinstance(node, Scalar) or node.value is None:
            return self._wrong(node, path, "must be text")
        if not isinstance(node.value, str):
            return self._wrong(node, path, f'must be text; write it in quotes: `"{_shown(node.raw)}"`')
        if not _is_unicode(node.value):
            return self._wrong(node, path, "must be valid Unicode; it holds half of a surrogate pair")
        return node.value

    def _enum(self, node: Node, field: FieldDescriptor, path: str) -> Any:
        known = field.enum_type.values if field.enum_type else []
        values = [value.name for value in known if value.number != 0]
        allowed = ", ".join(f"`{name}`" for name in values)
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            return self._wrong(node, path, f"must be one of {allowed}")
        if node.value not in values:
            message = f"cannot be `{_shown(node.value)}`; one of {allowed}{_nearest(node.value, values)}"
            return self._say("unknown_value", path, message, node.line, node.column)
        return node.value

    def _integer(self, node: Node, field: FieldDescriptor, path: str) -> Any:
        most = _MAX_OF[field.type]
        number = _whole(node)
        if number is None:
            return self._wrong(node, path, f"must be a whole number from 0 to {most}, in digits alone")
        if not 0 <= number <= most:
            message = f"must be a whole number from 0 to {most}, not `{_shown(str(number))}`"
            return self._say("out_of_range", path, message, node.line, node.column)
        return number

    def _number(self, node: Node, path: str) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        # A double holds every whole number up to 2^53.
        exact = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53
        if exact or (isinstance(value, float) and isfinite(value)):
            return value
        return self._wrong(node, path, "must be a number that a double holds")

    def _wrong(self, node: Node, path: str, wanted: str) -> Any:
        return self._say("wrong_type", path, f"{wanted}, not {_kind(node)}", node.line, node.column)

    def _say(self, slug: str, path: str, message: str, line: int, column: int) -> Any:
        self.reading.findings.append(Finding("error", slug, path, message, line, column))
        return _NOTHING


def _whole(node: Node) -> int | None:
    """Give the number of `5`, `"5"` (proto-JSON writes 64-bit numbers so) and `1.5e8`, else None."""
    if not isinstance(node, Scalar) or isinstance(node.value, bool):
        return None
    if isinstance(node.value, int):
        return node.value
    if isinstance(node.value, float):
        return int(node.value) if node.value.is_integer() and abs(node.value) <= 2**53 else None
    text = node.value
    plain = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20
    return int(text) if plain and text == str(int(text or "0")) else None


def _no_field(descriptor: Descriptor, name: str) -> str:
    fields = [field.name for field in descriptor.fields]
    suggestion = _nearest(name, fields)
    listing = "" if suggestion else f"; its fields are {', '.join(f'`{field}`' for field in fields)}"
    return f"`{descriptor.name}` has no field `{_shown(name)}`{suggestion}{listing}"


def _nearest(name: str, choices: Iterable[str]) -> str:
    by_folded = {choice.lower().replace("_", ""): choice for choice in choices}
    folded = name[:80].lower().replace("_", "").replace("-", "")
    found = get_close_matches(folded, list(by_folded), n=1, cutoff=0.6)
    return f"; did you mean `{by_folded[found[0]]}`?" if found else ""


def _empty(field: FieldDescriptor) -> str:
    if field.is_repeated:
        return "has no value; write `[]` for an empty list, or remove the line"
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return "has no value; write `{}` for the defaults, or remove the line"
    return "has no value; give one, or remove the line"


def _kind(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return "nothing"
    kind = {bool: "the boolean", int: "the number", float: "the number"}.get(type(node.value), "the text")
    return f"{kind} `{_shown(node.raw)}`"


def _is_unicode(text: str) -> bool:
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in text)


def _shown(text: str) -> str:
    safe = text.encode("utf-8", "backslashreplace").decode()
    return safe if len(safe) <= 80 else f"{safe[:77]}..."
