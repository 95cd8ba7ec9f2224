"""Single fields of a policy set from outside the file: `--set envoy.listen_address=127.0.0.1:0`.

Owns: the notation `path=value` and its types. Must not know: which fields make sense to set.
On failure: closed, PolicyError with one finding for each setting that does not fit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict, ParseDict

from forebay.errors import PolicyError
from forebay.policy._pb.policy_pb2 import Policy
from forebay.policy.finding import Finding
from forebay.policy.load import LoadedPolicy
from forebay.policy.schema import read
from forebay.policy.yaml_tree import Entry, Mapping, Node, Scalar, Sequence, YamlRefused, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["override"]

_STEP = re.compile(r"([a-z0-9_]+)((?:\[[0-9]{1,6}\])*)\Z")


def override(policy: LoadedPolicy, settings: Iterable[str]) -> LoadedPolicy:
    """Set fields of a loaded policy; the lines of everything else stay.

    >>> from forebay.policy.load import load_text
    >>> override(load_text("name: a"), ["gateway.workers=4"]).message().gateway.workers
    4

    Shape: a setting is `path=value`; the path is as findings write it (`pools[0].endpoints[0].address`), and the value
    is YAML (`4`, `text`, `[a, b]`). An element of a list can be set only when it is there.
    Raises: PolicyError with every setting that does not fit.
    """
    # As it is written: a setting may name another price, and packaged prices must not look as if the file gave them.
    written = Policy.FromString(policy.written_bytes)
    tree: dict[str, Any] = MessageToDict(written, preserving_proto_field_name=True)
    findings: list[Finding] = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        try:
            if not equals:
                raise _Refused("write `path=value`")
            _set(tree, _steps(path), _value(text))
        except _Refused as error:
            findings.append(Finding("error", "bad_setting", path, str(error)))
    reading = read(_node(tree), Policy.DESCRIPTOR)
    findings += [Finding("error", found.slug, found.path, found.message) for found in reading.findings]
    if findings:
        raise PolicyError("--set", findings)
    return LoadedPolicy.of(ParseDict(reading.json, Policy()), policy.lines, policy.source)


class _Refused(Exception):
    """Why one setting does not fit."""


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    for part in path.split("."):
        match = _STEP.match(part)
        if match is None:
            raise _Refused(f"`{path}` is no path of a field, such as `gateway.workers`")
        steps.append(match[1])
        steps += [int(index) for index in re.findall(r"[0-9]+", match[2])]
    return steps


def _set(tree: Any, steps: list[str | int], value: Any) -> None:
    for at, step in enumerate(steps):
        last = at == len(steps) - 1
        if isinstance(step, int):
            if not isinstance(tree, list) or step >= len(tree):
                raise _Refused(f"there is no element {step}")
        elif not isinstance(tree, dict):
            raise _Refused(f"`{step}` is not a field of a list or a value")
        elif not last:
            tree.setdefault(step, {})
        if last:
            tree[step] = value
        else:
            tree = tree[step]


def _value(text: str) -> Any:
    try:
        return _plain(parse(text))
    except YamlRefused as error:
        raise _Refused(str(error)) from error


def _plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {entry.key: _plain(entry.value) for entry in node.entries}
    return [_plain(item) for item in node.items] if isinstance(node, Sequence) else node.value


def _node(value: Any) -> Node:
    if isinstance(value, dict):
        return Mapping([Entry(key, 0, 0, _node(item)) for key, item in value.items()], 0, 0)
    if isinstance(value, list):
        return Sequence([_node(item) for item in value], 0, 0)
    return Scalar(value, str(value), 0, 0)
