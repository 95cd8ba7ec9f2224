"""The demo against a small stand-in gateway that does right, and against a bare fleet where it must complain."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from forebay.lab.demo import DemoEndpoints, ModelPrice, run_demo
from forebay.lab.demo_chat import ChatTarget
from forebay.lab.demo_report import report
from forebay.lab.demo_sources import (
    ForwardedTimes,
    forwarded_times,
    heads_with,
    parse_metrics,
    since,
    stage_means_us,
)
from forebay.lab.fleet import Fleet, fleet_in_thread
from forebay.lab.fleet_spec import Faults, FleetSpec, Latency
from forebay.lab.http1 import Reply, Request
from forebay.lab.traffic import PlanSpec

SPEC = FleetSpec(models=("small-chat",), latency=Latency(time_scale=0.0, tokens_per_event=16), headers_kept=500)
KEYS = {"acme": "key-of-acme", "bistro": "key-of-bistro", "trial": "key-of-trial"}
PLAN = PlanSpec(requests=80, over_limit_requests=8, bad_key_requests=3)
MARKS = (("x-forebay-request-id", "r"), ("x-forebay-model", "small-chat"))


class TeeReply(Reply):
    """Passes an answer on with the gateway's headers and keeps its body."""

    def __init__(self, inner: Reply) -> None:
        self._inner = inner
        self.started = False
        self.status, self.content_type, self.body = 0, "", b""
        self.complete = False

    async def send(
        self, status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status, self.content_type, self.body, self.complete = status, content_type, body, True
        await self._inner.send(status, content_type, body, (*headers, *MARKS, ("x-forebay-cache", "miss")))

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.status, self.content_type = status, dict(headers)["content-type"]
        await self._inner.start(status, (*headers, *MARKS, ("x-forebay-cache", "miss")))

    async def part(self, data: bytes) -> None:
        self.body += data
        await self._inner.part(data)

    async def end(self) -> None:
        self.complete = True
        await self._inner.end()

    def reset(self) -> None:
        self._inner.reset()


@dataclass
class StandIn(Fleet):
    """A gateway as small as can be, and the fleet behind it: keys, one limit, a cache, one request at a time."""

    spec: FleetSpec
    stored: dict[tuple[str, bytes], tuple[str, bytes]] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=lambda: {"trial": 3})

    def __post_init__(self) -> None:
        super().__init__(self.spec)
        self.one_flight = asyncio.Lock()

    def owner(self, tenant: str) -> str:
        return tenant

    async def handle(self, request: Request, reply: Reply) -> None:
        if not request.path.startswith("/v1/"):
            await super().handle(request, reply)
            return
        secret = (request.header("authorization") or "").removeprefix("Bearer ")
        tenant = next((name for name, key in KEYS.items() if key == secret), None)
        if tenant is None:
            await reply.send_json(401, {"error": {"message": "no", "code": "invalid_api_key"}})
            return
        self.budget[tenant] = self.budget.get(tenant, 1_000_000) - 1
        if self.budget[tenant] < 0:
            await reply.send_json(429, {"error": {"message": "no", "code": "rate_limited"}})
            return
        async with self.one_flight:
            found = self.stored.get((self.owner(tenant), request.body))
            if found is not None:
                await reply.send(200, found[0], found[1], (*MARKS, ("x-forebay-cache", "hit")))
                return
            tee = TeeReply(reply)
            kept = tuple((name, value) for name, value in request.headers if name != "authorization")
            await super().handle(Request(request.method, request.path, request.query, kept, request.body), tee)
            if tee.status == 200 and tee.complete:
                self.stored[self.owner(tenant), request.body] = (tee.content_type, tee.body)


@contextlib.contextmanager
def in_thread(kind: type[Fleet], spec: FleetSpec) -> Iterator[DemoEndpoints]:
    with fleet_in_thread(spec, kind) as fleet:
        chat = ChatTarget(fleet.base_url, KEYS, {"plain": "small-chat"})
        prices = {"small-chat": ModelPrice(150_000_000, 600_000_000)}
        yield DemoEndpoints(chat, {"small": fleet.base_url}, "http://127.0.0.1:1", prices)


