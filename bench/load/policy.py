"""Owns the policy files of a run: the checked-in one with its addresses and 100,000 keys, without and with books.

Must not know what the gateway makes of it.
On failure: an unreadable policy raises; the run stops.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.load.process import free_port

KEYS = 100_000
_POLICY = Path(__file__).parent / "policy.yaml"
_ACCOUNTING = Path(__file__).parent / "accounting.yaml"


@dataclass(frozen=True)
class PolicyFile:
    """A policy written for one run, and the ports that it names."""

    path: Path
    listener_port: int
    envoy_admin_port: int
    gateway_admin_port: int


@dataclass(frozen=True)
class Books:
    """Where the ledger of an accounted policy is, and who takes its telemetry."""

    directory: Path
    # Port of a collector; 0: nothing is sent.
    collector_port: int = 0


def write_policy(upstream_port: int, workdir: Path, books: Books | None = None) -> PolicyFile:
    """The policy for this run, as a file in `workdir`.

    Cost: about 10 MB of YAML; keys are written as text, since a YAML dumper would take half a minute.
    """
    ports = [free_port() for _ in range(5)]
    ext_proc, batch, gateway_admin, listener, envoy_admin = map(_address, ports)
    policy = yaml.safe_load(_POLICY.read_text())
    policy["gateway"] |= {"ext_proc_address": ext_proc, "batch_address": batch, "admin_address": gateway_admin}
    policy["envoy"] = {"listen_address": listener, "admin_address": envoy_admin}
    policy["pools"][0]["endpoints"] = [{"address": _address(upstream_port)}]
    if books is not None:
        _add_books(policy, books)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "policy.yaml"
    with path.open("w") as out:
        yaml.safe_dump(policy, out, sort_keys=False)
        out.write("keys:\n")
        for index in range(KEYS):
            digest = hashlib.sha256(bench_key(index).encode()).hexdigest()
            out.write(f'- {{id: "b{index:06}", sha256: "{digest}", tenant: bench}}\n')
    return PolicyFile(path, listener_port=ports[3], envoy_admin_port=ports[4], gateway_admin_port=ports[2])


def bench_key(index: int) -> str:
    """The key of request `index`; the load generator makes the same."""
    return f"fbk_bench_{index % KEYS:06}"


def policy_workers() -> int:
    """Threads of the gateway's request path; the echo control gets as many."""
    policy = yaml.safe_load(_POLICY.read_text())
    return int(policy["gateway"]["workers"])


def policy_cache_bytes() -> int:
    """The size of the exact cache."""
    policy = yaml.safe_load(_POLICY.read_text())
    return int(policy["cache"]["max_bytes"])


def _add_books(policy: dict[str, Any], books: Books) -> None:
    accounting = yaml.safe_load(_ACCOUNTING.read_text())
    policy["models"][0]["prices"] = accounting["prices"]
    policy["budgets"] = accounting["budgets"]
    policy["ledger"] = accounting["ledger"] | {"directory": str(books.directory)}
    if books.collector_port:
        endpoint = f"http://{_address(books.collector_port)}"
        policy["telemetry"] = accounting["telemetry"] | {"otlp_endpoint": endpoint}


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"
