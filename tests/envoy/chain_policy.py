"""The policy that the end-to-end tests run under: small pools, one key for each kind of limit, stages, sockets.

Owns: names, keys and limits. Must not know: what a test expects of them. On failure: it is data.
"""

from __future__ import annotations

import copy
import hashlib
import random
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

_RANDOM = random.SystemRandom()
MAX_BODY_BYTES = 8 << 20
POOL_KEY_ENV = "FOREBAY_TEST_POOL_KEY"
CHAT = "/v1/chat/completions"
WINDOW_TOKENS = 4096
KEYS = {
    "acme": "acme",
    "acme-bo": "acme",  # stands for the user `bo`
    "bistro": "bistro",
    "narrow": "narrow",  # may use small-chat and the feature `shared` alone
    "five-requests": "acme",
    "few-tokens": "acme",
    "two-at-once": "acme",
    "four-at-once": "acme",
    "closed": "acme",
    "old": "acme",
}


@dataclass(frozen=True)
class Ports:
    """Everything that listens, on ports that were free when they were drawn."""

    ext_proc: int
    admin: int
    batch: int
    listen: int
    envoy: int

    @classmethod
    def free(cls) -> Ports:
        return cls(*free_ports(5))


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different, below those that the system gives to outgoing connections."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", _RANDOM.randrange(12_000, 32_000)))
                ports.append(int(probe.getsockname()[1]))
    return ports


def secret_of(key_id: str) -> str:
    """The secret of a key, as its client sends it."""
    return f"fbk_test_{key_id}"


def chain_policy(ports: Ports, upstreams: dict[str, int]) -> dict[str, Any]:
    """The policy; `upstreams` are ports by the name of the pool."""
    policy = copy.deepcopy(_POLICY)
    policy["gateway"] |= {
        "ext_proc_address": f"127.0.0.1:{ports.ext_proc}",
        "admin_address": f"127.0.0.1:{ports.admin}",
        "batch_address": f"127.0.0.1:{ports.batch}",
    }
    policy["envoy"] |= {
        "listen_address": f"127.0.0.1:{ports.listen}",
        "admin_address": f"127.0.0.1:{ports.envoy}",
    }
    for pool in policy["pools"]:
        pool["endpoints"] = [{"address": f"127.0.0.1:{upstreams[pool['name']]}"}]
    return policy


def _key(key_id: str, tenant: str) -> dict[str, Any]:
    key = {"id": key_id, "tenant": tenant, "sha256": hashlib.sha256(secret_of(key_id).encode()).hexdigest()}
    more: dict[str, dict[str, Any]] = {
        "acme-bo": {"user": "bo"},
        "narrow": {"features": ["shared"]},
        "closed": {"disabled": True},
        "old": {"expires_unix_ms": 1_500_000_000_000},
    }
    return key | more.get(key_id, {})


def _pool(name: str, protocol: str = "OPENAI", **more: Any) -> dict[str, Any]:
    return {"name": name, "protocol": protocol, "provider": "lab", **more}


def _model(name: str, pool: str, *capabilities: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "revision": "1", "tokenizer": "o200k_base", "max_output_tokens": 64}
    return base | {"capabilities": list(capabilities), "pools": [pool]} | more


def _stage_route(name: str, function: str, on_failure: str, **more: Any) -> dict[str, Any]:
    resolve = {"python": f"chain_stages:{function}", "on_failure": on_failure, "deadline_ms": 800} | more
    return {
        "name": f"stage-{name}",
        "path": f"/{name}{CHAT}",
        "methods": ["POST"],
        "operation": "CHAT_COMPLETIONS",
        "resolve": resolve,
    }


