"""Owns reading the CPU time of processes, exactly, until they are quiet.

Must not know what the processes do.
On failure: a process that is gone raises `ProcessLookupError`; a lost server must never read as a cheap one.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

# Two windows in a row below this are quiet. An idle Envoy and an idle gateway that keeps books stay under it.
_WINDOW_S = 0.25
_QUIET_NS = 5_000_000
_LIMIT_S = 10.0


def process_cpu_ns(pid: int) -> int:
    """User and system time of every thread of `pid`, also of threads that ended.

    Units: nanoseconds.
    Raises: ProcessLookupError when the process is gone.
    Source: clock_getcpuclockid(3); Linux derives the clock's id from the process id.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError as error:
        raise ProcessLookupError(f"process `{pid}` ended during the bench") from error


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _children(task):
            found += tree(int(child))
    return found


def _children(task: Path) -> list[str]:
    try:
        return task.read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        # A thread that has just ended has no children.
        return []


def cpu_ns(pids: dict[str, int]) -> dict[str, int]:
    """CPU of each named process and its descendants, in nanoseconds."""
    return {name: sum(process_cpu_ns(member) for member in tree(pid)) for name, pid in pids.items()}


def thread_cpu_ns(pid: int) -> dict[str, int]:
    """CPU of the threads of `pid` that live, by the name that the system knows; those of one name are summed up.

    Units: nanoseconds.
    """
    by_name: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, schedstat = (task / "comm").read_text().strip(), (task / "schedstat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            # A thread that has just ended.
            continue
        by_name[name] += int(schedstat.split()[0])
    return dict(by_name)


def wait_quiet(pids: dict[str, int]) -> dict[str, int]:
    """Waits until the processes rest, so that work done behind the answers is counted; gives their CPU then.

    Returns: as `cpu_ns`.
    Raises: TimeoutError when they do not rest: then something spins, and the slice means nothing.
    """
    before = cpu_ns(pids)
    quiet = 0
    deadline_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline_s:
        time.sleep(_WINDOW_S)
        after = cpu_ns(pids)
        quiet = quiet + 1 if sum(after.values()) - sum(before.values()) < _QUIET_NS else 0
        before = after
        if quiet == 2:
            return after
    raise TimeoutError(f"`{pids}` used CPU for {_LIMIT_S} s without load; something spins")
