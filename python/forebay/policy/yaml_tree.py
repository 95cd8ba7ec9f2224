"""YAML text to a tree of nodes that know their line and column.

Owns: which YAML is accepted: one document, the core schema of YAML 1.2, text keys, no duplicates, bounded size.
Must not know: the policy's fields. On failure: closed, with a finding; nothing is guessed.

PyYAML gives the events; its own resolver is not used, because YAML 1.1 turns `on`, `off`, `yes`, `no` into booleans,
`1:30` into 90 and `012` into 10. Here only `true` and `false` are booleans, `OFF` is the text that the enum needs, and
a number with a leading zero or `_` stays text, so that a field which wants a number refuses it by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from forebay.policy.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_DEPTH", "MAX_NODES", "Entry", "Mapping", "Node", "Scalar", "Sequence", "YamlRefused", "parse"]

# The deepest policy field lies at 7; a hostile file must not reach Python's recursion limit.
MAX_DEPTH = 64
# Nodes after aliases are followed: 1,000,000 is about 60,000 keys. It bounds an expansion of aliases of aliases.
MAX_NODES = 1_000_000

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_CORE = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf. `value` is text, bool, int, float or None; `raw` is what stood in the file."""

    value: str | bool | int | float | None
    raw: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value` of a mapping, with the key's own place."""

    key: str
    line: int
    column: int
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping in file order; its keys are unique."""

    entries: list[Entry]
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list in file order."""

    items: list[Node]
    line: int
    column: int


Node = Scalar | Mapping | Sequence


class YamlRefused(Exception):
    """The text is not YAML that forebay accepts; `findings` says why."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        super().__init__("; ".join(finding.message for finding in findings))


@dataclass(slots=True)
class _Open:
    """A collection that is being read; `key` is set while a mapping waits for the value of that key."""

    node: Mapping | Sequence
    anchor: str | None
    size: int = 1
    key: Scalar | None = None
    seen: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Node:
    """Read one YAML document into a tree.

    Returns: the root. An alias gives the very node of its anchor, so lines point at the anchor's text.
    Raises: YamlRefused with every duplicate key, or with the first error of syntax.
    Cost: linear in the text; iterative, so that no nesting reaches the recursion limit.
    """
    builder = _Builder()
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part) or "not YAML"
        raise YamlRefused([*builder.findings, _syntax(said, mark)]) from error
    except yaml.reader.ReaderError as error:
        message = f"not YAML text: {error.reason} at byte {error.position}"
        raise YamlRefused([_error("yaml_syntax", message, 1, 1)]) from error
    except (UnicodeError, ValueError, RecursionError) as error:
        raise YamlRefused([_error("yaml_syntax", f"not YAML text: {error}", 1, 1)]) from error
    if builder.findings:
        raise YamlRefused(builder.findings)
    if builder.root is None:
        raise YamlRefused([_error("empty_file", "the file holds no document; write at least `name: my-policy`", 1, 1)])
    return builder.root


def _events(text: str) -> Iterator[Any]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


class _Builder:
    """Builds the tree from events. A fatal finding stops it; duplicate keys are collected."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.findings: list[Finding] = []
        self._stack: list[_Open] = []
        # Anchor to its finished node and how many nodes it expands to.
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._nodes = 0
        self._documents = 0

    def take(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse("many_documents", "a policy is one document; remove the second `---`", line, column)
        elif isinstance(event, yaml.ScalarEvent):
            self._anchored(event.anchor, self._scalar(event, line, column), 1)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", line, column)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._open(event, line, column)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = self._stack.pop()
            self._anchored(done.anchor, done.node, done.size)

    def _open(self, event: Any, line: int, column: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._refuse("too_deep", f"nested deeper than {MAX_DEPTH} levels", line, column)
        if self._waits_for_key():
            self._refuse("key_not_text", "a key must be text, not a list or a mapping", line, column)
        mapping = isinstance(event, yaml.MappingStartEvent)
        expected = f"{_CORE}map" if mapping else f"{_CORE}seq"
        if event.tag not in (None, "!", expected):
            self._refuse("tag_refused", f"the tag `{_shown(event.tag)}` is not accepted; remove it", line, column)
        node: Mapping | Sequence = Mapping([], line, column) if mapping else Sequence([], line, column)
        self._stack.append(_Open(node, event.anchor))

    def _alias(self, anchor: str, line: int, column: int) -> None:
        found = self._anchors.get(anchor)
        if found is None:
            message = f"the alias `*{_shown(anchor)}` names no anchor that is complete before it"
            self._refuse("alias_unknown", message, line, column)
        node, size = found
        if self._waits_for_key():
            self._refuse("key_not_text", "a key must be written out, not an alias", line, column)
        self._place(node, size)

    def _anchored(self, anchor: str | None, node: Node, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        self._place(node, size)

    def _place(self, node: Node, size: int) -> None:
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        top.size += size
        if top.size > MAX_NODES:
            self._refuse("too_large", f"aliases expand to more than {MAX_NODES} values", node.line, node.column)
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
        elif top.key is None:
            self._take_key(top, node)
        else:
            self._take_value(top, top.key, node)

    def _take_key(self, top: _Open, node: Node) -> None:
        if not isinstance(node, Scalar):
            self._refuse("key_not_text", "a key must be text, not a list or a mapping", node.line, node.column)
        if node.raw == "<<":
            message = "the merge key `<<` is not accepted; write the fields out"
            self._refuse("merge_refused", message, node.line, node.column)
        top.key = node

    def _take_value(self, top: _Open, key: Scalar, node: Node) -> None:
        top.key = None
        first = top.seen.setdefault(key.raw, key.line)
        entries = top.node.entries if isinstance(top.node, Mapping) else []
        if len(top.seen) == len(entries):
            message = f"`{_shown(key.raw)}` is given twice in one mapping, first on line {first}; keep one"
            self.findings.append(_error("duplicate_key", message, key.line, key.column))
            return
        entries.append(Entry(key.raw, key.line, key.column, node))

    def _waits_for_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].node, Mapping) and self._stack[-1].key is None

    def _scalar(self, event: Any, line: int, column: int) -> Scalar:
        tag, raw = event.tag, event.value
        if tag in (None, "!"):
            plain = event.implicit[0] and tag is None
            return Scalar(_resolve(raw) if plain else raw, raw, line, column)
        if tag == f"{_CORE}str":
            return Scalar(raw, raw, line, column)
        if tag not in (f"{_CORE}int", f"{_CORE}float", f"{_CORE}bool", f"{_CORE}null"):
            self._refuse("tag_refused", f"the tag `{_shown(tag)}` is not accepted; remove it", line, column)
        return Scalar(_resolve(raw), raw, line, column)

    def _refuse(self, slug: str, message: str, line: int, column: int) -> NoReturn:
        raise YamlRefused([*self.findings, _error(slug, message, line, column)])


def _resolve(raw: str) -> str | bool | int | float | None:
    """Give a plain scalar its value by YAML 1.2's core schema, less what people write by mistake (see the head)."""
    if raw in ("", "~", "null", "Null", "NULL"):
        return None
    if raw in ("true", "True", "TRUE"):
        return True
    if raw in ("false", "False", "FALSE"):
        return False
    # 400 digits are far above any field; Python refuses to convert thousands of them.
    if len(raw) <= 400:
        if _INTEGER.match(raw):
            return int(raw)
        if _FLOAT.match(raw) and not re.match(r"[-+]?0[0-9]", raw):
            return float(raw)
    return raw


def _syntax(said: str, mark: Any) -> Finding:
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    hint = "; indent with spaces, not tabs" if "\\t" in said else ""
    return _error("yaml_syntax", f"{said}{hint}", line, column)


def _error(slug: str, message: str, line: int, column: int) -> Finding:
    return Finding("error", slug, "", message, line, column)


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
