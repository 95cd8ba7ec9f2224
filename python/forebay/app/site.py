"""A whole site on this machine: simulated fleets, a real Triton, the gateway and a real Envoy.

Owns: their order, ports and folder. Must not know: what is sent through them.
On failure: everything that was started is stopped by its process id.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.control import RenderOptions, install, render
from forebay.errors import ForebayError
from forebay.lab.demo_fleets import demo_fleets
from forebay.lab.envoy import EnvoyServer
from forebay.lab.fleet_process import fleet_process
from forebay.lab.triton import running_triton
from forebay.lab.triton_install import find_install
from forebay.policy import LoadedPolicy, load, override

__all__ = ["Site", "SiteError", "running_site"]

_READY_S = 60.0
_STOP_S = 20.0
# Those of the policy, and the same behind Triton's own batcher, which the demo compares with.
TRITON_MODELS = ("minilm", "queued_minilm", "cost", "queued_cost", "writer")
CREDENTIAL_ENV = "FOREBAY_DEMO_POOL_KEY"


class SiteError(ForebayError):
    """The gateway of a site did not start; the message holds the end of its log."""

    slug = "site_failed"


@dataclass(frozen=True, slots=True)
class Site:
    """What runs and where. `fleets` are base URLs by pool; `triton` is the address of its gRPC port."""

    policy: LoadedPolicy
    folder: Path
    base_url: str
    admin_url: str
    fleets: Mapping[str, str]
    triton: str
    triton_vocabulary: Path
    ledger: Path
    gateway_pid: int
    envoy_pid: int


@contextmanager
def running_site(policy_file: Path, triton_venv: Path, settings: tuple[str, ...] = ()) -> Iterator[Site]:
    """Starts everything that the policy of the demo names and stops it at the end.

    Ports are free ones unless `settings` (`path=value`) fix them. `triton_venv` is where Triton was installed.
    Raises: SiteError, FleetProcessError, TritonError or EnvoyError where a part does not start.
    """
    credential = secrets.token_urlsafe(24)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-")))
        fleets = {name: stack.enter_context(fleet_process(spec)) for name, spec in demo_fleets(credential).items()}
        triton = stack.enter_context(running_triton(triton_venv, TRITON_MODELS))
        minilm = find_install(triton_venv).minilm
        ports = dict(zip(("ext_proc", "admin", "batch", "listen", "envoy"), _free_ports(5), strict=True))
        loaded = load(policy_file)
        pools = [pool.name for pool in loaded.message().pools]
        models = [model.name for model in loaded.message().models]
        tokenizer = f"models[{models.index('minilm')}].tensors.embeddings.tokens.tokenizer_file"
        chosen = [
            f"gateway.ext_proc_address=127.0.0.1:{ports['ext_proc']}",
            f"gateway.admin_address=127.0.0.1:{ports['admin']}",
            f"gateway.batch_address=127.0.0.1:{ports['batch']}",
            f"envoy.listen_address=127.0.0.1:{ports['listen']}",
            f"envoy.admin_address=127.0.0.1:{ports['envoy']}",
            f"ledger.directory={folder / 'ledger'}",
            *(f"pools[{pools.index(n)}].endpoints[0].address=127.0.0.1:{f.port}" for n, f in fleets.items()),
            f"pools[{pools.index('triton')}].endpoints[0].address={triton.grpc_address}",
            f"{tokenizer}={minilm / 'tokenizer.json'}",
            *settings,
        ]
        policy = override(loaded, chosen)
        message = policy.message()
        install(render(message, RenderOptions(directory=str(folder))), folder)
        environment = {CREDENTIAL_ENV: credential}
        gateway = stack.enter_context(_gateway(policy_file, folder, chosen))
        envoy = EnvoyServer(folder / "envoy.yaml", message.envoy.admin_address, environment=environment)
        stack.enter_context(envoy)
        yield Site(
            policy=policy,
            folder=folder,
            base_url=f"http://{message.envoy.listen_address}",
            admin_url=f"http://{message.gateway.admin_address}",
            fleets={name: fleet.base_url for name, fleet in fleets.items()},
            triton=triton.grpc_address,
            triton_vocabulary=minilm / "vocab.txt",
            ledger=folder / "ledger",
            gateway_pid=gateway,
            envoy_pid=envoy.pid,
        )


@contextmanager
def _gateway(policy_file: Path, folder: Path, settings: list[str]) -> Iterator[int]:
    """`forebay serve` as a process of its own, as it runs in production."""
    command = [sys.executable, "-m", "forebay.cli", "serve", "--policy", str(policy_file), "--envoy-dir", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    log_path = folder / "gateway.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=os.environ
        )
    try:
        _ready_line(process, log_path)
        yield process.pid
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout:
            process.stdout.close()


def _ready_line(process: subprocess.Popen[bytes], log_path: Path) -> dict[str, Any]:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(_READY_S) else b""
    if not line:
        said = log_path.read_text(errors="replace")[-4000:]
        raise SiteError(f"the gateway did not start:\n{said}")
    ready: dict[str, Any] = json.loads(line)
    return ready


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