def test_behind_a_gateway_everything_holds_and_is_reported() -> None:
    with in_thread(StandIn, SPEC) as endpoints:
        result = run_demo(endpoints, PLAN)
    assert [check.name for check in result.failures] == []
    lines = {line.kind: line for line in result.kinds}
    assert lines["bad key"].refused == {"401 invalid_api_key": 3}
    assert lines["tenant over its limit"].refused == {"429 rate_limited": 5}
    # Two sessions run at once: a repetition may overtake the first asking, which then is the one from the cache.
    assert sum(line.from_cache for line in result.kinds) == result.savings.answers > 0
    assert 0 < result.savings.nanousd < result.savings.used_nanousd
    machine = json.loads(result.json())
    assert machine["ok"] is True
    text = report(result)
    assert "FAIL" not in text
    for line in result.kinds:
        assert line.kind in text
    assert f"{result.savings.tokens:,}" in text


def test_injected_faults_are_told_apart_from_failures_of_the_gateway() -> None:
    spec = FleetSpec(models=("small-chat",), latency=SPEC.latency, faults=Faults(failure_ratio=0.1, reset_ratio=0.1))
    with in_thread(StandIn, spec) as endpoints:
        result = run_demo(endpoints, PLAN)
    assert sum(sum(line.failed.values()) for line in result.kinds) > 0
    assert [check.name for check in result.failures] == []


def test_without_a_gateway_the_demo_complains() -> None:
    with in_thread(Fleet, SPEC) as endpoints:
        result = run_demo(endpoints, PLAN)
    assert {check.name for check in result.failures} == {
        "a key that was never issued is refused",
        "a tenant over its limit is refused, and only then",
        "repeated questions are answered from the cache",
        "no fleet ever saw a client's key",
        "every answer names its request",
    }
    assert "FAIL  no fleet ever saw a client's key" in report(result)
    assert json.loads(result.json())["ok"] is False


METRICS = """# HELP forebay_stage_ns_total time
forebay_stage_ns_total{stage="identify"} %d
forebay_stage_ns_total{stage="place"} 0
forebay_stage_runs_total{stage="identify"} %d
forebay_stage_runs_total{stage="place"} 0
"""


def test_stage_times_are_means_of_this_run_alone() -> None:
    grown = since(parse_metrics(METRICS % (9_000_000, 3)), parse_metrics(METRICS % (9_004_000, 5)))
    assert stage_means_us(grown) == {"identify": 2.0}


def test_forwarded_requests_are_averaged_where_their_end_is_known() -> None:
    end = {"status": 200, "duration_ns": 8_000_000, "first_byte_ns": 2_000_000}
    records: list[dict[str, Any]] = [
        {"outcome": "forward", "stages_ns": {"identify": 1000, "read": 3000}, "end": end},
        {"outcome": "forward", "stages_ns": {"identify": 1000}},
        {"outcome": "answer", "stages_ns": {"identify": 1000}, "end": end},
    ]
    times = forwarded_times(records)
    assert times == ForwardedTimes(1, 8.0, 2.0, 4.0)
    assert forwarded_times(records[1:]) is None


def test_metrics_and_heads_are_read() -> None:
    text = '# HELP x y\nforebay_requests_total{route="a\\"b",outcome="ok"} 3 1700\nup 1\n'
    assert parse_metrics(text) == {
        "forebay_requests_total": [({"route": 'a"b', "outcome": "ok"}, 3.0)],
        "up": [({}, 1.0)],
    }
    heads: list[dict[str, Any]] = [
        {"path": "/v1", "headers": [["x-other", "prefix key-of-acme suffix"]]},
        {"path": "/", "headers": []},
    ]
    assert heads_with(heads, KEYS.values()) == 1


def test_a_cache_that_tenants_share_is_noticed() -> None:
    class Shared(StandIn):
        def owner(self, tenant: str) -> str:
            return "everybody"

    with in_thread(Shared, SPEC) as endpoints:
        result = run_demo(endpoints, PLAN)
    assert [check.name for check in result.failures] == ["no tenant gets an answer that it has not paid for"]


def test_a_cut_answer_that_is_given_again_is_noticed() -> None:
    """Seen with the stand-in above, when it kept streams that their fleet had cut."""

    class Careless(StandIn):
        async def handle(self, request: Request, reply: Reply) -> None:
            await super().handle(request, reply)
            for entry, (content_type, body) in self.stored.items():
                self.stored[entry] = (content_type, body[: body.find(b'"finish_reason":"') or None])

    with in_thread(Careless, SPEC) as endpoints:
        result = run_demo(endpoints, PLAN)
    assert "what failed is what the fleets were told to fail" in {check.name for check in result.failures}