_CREDENTIAL = {"env": POOL_KEY_ENV}
_POLICY: dict[str, Any] = {
    "name": "chain",
    "gateway": {"max_body_bytes": MAX_BODY_BYTES, "max_message_timeout_ms": 30_000, "drain_ms": 20_000},
    "envoy": {"log_flush_ms": 50},
    "pools": [
        _pool("small-fleet", credential=_CREDENTIAL),
        _pool("large-fleet", credential=_CREDENTIAL),
        _pool("one-place", credential=_CREDENTIAL, max_concurrency=1),
        _pool("away"),
        _pool("sockets", "HTTP"),
        _pool("echo", "GRPC"),
    ],
    "models": [
        _model(
            "small-chat",
            "small-fleet",
            "CHAT",
            "COMPLETIONS",
            aliases=["fast"],
            context_window_tokens=WINDOW_TOKENS,
            upstream_name="small-chat-v2",
            prices={"prompt_nanousd_per_million_tokens": 150_000_000, "output_nanousd_per_million_tokens": 600_000_000},
        ),
        _model("large-chat", "large-fleet", "CHAT", "TOOLS", "VISION", "JSON", tags=["large"]),
        _model("small-embed", "small-fleet", "EMBEDDINGS", tokenizer="cl100k_base"),
        _model("scarce", "one-place", "CHAT", "COMPLETIONS", "EMBEDDINGS"),
        _model("lost", "away", "CHAT", "EMBEDDINGS"),
    ],
    "tiers": [{"name": "pro"}],
    "tenants": [
        {"name": "acme", "tier": "pro", "models": ["*"]},
        {"name": "bistro", "tier": "pro", "models": ["*"]},
        {"name": "narrow", "tier": "pro", "models": ["small-chat"]},
    ],
    "keys": [_key(key_id, tenant) for key_id, tenant in KEYS.items()],
    "features": [
        {"name": "shared", "cache": {"sampled": "SHARE", "tags": ["shared-answers"]}},
        {"name": "per-user", "cache": {"sharing": "USER"}},
        {"name": "uncached", "cache": {"mode": "OFF"}},
        {"name": "terse", "max_output_tokens": 3},
    ],
    "limits": [
        {
            "name": "five",
            "scope": "KEY",
            "unit": "REQUESTS",
            "amount": 5,
            "window_ms": 3_600_000,
            "keys": ["five-requests"],
        },
        {
            "name": "few",
            "scope": "KEY",
            "unit": "TOKENS",
            "amount": 500,
            "window_ms": 3_600_000,
            "keys": ["few-tokens"],
        },
        {
            "name": "many",
            "scope": "KEY",
            "unit": "TOKENS",
            "amount": 2_000_000,
            "window_ms": 3_600_000,
            "keys": ["five-requests"],
        },
        {"name": "two", "scope": "KEY", "unit": "CONCURRENCY", "amount": 2, "keys": ["two-at-once"]},
        {"name": "four", "scope": "KEY", "unit": "CONCURRENCY", "amount": 4, "keys": ["four-at-once"]},
    ],
    "routes": [
        {
            "name": "chat",
            "path": CHAT,
            "methods": ["POST"],
            "operation": "CHAT_COMPLETIONS",
            "when_full": "NEXT_MODEL",
            "next_models": ["large-chat"],
        },
        {
            "name": "completions",
            "path": "/v1/completions",
            "methods": ["POST"],
            "operation": "TEXT_COMPLETIONS",
            "when_full": "FULL_503",
        },
        {"name": "embeddings", "path": "/v1/embeddings", "methods": ["POST"], "operation": "EMBEDDING"},
        {"name": "models", "path": "/v1/models", "methods": ["GET"], "operation": "LIST_MODELS"},
        {"name": "sockets", "path_prefix": "/sockets/", "operation": "FORWARD", "pool": "sockets"},
        {"name": "echo", "path_prefix": "/lab.Echo/", "operation": "FORWARD", "pool": "echo"},
        _stage_route("good", "by_length", "REFUSE"),
        _stage_route("slow", "slow", "KEEP_MODEL", deadline_ms=50),
        _stage_route("patient", "slow", "KEEP_MODEL"),
        _stage_route("raising", "raising", "FALLBACK_MODEL", fallback_model="large-chat"),
        _stage_route("absent", "no_such_function", "REFUSE"),
        _stage_route("wrong", "names_a_stranger", "REFUSE"),
    ],
    "cache": {"max_bytes": 16 << 20, "ttl_ms": 600_000, "follow_ms": 25_000},
}
