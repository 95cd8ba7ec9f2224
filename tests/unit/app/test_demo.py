"""The demo's policy is right, and what `forebay up` prints to try fits it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from forebay.app.demo import KEYS, MODELS, POLICY, UP_SETTINGS, _curl_lines
from forebay.app.site import TRITON_MODELS, Site
from forebay.lab.demo import IN_TRITON
from forebay.policy import load, override
from forebay.policy.engine import ExplainedRequest, check, explain

LOADED = load(POLICY)


def test_the_policy_has_no_error_and_prices_where_budgets_want_them() -> None:
    assert [finding for finding in check(LOADED) if finding.severity == "error"] == []
    models = {model.name: model for model in LOADED.message().models}
    assert set(MODELS.values()) <= set(models)
    in_triton = {name for name, model in models.items() if list(model.pools) == ["triton"]}
    assert in_triton == set(IN_TRITON)
    assert in_triton <= set(TRITON_MODELS)
    assert {name for name, model in models.items() if not model.HasField("prices")} == {"small-embed"}


@pytest.fixture
def lines() -> str:
    policy = override(LOADED, UP_SETTINGS)
    site = Site(
        policy=policy,
        folder=Path("folder"),
        base_url=f"http://{policy.message().envoy.listen_address}",
        admin_url=f"http://{policy.message().gateway.admin_address}",
        fleets={},
        triton="127.0.0.1:9",
        triton_vocabulary=Path("vocab.txt"),
        ledger=Path("folder/ledger"),
        gateway_pid=1,
        envoy_pid=2,
    )
    return _curl_lines(site)


def test_every_request_to_try_is_one_that_the_policy_lets_pass(lines: str) -> None:
    found = [
        re.search(r"curl -\w+ http://127\.0\.0\.1:10000(/\S+)(.*?)(?:-d '(.*)')?$", each, re.DOTALL)
        for each in lines.split("\n\n")
    ]
    tried = [(each[1], each[2], each[3] or "") for each in found if each]
    assert [path for path, _, _ in tried] == [
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v2/models/minilm/infer",
        "/v1/chat/completions",
        "/v1/models",
    ]
    for path, flags, body in tried:
        headers = dict(re.findall(r"'([a-z-]+): ([^']+)'", flags))
        assert headers["authorization"] == f"Bearer {KEYS['acme']}"
        if body:
            json.loads(body)
        request = ExplainedRequest(path, body.encode(), "POST" if body else "GET", tuple(headers.items()))
        result = explain(LOADED, request)["result"]
        assert result.get("status", 200) == 200, (path, result)
    assert "forebay ledger folder/ledger" in lines
