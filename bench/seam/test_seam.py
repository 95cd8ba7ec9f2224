"""What one call over the seam costs, part by part. Run: `make bench-seam`. It reports and never gates.

Owns the calls as a user makes them. Must not know the servers. On failure: a wrong result fails the bench.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from forebay.core import BatchAssembler, CacheKeys, Engine, ExactCache, Limiter, LimitSpec, ModelShape, TokenCounter
from forebay.policy import load, override

ROOT = Path(__file__).parents[2]
WORDS = "the basin ahead of the turbines evens out the flow of the river and of every request that comes down it "
BODY = {"model": "small", "temperature": 0, "messages": [{"role": "user", "content": WORDS * 9}]}
HEADERS = [("authorization", "Bearer fbk_example_acme"), ("content-type", "application/json")]


@pytest.fixture(scope="module")
def engine() -> Engine:
    # The example's token limit would refuse a bench; the claim is made all the same.
    policy = override(load(ROOT / "examples" / "policy.yaml"), ["limits[1].amount=1000000000000"])
    return Engine(policy.message_bytes)


def test_count_one_kilobyte(benchmark: Any) -> None:
    counter = TokenCounter("o200k_base")
    assert benchmark(counter.count, WORDS * 9) > 100


def test_cache_key_of_one_kilobyte(benchmark: Any) -> None:
    keys, body = CacheKeys(bytes(32)), json.dumps(BODY).encode()
    assert len(benchmark(keys.of, body, tenant="acme", model="small-chat")) == 32


def test_cache_miss(benchmark: Any) -> None:
    cache = ExactCache(max_bytes=1 << 20)
    assert benchmark(cache.lookup, bytes(32), now_ns=1) is None


def test_reserve_and_settle_three_limits(benchmark: Any) -> None:
    names = ("minute", "hour", "day")
    limiter = Limiter([LimitSpec(n, "tokens", capacity=10**15, window_ns=60 * 10**9) for n in names])
    clock = itertools.count(1)

    def take() -> bool:
        now = next(clock)
        held = limiter.reserve([(name, "acme/ada", 10) for name in names], now_ns=now)
        return held.settle(actual_tokens=5, now_ns=now)

    assert benchmark(take)


def test_join_and_split_a_batch_of_32(benchmark: Any) -> None:
    shape = ModelShape([("x", "FP32", [-1], "required")], ["y"], max_batch_rows=32)
    row = bytes(4 * 384)

    def batch() -> int:
        assembler = BatchAssembler(shape)
        for _ in range(32):
            assembler.push([("x", "FP32", [1, 384], row)], now_ns=0)
        taken = assembler.take(now_ns=0)
        return len(taken.split([("y", "FP32", [32, 384], row * 32)]))

    assert benchmark(batch) == 32


def test_decide_on_a_new_prompt(benchmark: Any, engine: Engine) -> None:
    numbers = itertools.count()

    def decide() -> str:
        body = json.dumps(BODY | {"seed": next(numbers)}).encode()
        decision = engine.decide("POST", "/v1/chat/completions", HEADERS, body)
        engine.end(decision.id, 200)
        return decision.action

    assert benchmark(decide) == "forward"
