"""Owns starting and ending the processes of a bench, each by its own id.

Must not know what a process serves.
On failure: a child that does not get ready raises with the end of its log; everything started is ended.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

_READY_S = 120.0


class BenchError(RuntimeError):
    """The bench cannot give a number that means something; the message says why."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """One process; its log is a file, its standard input stays open as its lease on life."""

    def __init__(self, name: str, command: Sequence[str], workdir: Path, env: dict[str, str] | None = None) -> None:
        """Starts it."""
        self.name = name
        self.log = workdir / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, text=True
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def ready_line(self) -> dict[str, Any]:
        """The JSON line that it prints once it listens."""
        return self._line()

    def ask(self, question: str = "stats") -> dict[str, Any]:
        """Its answer, one JSON line, to one line."""
        stdin = _pipe(self.process.stdin)
        stdin.write(question + "\n")
        stdin.flush()
        return self._line()

    def stop(self) -> None:
        """Ends it, first politely."""
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _pipe(self.process.stdin).close()
        _pipe(self.process.stdout).close()

    def failure(self, why: str) -> BenchError:
        """An error that shows the end of the log."""
        return BenchError(f"`{self.name}` {why}\n{self.log.read_text(errors='replace')[-2000:]}")

    def _line(self) -> dict[str, Any]:
        line = _pipe(self.process.stdout).readline()
        if not line:
            raise self.failure("ended before it was ready")
        answer: dict[str, Any] = json.loads(line)
        return answer


def wait_http(child: Child, request: str | urllib.request.Request) -> None:
    """Waits until `request` is answered 200."""
    deadline_s = time.monotonic() + _READY_S
    last: OSError | None = None
    while time.monotonic() < deadline_s:
        if child.process.poll() is not None:
            raise child.failure(f"ended with status {child.process.returncode}")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError as error:
            last = error
            time.sleep(0.05)
    raise child.failure(f"was not served in {_READY_S} s: {last}")


def fetch(url: str) -> str:
    """The body of a local page."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:  # Popen was given PIPE for all three
        raise BenchError("a child has no pipe")
    return pipe
