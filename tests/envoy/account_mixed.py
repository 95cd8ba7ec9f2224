"""A whole chain for the mixed load: every simulated fleet, the gateway as a process of its own, a real Envoy.

Owns: processes, ports and the policy's addresses. Must not know: what is asked, what must agree.
On failure: everything started is ended; the gateway's log stands in the message.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from account_books import LedgerFolder
from chain_gateway import GatewayProcess
from chain_policy import POOL_KEY_ENV, Ports
from forebay.control import RenderOptions, install, render
from forebay.lab import mixed_load_stage as stage
from forebay.lab.envoy import EnvoyServer
from forebay.lab.fleet_process import RunningFleet, fleet_process
from forebay.policy import load


@dataclass(frozen=True)
class MixedSite:
    """A running chain."""

    url: str
    admin_url: str
    fleets: list[RunningFleet]
    ledger: LedgerFolder
    gateway: GatewayProcess
    envoy: EnvoyServer


@contextmanager
def mixed_site(folder: Path, seed: int) -> Iterator[MixedSite]:
    """The chain inside the block."""
    pool_key = secrets.token_urlsafe(16)
    with ExitStack() as stack:
        specs = stage.fleets(seed, pool_key)
        fleets = {name: stack.enter_context(fleet_process(spec)) for name, spec in specs.items()}
        ports = Ports.free()
        ledger = LedgerFolder(folder / "ledger")
        endpoints = {name: f"127.0.0.1:{fleet.port}" for name, fleet in fleets.items()}
        policy = stage.policy(endpoints, str(ledger.directory), POOL_KEY_ENV)
        # Answers to what was asked before come from the cache, also where chance is in them.
        for feature in policy["features"]:
            feature["cache"] = {"sampled": "SHARE"}
        policy["gateway"] = {
            "ext_proc_address": f"127.0.0.1:{ports.ext_proc}",
            "admin_address": f"127.0.0.1:{ports.admin}",
            "batch_address": f"127.0.0.1:{ports.batch}",
        }
        policy["envoy"] = {
            "listen_address": f"127.0.0.1:{ports.listen}",
            "admin_address": f"127.0.0.1:{ports.envoy}",
            "log_flush_ms": 50,
        }
        file = folder / "policy.yaml"
        file.write_text(yaml.safe_dump(policy, sort_keys=False))
        install(render(load(file).message(), RenderOptions(directory=str(folder))), folder)
        gateway = GatewayProcess(file, folder)
        gateway.start()
        stack.callback(gateway.end)
        admin = f"127.0.0.1:{ports.envoy}"
        envoy = stack.enter_context(EnvoyServer(folder / "envoy.yaml", admin, environment={POOL_KEY_ENV: pool_key}))
        yield MixedSite(
            f"http://127.0.0.1:{ports.listen}",
            f"http://127.0.0.1:{ports.admin}",
            list(fleets.values()),
            ledger,
            gateway,
            envoy,
        )
