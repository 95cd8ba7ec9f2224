"""`forebay serve` as a process of its own, as it runs in production.

Owns: its start, its end and its log. Must not know: Envoy, fleets, what is asked.
On failure: AssertionError with its log; what was started is ended by its process id.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["GatewayProcess"]

HERE = Path(__file__).parent
_START_S = 60.0
_STOP_S = 30.0


class GatewayProcess:
    """`forebay serve`. Its log is a file in the chain's folder, over all its starts."""

    def __init__(self, policy_file: Path, folder: Path, log: str = "gateway.log", *settings: str) -> None:
        self.log = folder / log
        self._command = [sys.executable, "-m", "forebay.cli", "serve", "--policy", str(policy_file)]
        self._command += ["--envoy-dir", str(folder)]
        for setting in settings:
            self._command += ["--set", setting]
        self._process: subprocess.Popen[bytes] | None = None
        self.status: int | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> dict[str, Any]:
        """Start it and wait for its first line, which comes back; AssertionError with its log if it ends before."""
        path = os.pathsep.join([str(HERE.parents[1] / "python"), str(HERE)])
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            line = stdout.readline() if selector.select(_START_S) else b""
        if not line:
            self.wait()
            raise AssertionError(f"the gateway did not start:\n{self.said()[-4000:]}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; its status comes back."""
        assert self._process is not None
        self.status = self._process.wait(_STOP_S)
        if self._process.stdout:
            self._process.stdout.close()
        return self.status

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it if it lives, wait for its end."""
        assert self._process is not None
        if self._process.poll() is None:
            self.send(number)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            return self.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""
