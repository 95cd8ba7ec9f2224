"""The policy file is replaced under load: nothing fails, new pools are routable, an invalid file changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from chain import NOTHING, Chain
from chain_fleet import ScriptedFleet, scripted
from envoy_rig import Answer, until
from forebay.lab.fleet import fleet_in_thread
from test_gateway_life import Load


@pytest.fixture
def site(sites: Callable[..., Chain]) -> Chain:
    return sites()


def changed(chain: Chain, change: Callable[[dict[str, Any]], None]) -> float:
    """Write a changed policy and wait until it is in force or refused; how many were refused comes back."""
    policy = copy.deepcopy(chain.policy)
    change(policy)
    names = ("forebay_policies_total", "forebay_policies_refused_total")
    before = sum(chain.metric(name) for name in names)
    chain.write_policy(policy)
    until(lambda: sum(chain.metric(name) for name in names) > before, "the gateway has looked at the file")
    return chain.metric("forebay_policies_refused_total")


def assert_no_failure(load: Load) -> None:
    bad = [a for a in load.answers if not isinstance(a, Answer) or a.status != 200]
    assert not bad, bad[:3]


def test_changes_under_load_fail_no_request(site: Chain) -> None:
    with Load(site, {}) as load:
        for turn in range(6):
            count = len(load.answers)
            refused = changed(site, lambda policy, turn=turn: policy.update(name=f"turn-{turn}"))  # type: ignore[misc]
            assert refused == 0
            until(lambda count=count: len(load.answers) > count + 20, "load runs on")  # type: ignore[misc]
    assert_no_failure(load)
    assert site.admin("GET", "/policy").json["name"] == "turn-5"
    site.assert_quiet(NOTHING)


def test_a_new_pool_becomes_routable_under_load(site: Chain) -> None:
    spec = scripted("fresh", "fresh-chat", credential=site.pool_key)
    with fleet_in_thread(spec, ScriptedFleet) as fleet, Load(site, {}) as load:

        def add(policy: dict[str, Any]) -> None:
            credential = policy["pools"][0]["credential"]
            endpoint = {"address": f"127.0.0.1:{fleet.server.port}"}
            pool = {"name": "fresh", "protocol": "OPENAI", "endpoints": [endpoint], "credential": credential}
            policy["pools"].append(pool)
            policy["models"].append({"name": "fresh-chat", "capabilities": ["CHAT"], "pools": ["fresh"]})

        assert changed(site, add) == 0
        seen: list[tuple[int, str]] = []

        def served() -> bool:
            answer = site.ask({"model": "fresh-chat", "messages": [{"role": "user", "content": "is it there"}]})
            seen.append((answer.status, "" if answer.status == 200 else answer.code))
            return answer.status == 200

        until(served, "the new pool serves")
        # Until Envoy has it, nothing is sent there, and the answer says so.
        assert set(seen) <= {(200, ""), (503, "no_healthy_pool"), (404, "model_not_found")}
        assert changed(site, lambda policy: policy.update(name="without it")) == 0
        gone = site.ask({"model": "fresh-chat", "messages": [{"role": "user", "content": "is it there"}]})
        assert (gone.status, gone.code) == (404, "model_not_found")
    assert_no_failure(load)


def test_an_invalid_policy_is_refused_whole_and_said(site: Chain) -> None:
    def spoil(policy: dict[str, Any]) -> None:
        policy["name"] = "spoiled"
        policy["limits"].append({"name": "none at all", "scope": "KEY", "unit": "REQUESTS", "amount": 0})
        policy["models"][0]["pools"] = ["nowhere"]

    with Load(site, {}) as load:
        assert changed(site, spoil) == 1
        assert site.admin("GET", "/policy").json["name"] == "chain"
        count = len(load.answers)
        until(lambda: len(load.answers) > count + 20, "load runs on")
    assert_no_failure(load)
    said = site.gateway.said()
    assert "the one before stays in force" in said
    assert "policy.yaml:" in said
    assert "`nowhere`" in said
    assert site.admin("GET", "/readyz").status == 200
    # The next good one is taken.
    assert changed(site, lambda policy: policy.update(name="mended")) == 1
    assert site.admin("GET", "/policy").json["name"] == "mended"


@pytest.mark.parametrize("text", ["name: [", "", "pools: 7", "\x00"])
def test_a_file_that_is_no_policy_is_refused(site: Chain, text: str) -> None:
    before = site.metric("forebay_policies_refused_total") + site.metric("forebay_policies_total")
    site.write_policy(text)
    until(
        lambda: site.metric("forebay_policies_refused_total") + site.metric("forebay_policies_total") > before,
        "the gateway has looked at it",
    )
    assert site.admin("GET", "/healthz").status == 200
    if text:
        assert site.metric("forebay_policies_refused_total") == 1
        assert site.chat("the policy before is in force").headers["x-forebay-pool"] == "small-fleet"


def test_a_new_revision_forgets_and_a_new_key_is_known(site: Chain) -> None:
    text = "of an old revision"
    assert site.chat(text).headers["x-forebay-cache"] == "miss"
    until(lambda: site.chat(text).headers["x-forebay-cache"] == "hit", "it is kept")

    def revise(policy: dict[str, Any]) -> None:
        policy["models"][0]["revision"] = "2"
        policy["keys"] = [key for key in policy["keys"] if key["id"] != "bistro"]
        policy["limits"].append(
            {"name": "none", "scope": "KEY", "unit": "CONCURRENCY", "amount": 1, "keys": ["acme-bo"]}
        )

    assert site.chat("a key that will go", "bistro").headers["x-forebay-cache"] == "miss"
    assert changed(site, revise) == 0
    assert site.chat(text).headers["x-forebay-cache"] == "miss"
    assert site.refusal({"model": "small-chat"}, key="bistro").status_code == 401
    assert site.chat("a new limit", "acme-bo").headers["x-forebay-cache"] == "miss"
