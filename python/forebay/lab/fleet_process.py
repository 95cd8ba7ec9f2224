"""A simulated fleet as a process of its own, so that it shares no interpreter with what is measured.

Owns the child process and its address. Must not know what the fleet answers.
On failure to start: FleetProcessError with what the process wrote; the process is ended.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from forebay.lab.fleet_spec import FleetSpec

_START_S = 20.0
_STOP_S = 5.0


class FleetProcessError(RuntimeError):
    """The fleet's process did not say that it listens."""


@dataclass(frozen=True, slots=True)
class RunningFleet:
    """Where a fleet listens. `base_url` has no path."""

    name: str
    base_url: str
    port: int
    pid: int


@contextlib.contextmanager
def fleet_process(spec: FleetSpec, port: int = 0) -> Iterator[RunningFleet]:
    """A fleet in a process of its own inside the block; port 0 picks a free one. Raises FleetProcessError."""
    command = [sys.executable, "-m", "forebay.lab.fleet", "--spec", spec.to_json(), "--port", str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield _ready(process, spec.name)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: subprocess.Popen[bytes], name: str) -> RunningFleet:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_S)
    line = process.stdout.readline().decode(errors="replace") if readable else ""
    try:
        said = json.loads(line)
        return RunningFleet(said["name"], said["base_url"], said["port"], process.pid)
    except (ValueError, KeyError, TypeError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        said_all = line + process.stdout.read().decode(errors="replace")
        reason = said_all.strip()[-2000:] or f"it said nothing within {_START_S:.0f} s"
        raise FleetProcessError(f"the fleet `{name}` did not start: {reason}") from None
