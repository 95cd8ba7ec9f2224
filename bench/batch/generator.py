"""Owns sending: writes what is to be sent, runs the generator, reads what became of every call.

Must not know what a message says or whom it reaches.
On failure: a generator that fails or takes too long stops the run.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.load.process import BenchError

_ENTRY = np.dtype([("due_ns", "<u8"), ("message", "<u4")])
_RECORD = struct.Struct("<QQQIIII")
_CALL = np.dtype(
    [("due_ns", "i8"), ("begun_ns", "i8"), ("ended_ns", "i8"), ("group", "i8"), ("message", "i8"), ("code", "i8")]
)
# The generator's own code for a call that had no answer in time.
UNANSWERED = 255
_OVER_S = 60.0

Calls = npt.NDArray[np.void]


@dataclass(frozen=True)
class Group:
    """Calls with the same metadata. `clients` 0: an open loop, whose calls begin at `due_ns`."""

    clients: int
    messages: npt.NDArray[np.int64]
    due_ns: npt.NDArray[np.int64] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def schedule(self) -> bytes:
        """As the generator reads it."""
        entries = np.zeros(len(self.messages), _ENTRY)
        entries["message"] = self.messages
        if self.due_ns is not None:
            entries["due_ns"] = self.due_ns
        return entries.tobytes()


@dataclass(frozen=True)
class Sent:
    """What became of the calls of one run, in the order in which they ended.

    Shape: `calls` is structured, with times in nanoseconds from the start, and the gRPC code; `answers` are the
    encoded answers, or the status's message.
    """

    calls: Calls
    answers: list[bytes]
    wall_s: float
    # Of one core.
    generator_busy: float


@dataclass(frozen=True)
class Generator:
    """The generator of `bench/rust`, and a folder for its files."""

    binary: Path
    workdir: Path

    def send(
        self, address: str, messages: Sequence[bytes], groups: Sequence[Group], seconds: float, *, drain_s: float = 30.0
    ) -> Sent:
        """Sends; closed loops begin no call behind `seconds`, and what is on its way may end within `drain_s`."""
        pieces = [part for message in messages for part in (struct.pack("<I", len(message)), message)]
        (self.workdir / "messages").write_bytes(b"".join(pieces))
        out = self.workdir / "calls"
        command = [str(self.binary), "infer", "--addr", address, "--messages", str(self.workdir / "messages")]
        command += ["--seconds", str(seconds), "--drain-seconds", str(drain_s), "--out", str(out)]
        for number, group in enumerate(groups):
            schedule = self.workdir / f"schedule-{number}"
            schedule.write_bytes(group.schedule())
            words = [f"clients={group.clients}", f"schedule={schedule}"]
            command += ["--group", ";".join(words + [f"{name}={value}" for name, value in group.metadata.items()])]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _OVER_S, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the load generator took more than {seconds + _OVER_S:.0f} s") from None
        if ran.returncode != 0:
            raise BenchError(f"the load generator failed: {ran.stderr.strip()}")
        report = json.loads(ran.stdout)
        calls, answers = read_records(out.read_bytes())
        return Sent(calls, answers, report["wall_s"], report["own_cpu_s"] / report["wall_s"])


def read_records(data: bytes) -> tuple[Calls, list[bytes]]:
    """The calls and the answers of a file of the generator."""
    rows: list[tuple[int, ...]] = []
    answers: list[bytes] = []
    at = 0
    while at < len(data):
        *numbers, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        rows.append(tuple(numbers))
        answers.append(data[at : at + length])
        at += length
    return np.array(rows, _CALL), answers
