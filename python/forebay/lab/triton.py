"""A real Triton Inference Server as a child process: start, wait until ready, stop.

Owns the process, its ports and its log. Must not know which models it serves or who calls it.
On failure to start: TritonError with the end of the log; a port taken meanwhile is tried again with others.

    python -m forebay.lab.triton install --venv .venv-triton
    python -m forebay.lab.triton serve --venv .venv-triton --models minilm,identity
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forebay.lab.model_repository import MODELS, ModelChoices, write_repository
from forebay.lab.triton_install import TritonInstall, TritonInstallError, find_install, install

_START_ATTEMPTS = 3
_POLL_S = 0.05
_STOP_S = 20.0


class TritonError(RuntimeError):
    """Triton did not start or did not become ready; the message ends with its log."""


class _PortTaken(TritonError):
    """Another process took one of the ports between choosing and binding."""


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """How to run the server.

    `ready_timeout_s` 60: all models are loaded within a minute, or starting fails.
    `blas_threads` 1: each model instance computes on one core, so that a small machine keeps the others.
    """

    install: TritonInstall
    model_repository: Path
    log_path: Path
    ready_timeout_s: float = 60.0
    blas_threads: int = 1


@dataclass(frozen=True, slots=True)
class TritonPorts:
    """The three ports, all on loopback."""

    http: int
    grpc: int
    metrics: int


class TritonServer:
    """A running server. Use it as a context manager, or call `stop`."""

    def __init__(self, process: subprocess.Popen[bytes], ports: TritonPorts, log_path: Path) -> None:
        self._process = process
        self.ports = ports
        self.log_path = log_path

    @classmethod
    def start(cls, options: TritonOptions) -> TritonServer:
        """Starts the server and returns once every model is ready. Raises TritonError."""
        for attempt in range(_START_ATTEMPTS):
            server = cls._launch(options)
            try:
                server._wait_ready(options.ready_timeout_s)
            except _PortTaken:
                server.stop()
                if attempt + 1 == _START_ATTEMPTS:
                    raise
            except BaseException:
                server.stop()
                raise
            else:
                return server
        raise AssertionError("unreachable: the last attempt returns or raises")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def grpc_address(self) -> str:
        """What `tritonclient.grpc.InferenceServerClient` takes."""
        return f"127.0.0.1:{self.ports.grpc}"

    def stop(self) -> None:
        """Ends the server and its backend processes. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # stubs that outlived their server
        self._process.wait()

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def _launch(cls, options: TritonOptions) -> TritonServer:
        ports = TritonPorts(*_free_ports(3))
        where = options.install
        threads = str(options.blas_threads)
        environment = os.environ | {
            "PATH": f"{where.venv / 'bin'}:{os.environ.get('PATH', '')}",
            "VIRTUAL_ENV": str(where.venv),
            # The stub embeds Python: it finds the library by this path, and numpy by that of the environment.
            "LD_LIBRARY_PATH": where.interpreter.library_dir,
            "PYTHONPATH": str(where.site_packages),
            "OPENBLAS_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
        }
        environment.pop("PYTHONHOME", None)
        command = [
            str(where.binary),
            f"--model-repository={options.model_repository}",
            f"--backend-directory={where.root / 'backends'}",
            "--disable-auto-complete-config",
            "--exit-timeout-secs=2",
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.metrics}",
        ]
        with options.log_path.open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return cls(process, ports, options.log_path)

    def _wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        url = f"http://127.0.0.1:{self.ports.http}/v2/health/ready"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                log = self._log_end()
                taken = "already in use" in log or "Address in use" in log or "failed to start" in log
                kind = _PortTaken if taken else TritonError
                raise kind(f"triton ended with {self._process.returncode} before it was ready; its log ends:\n{log}")
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
            time.sleep(_POLL_S)
        raise TritonError(f"triton was not ready within {timeout_s:.0f} s; its log ends:\n{self._log_end()}")

    def _log_end(self) -> str:
        """The last lines that say something; the tables of options and models are left out."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join([line[:400] for line in lines if line and line[0] not in "|+"][-25:])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


@contextlib.contextmanager
def running_triton(venv: Path, models: tuple[str, ...], choices: ModelChoices | None = None) -> Iterator[TritonServer]:
    """A Triton with some of the lab's models inside the block, in a folder of its own that goes with it."""
    where = find_install(venv)
    with tempfile.TemporaryDirectory(prefix="forebay-triton-") as folder:
        repository = Path(folder) / "models"
        write_repository(repository, models, where.minilm, choices)
        with TritonServer.start(TritonOptions(where, repository, Path(folder) / "triton.log")) as server:
            yield server


def main(arguments: list[str] | None = None) -> int:
    """Installs Triton, or serves the lab's models with it."""
    parser = argparse.ArgumentParser(prog="python -m forebay.lab.triton", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    installer = commands.add_parser("install", help="install Triton into a virtual environment, if it is not there")
    server = commands.add_parser("serve", help="serve models until SIGINT or SIGTERM; prints one JSON line when ready")
    server.add_argument("--models", default="minilm,identity", help=f"comma-separated, of {', '.join(MODELS)}")
    for command in (installer, server):
        command.add_argument("--venv", type=Path, required=True, help="the environment's folder")
    options = parser.parse_args(arguments)
    try:
        if options.command == "install":
            where = install(options.venv)
            print(f"triton is in {options.venv} (Python {where.interpreter.version})")
            return 0
        with running_triton(options.venv, tuple(options.models.split(","))) as triton:
            ports = triton.ports
            ready = {"ready": True, "pid": triton.pid, "grpc": ports.grpc, "http": ports.http, "metrics": ports.metrics}
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: sys.exit(0))
            print(json.dumps(ready), flush=True)
            signal.pause()
    except (TritonInstallError, TritonError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
