"""The stage of the mixed load: fleets of every kind with their faults, and a policy that serves them all.

Owns names, prices, budgets and faults. Must not know processes or who runs them; addresses are given.
It cannot fail: it is data.
"""

from __future__ import annotations

import hashlib
from typing import Any

from forebay.lab.fleet_spec import Accounting, Faults, FleetSpec, Latency, LogNormal, Wire
from forebay.lab.mixed_load_plan import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, LoadKey, MixSpec

TENANTS = ("acme", "bistro", "cargo")
KEYS = tuple(LoadKey(f"{tenant}-{n}", f"fbk_load_{tenant}_{n}", tenant) for tenant in TENANTS for n in range(2))
FEATURES = ("search", "drafts")
WHOLE_BUDGETS = ("all-money", "all-tokens")
# Odd numbers, so that a sum rounded twice shows.
PRICES = {
    "prompt_nanousd_per_million_tokens": 150_000_001,
    "output_nanousd_per_million_tokens": 600_000_007,
    "cached_prompt_nanousd_per_million_tokens": 75_000_003,
    "cache_write_nanousd_per_million_tokens": 190_000_009,
    "revision": "load-1",
}
FAILURE_RATIO, RESET_RATIO = 0.05, 0.02

_FAULTS = Faults(failure_ratio=FAILURE_RATIO, failure_statuses=(500, 503, 429), reset_ratio=RESET_RATIO)
# Answers of about 40 tokens in 20 events, at most 30 ms long: quick, and still long enough to leave in the middle of.
_LATENCY = Latency(LogNormal(4.0, 0.3), LogNormal(0.4, 0.3), LogNormal(40.0, 0.5), tokens_per_event=2)
_FLEETS: dict[str, tuple[Accounting, Wire]] = {
    "asks": (Accounting("ask", 0.25, 0.0, 0.2, 0.1), Wire()),
    "always": (Accounting("always", 0.5, 0.0, 0.0), Wire("gzip", "crlf", 0.1, 0.2)),
    "chunks": (Accounting("every_chunk", 0.0, 0.0, 0.3), Wire("br", "lf", 0.0, 0.5)),
    "last": (Accounting("last_choice", 0.1, 0.0, 0.0), Wire("identity", "crlf", 0.2, 0.5)),
    # One pool with a replica of an older release that says nothing: what it used can only be estimated.
    "mixed": (Accounting("ask"), Wire()),
    "mixed-old": (Accounting("never"), Wire()),
    "claude": (Accounting("ask", 0.25, 0.1, 0.0, 0.1), Wire("gzip", "lf", 0.1, 0.3)),
}
_REPLICAS = {"mixed": ("mixed", "mixed-old")}
_POOLS = tuple(name for name in _FLEETS if name != "mixed-old")
_OPENAI_POOLS = tuple(name for name in _POOLS if name != "claude")
_EMBEDDING_POOLS = ("asks", "always", "mixed")
_CHAT_CAPABILITIES = ["CHAT", "COMPLETIONS", "RESPONSES"]


def fleets(seed: int, credential: str | None = None) -> dict[str, FleetSpec]:
    """The fleets by name. Those of one pool, which is named in its models, serve the same."""
    pools = {replica: pool for pool in _POOLS for replica in _REPLICAS.get(pool, (pool,))}
    return {
        name: FleetSpec(
            name=name,
            models=(f"{pools[name]}-chat", f"{pools[name]}-embed"),
            seed=seed + index,
            latency=_LATENCY,
            faults=_FAULTS,
            accounting=accounting,
            wire=wire,
            credential=credential,
        )
        for index, (name, (accounting, wire)) in enumerate(_FLEETS.items())
    }


def mix(seed: int, requests: int) -> MixSpec:
    """The load that the policy below serves."""
    chats = tuple(f"{name}-chat" for name in _OPENAI_POOLS)
    embeddings = tuple(f"{name}-embed" for name in _EMBEDDING_POOLS)
    models = {CHAT: chats, COMPLETIONS: chats, RESPONSES: chats, EMBEDDINGS: embeddings, MESSAGES: ("claude-chat",)}
    return MixSpec(KEYS, models, seed=seed, requests=requests, features=FEATURES)


def prices() -> dict[str, dict[str, Any]]:
    """What each model costs, by its name."""
    names = [f"{name}-chat" for name in _POOLS] + [f"{name}-embed" for name in _EMBEDDING_POOLS]
    return dict.fromkeys(names, PRICES)


def policy(endpoints: dict[str, str], ledger_directory: str, credential_env: str | None = None) -> dict[str, Any]:
    """A policy for the load, in its YAML form, without `gateway` and `envoy`; `endpoints` are addresses by fleet."""
    credential = {"credential": {"env": credential_env}} if credential_env else {}
    pools = [
        {
            "name": name,
            "protocol": "ANTHROPIC" if name == "claude" else "OPENAI",
            "provider": "lab",
            "endpoints": [{"address": endpoints[replica]} for replica in _REPLICAS.get(name, (name,))],
            **credential,
        }
        for name in _POOLS
    ]
    models = [_model(f"{name}-chat", name, _CHAT_CAPABILITIES) for name in _OPENAI_POOLS]
    models += [_model(f"{name}-embed", name, ["EMBEDDINGS"]) for name in _EMBEDDING_POOLS]
    models.append(_model("claude-chat", "claude", ["MESSAGES"]))
    return {
        "name": "mixed-load",
        "pools": pools,
        "models": models,
        "tenants": [{"name": tenant, "models": ["*"]} for tenant in TENANTS],
        "keys": [
            {"id": key.id, "tenant": key.tenant, "sha256": hashlib.sha256(key.secret.encode()).hexdigest()}
            for key in KEYS
        ],
        "features": [{"name": name} for name in FEATURES],
        "routes": [
            _route("chat", CHAT, "CHAT_COMPLETIONS"),
            _route("completions", COMPLETIONS, "TEXT_COMPLETIONS"),
            _route("embeddings", EMBEDDINGS, "EMBEDDING"),
            _route("responses", RESPONSES, "RESPONSES"),
            _route("messages", MESSAGES, "MESSAGES"),
        ],
        "budgets": [
            _budget("all-money", "TENANT", "NANOUSD"),
            _budget("all-tokens", "PROVIDER", "TOKENS"),
            _budget("key-money", "KEY", "NANOUSD") | {"period": "HOUR"},
        ],
        "cache": {"max_bytes": 16 << 20},
        "ledger": {"directory": ledger_directory},
    }


def _model(name: str, pool: str, capabilities: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "revision": "1",
        "tokenizer": "o200k_base",
        "context_window_tokens": 16384,
        "max_output_tokens": 96,
        "capabilities": capabilities,
        "prices": PRICES,
        "pools": [pool],
    }


def _route(name: str, path: str, operation: str) -> dict[str, Any]:
    return {"name": name, "path": path, "methods": ["POST"], "operation": operation}


def _budget(name: str, scope: str, unit: str) -> dict[str, Any]:
    return {"name": name, "scope": scope, "unit": unit, "amount": 1 << 50, "period": "MONTH", "enforcement": "HARD"}
