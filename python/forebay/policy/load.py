"""A policy file to the policy message, or every error of the file at once.

Owns: reading the file, and the way YAML text → tree → proto-JSON → `forebay.v1.Policy`, packaged prices filled in.
Must not know: what a policy means, or how it is run. On failure: closed, `PolicyError` or `PolicyUnreadable`.

`${NAME}` is not expanded: secrets come by reference (`credential.file`, `credential.env`), so a policy is never secret.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from google.protobuf.json_format import ParseDict, ParseError

from forebay.errors import PolicyError, PolicyUnreadable
from forebay.policy._pb.policy_pb2 import Policy
from forebay.policy.finding import Finding
from forebay.policy.prices import fill_prices
from forebay.policy.schema import read
from forebay.policy.yaml_tree import YamlRefused, parse

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["MAX_FILE_BYTES", "LoadedPolicy", "load", "load_text"]

# 16 MiB is about 100,000 keys; a larger file is a mistake, such as a log given in place of a policy.
MAX_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that fits the message; whether it makes sense is for `forebay.policy.engine.check` to say.

    Shape: `message_bytes` is the serialized `forebay.v1.Policy` with the packaged prices of models that give none;
    `written_bytes` is the same without them, as the file says it; `lines` maps each written path, such as
    `models[2].pools[0]`, to its line (from 1); `source` is the file as messages name it.
    """

    message_bytes: bytes
    lines: Mapping[str, int]
    source: str
    written_bytes: bytes

    @classmethod
    def of(cls, message: Policy, lines: Mapping[str, int], source: str) -> LoadedPolicy:
        """Complete a message as it is written.

        Raises: PolicyError for a `price_id` that the packaged list does not have.
        """
        written = cls(b"", MappingProxyType(dict(lines)), source, message.SerializeToString(deterministic=True))
        filled = Policy()
        filled.CopyFrom(message)
        findings = fill_prices(filled, written.line_of)
        if findings:
            raise PolicyError(source, findings)
        return replace(written, message_bytes=filled.SerializeToString(deterministic=True))

    def message(self) -> Policy:
        """Give a fresh copy of the message, prices filled in."""
        return Policy.FromString(self.message_bytes)

    def line_of(self, path: str) -> int:
        """Give the line of a path, or of the nearest thing around it that the file writes; 0 when there is none."""
        while path:
            line = self.lines.get(path)
            if line is not None:
                return line
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return 0


def load(path: str | os.PathLike[str]) -> LoadedPolicy:
    """Read a policy file.

    Returns: the message with the lines of its fields.
    Raises: PolicyUnreadable when there is no such file or it is above 16 MiB; PolicyError with every finding.
    Cost: linear; about 1 s for 10,000 keys. Holds the GIL.
    """
    source = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PolicyUnreadable(f"cannot read `{source}`: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_FILE_BYTES:
        raise PolicyUnreadable(f"`{source}` is larger than {MAX_FILE_BYTES} bytes; is it a policy?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8: byte {error.start} is `0x{data[error.start]:02x}`"
        raise PolicyError(source, [Finding("error", "not_utf8", "", message, line, 1)]) from error
    return load_text(text, source)


def load_text(text: str, source: str = "<policy>") -> LoadedPolicy:
    r"""Read a policy from text, as `load` does.

    >>> loaded = load_text("name: demo\npools: [{name: a, protocol: HTTP}]")
    >>> loaded.message().pools[0].name, loaded.lines["pools[0].protocol"]
    ('a', 2)

    Raises: PolicyError with every finding, in the order of their lines.
    """
    try:
        root = parse(text)
    except YamlRefused as error:
        raise PolicyError(source, error.findings) from error
    reading = read(root, Policy.DESCRIPTOR)
    if reading.findings:
        raise PolicyError(source, sorted(reading.findings, key=lambda finding: (finding.line, finding.column)))
    try:
        message = ParseDict(reading.json, Policy())
    except ParseError as error:  # the walk above should have said it better; this keeps a gap in it closed
        raise PolicyError(source, [Finding("error", "not_a_policy", "", str(error))]) from error
    if not message.ByteSize():
        # A file that is being written over is empty for a moment; taken at its word it would drop every key and route.
        raise PolicyError(source, [Finding("error", "empty_policy", "", "the file says nothing; is it still written?")])
    return LoadedPolicy.of(message, reading.lines, source)
