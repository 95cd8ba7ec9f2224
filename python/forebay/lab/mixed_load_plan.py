"""What a mixed load asks, in which order: trials drawn from a seed.

Owns the mix of APIs, keys, features, runs, options and aborts. Must not know addresses, sockets, or what is answered.
It cannot fail for a spec with at least one key and one model of each kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from forebay.lab.writing import random_for, sentences

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
_NEVER_STREAMED = EMBEDDINGS
_ASKS_FOR_USAGE = (CHAT, COMPLETIONS)
_TOPICS = ("invoice", "warehouse", "turbine", "railway", "insurance", "kitchen", "harbour", "library", "vineyard")


@dataclass(frozen=True, slots=True)
class LoadKey:
    """A key of the policy, with the secret that a client sends."""

    id: str
    secret: str
    tenant: str


@dataclass(frozen=True, slots=True)
class Abort:
    """How a client leaves: after so long, or once it has read so many bytes of the body.

    `abruptly`: by a TCP reset instead of an orderly close.
    """

    after_s: float | None
    after_bytes: int | None
    abruptly: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """One request. Its `id` is sent as `x-trial-id`, which fleets keep, and as `x-forebay-eval`, which ledgers do."""

    id: str
    key: LoadKey
    path: str
    model: str
    streamed: bool
    asks_usage: bool
    headers: tuple[tuple[str, str], ...]
    body: bytes
    abort: Abort | None


@dataclass(frozen=True, slots=True)
class MixSpec:
    """How the load looks.

    `models`: names by path, any of which a request of that path may ask. `shares`: how often each path is asked.
    `repeat_ratio` 0.05: 5 % ask again, byte for byte, what was asked before. `include_usage_ratio` 0.5: half of the
    streams that can ask for the usage event do. `longest_abort_s` 0.03: a client that leaves by time does so within
    30 ms.
    """

    keys: tuple[LoadKey, ...]
    models: dict[str, tuple[str, ...]]
    seed: int = 1
    requests: int = 5_000
    features: tuple[str, ...] = ()
    runs: tuple[str, ...] = tuple(f"run-{number}" for number in range(12))
    stream_ratio: float = 0.6
    include_usage_ratio: float = 0.5
    abort_ratio: float = 0.1
    repeat_ratio: float = 0.05
    compressed_ratio: float = 0.5
    longest_abort_s: float = 0.03
    shares: dict[str, float] = field(
        default_factory=lambda: {CHAT: 0.45, COMPLETIONS: 0.1, EMBEDDINGS: 0.1, RESPONSES: 0.15, MESSAGES: 0.2}
    )


def plan(spec: MixSpec) -> tuple[Trial, ...]:
    """The trials in sending order. Equal specs give equal plans."""
    random = Random(spec.seed)
    asked: list[tuple[str, str, bool, bool, bytes]] = []
    return tuple(_trial(spec, random, number, asked) for number in range(spec.requests))


def _trial(spec: MixSpec, random: Random, number: int, asked: list[tuple[str, str, bool, bool, bytes]]) -> Trial:
    identity = f"t{spec.seed}-{number:06d}"
    if asked and random.random() < spec.repeat_ratio:
        what = random.choice(asked)
    else:
        what = _question(spec, random, identity)
        asked.append(what)
    path, model, streamed, asks_usage, body = what
    key = random.choice(spec.keys)
    abort = _abort(spec, random, streamed=streamed) if random.random() < spec.abort_ratio else None
    headers = [("content-type", "application/json"), ("x-trial-id", identity), ("x-forebay-eval", identity)]
    headers.append(("x-forebay-run", random.choice(spec.runs)))
    if path == MESSAGES:
        headers += [("x-api-key", key.secret), ("anthropic-version", "2023-06-01")]
    else:
        headers.append(("authorization", f"Bearer {key.secret}"))
    if spec.features and random.random() < 0.7:
        headers.append(("x-forebay-feature", random.choice(spec.features)))
    if random.random() < spec.compressed_ratio:
        headers.append(("accept-encoding", "gzip, br"))
    return Trial(identity, key, path, model, streamed, asks_usage, tuple(headers), body, abort)


def _abort(spec: MixSpec, random: Random, *, streamed: bool) -> Abort:
    abruptly = random.random() < 0.5
    if streamed and random.random() < 0.7:
        return Abort(None, 1 + int(random.paretovariate(0.7) * 200) % 5_000, abruptly)
    return Abort(random.uniform(0.0, spec.longest_abort_s), None, abruptly)


def _question(spec: MixSpec, random: Random, identity: str) -> tuple[str, str, bool, bool, bytes]:
    path = random.choices(list(spec.shares), list(spec.shares.values()))[0]
    model = random.choice(spec.models[path])
    streamed = path != _NEVER_STREAMED and random.random() < spec.stream_ratio
    asks_usage = streamed and path in _ASKS_FOR_USAGE and random.random() < spec.include_usage_ratio
    body = {"model": model, **_content(path, random, _text(random, identity))}
    if streamed:
        body["stream"] = True
    if asks_usage:
        body["stream_options"] = {"include_usage": True}
    elif streamed and path in _ASKS_FOR_USAGE and random.random() < 0.3:
        body["stream_options"] = {"include_usage": False}
    return path, model, streamed, asks_usage, json.dumps(body).encode()


def _content(path: str, random: Random, text: str) -> dict[str, Any]:
    limit = random.randint(16, 96)
    turns = [{"role": "user", "content": text}]
    if path == CHAT:
        limits = random.choice(({"max_tokens": limit}, {"max_completion_tokens": limit}, {}))
        return {"messages": [{"role": "system", "content": "Answer briefly."}, *turns]} | limits
    if path == COMPLETIONS:
        return {"prompt": text, "max_tokens": limit}
    if path == EMBEDDINGS:
        return {"input": [text, text[:40]], "encoding_format": "base64"}
    if path == RESPONSES:
        limits = random.choice(({"max_output_tokens": limit}, {}))
        return {"input": random.choice((text, turns)), "instructions": "Answer briefly."} | limits
    return {"messages": turns, "max_tokens": limit, "system": "Answer briefly."}


def _text(random: Random, identity: str) -> str:
    topic = " and ".join(random.sample(_TOPICS, 3))
    said = sentences(topic, random_for(identity))
    count = min(40, int(random.paretovariate(1.2) * 3))
    return f"Question {identity} on {topic}. " + " ".join(next(said) for _ in range(count))
