"""Owns the policy files of a run: the checked-in one with its addresses and keys, with and without batching.

Must not know what the gateway makes of it.
On failure: an unreadable policy raises; the run stops.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from bench.load.policy import PolicyFile
from bench.load.process import free_port

_POLICY = Path(__file__).parent / "policy.yaml"


def batching_policy(triton: str, workdir: Path) -> PolicyFile:
    """Tensors go to the batch service."""
    return _written(_policy(triton), workdir)


def forwarding_policy(triton: str, workdir: Path) -> PolicyFile:
    """The same decision on the same headers, but Envoy sends each request to Triton itself."""
    policy = _policy(triton)
    policy["pools"][0]["protocol"] = "GRPC"
    policy["models"] = []
    policy["routes"][0] |= {"operation": "FORWARD", "pool": policy["pools"][0]["name"]}
    return _written(policy, workdir)


def key_of(tenant: str) -> dict[str, str]:
    """What a client of a tenant sends."""
    return {"authorization": f"Bearer fbk_batch_{tenant}"}


def _policy(triton: str) -> dict[str, Any]:
    policy: dict[str, Any] = yaml.safe_load(_POLICY.read_text())
    policy["pools"][0]["endpoints"] = [{"address": triton}]
    names = [tenant["name"] for tenant in policy["tenants"]]
    digests = [hashlib.sha256(f"fbk_batch_{name}".encode()).hexdigest() for name in names]
    policy["keys"] = [
        {"id": name, "tenant": name, "sha256": digest} for name, digest in zip(names, digests, strict=True)
    ]
    return policy


def _written(policy: dict[str, Any], workdir: Path) -> PolicyFile:
    ports = [free_port() for _ in range(5)]
    ext_proc, batch, gateway_admin, listener, envoy_admin = (f"127.0.0.1:{port}" for port in ports)
    policy["gateway"] |= {"ext_proc_address": ext_proc, "batch_address": batch, "admin_address": gateway_admin}
    policy["envoy"] = {"listen_address": listener, "admin_address": envoy_admin}
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "policy.yaml"
    path.write_text(yaml.safe_dump(policy, sort_keys=False))
    return PolicyFile(path, listener_port=ports[3], envoy_admin_port=ports[4], gateway_admin_port=ports[2])
