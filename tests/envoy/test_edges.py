"""What crosses the edges: internal headers never, credentials never, and what a client is told with an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chain import Chain
from chain_policy import KEYS, secret_of
from forebay.lab.demo_sources import fleet_heads, heads_with

IMITATED = {
    "x-forebay-internal-pool": "large-fleet",
    "x-forebay-internal-capture": "1",
    "x-forebay-internal-id": "0" * 32,
    "x-forebay-internal-anything": "1",
    "x-gateway-destination-endpoint": "127.0.0.1:1",
}


def heads(chain: Chain) -> list[dict[str, Any]]:
    return [head for fleet in chain.fleets.values() for head in fleet_heads(fleet.base_url)]


@pytest.mark.parametrize("spelling", [str, str.upper, str.title])
def test_headers_that_imitate_internal_ones_change_nothing(chain: Chain, spelling: Any) -> None:
    before = len(heads(chain))
    headers = {spelling(name): value for name, value in IMITATED.items()}
    raw = chain.chat(f"imitated internal headers {spelling}", extra_headers=headers)
    assert raw.headers["x-forebay-pool"] == "small-fleet"
    assert raw.headers["x-forebay-request-id"] != "0" * 32
    seen = heads(chain)[before:]
    names = {name for head in seen for name, _ in head["headers"]}
    assert not [name for name in names if name.startswith("x-forebay-internal")]
    assert "x-gateway-destination-endpoint" not in names


def test_imitated_headers_help_no_stranger_and_no_unknown_path(chain: Chain) -> None:
    before = len(heads(chain))
    stranger = chain.send("POST", "/v1/chat/completions", b"{}", None, **IMITATED)
    assert (stranger.status, stranger.code) == (401, "missing_api_key")
    lost = chain.send("POST", "/v1/unlisted", b"{}", "acme", **IMITATED)
    assert (lost.status, lost.code) == (404, "unknown_path")
    assert len(heads(chain)) == before


def test_a_header_with_underscores_is_refused(chain: Chain) -> None:
    """Some servers read `x_forebay` and `x-forebay` as one."""
    import http.client  # noqa: PLC0415 - the helper writes `-` for `_`

    connection = http.client.HTTPConnection("127.0.0.1", chain.ports.listen, timeout=20)
    connection.request("GET", "/v1/models", headers={"x_forebay_internal_pool": "large-fleet"})
    response = connection.getresponse()
    assert response.status == 400
    assert json.loads(response.read())["error"]["code"] == "bad_request"
    connection.close()


def test_the_pools_credential_goes_in_and_the_clients_never_does(chain: Chain) -> None:
    """Over everything that this session has sent so far, streamed or not, to every fleet."""
    chain.chat("a credential for a pool")
    chain.client("acme").embeddings.create(model="small-embed", input="a credential for a pool")
    seen = heads(chain)
    assert heads_with(seen, [secret_of(key) for key in KEYS]) == 0
    assert heads_with(seen, ["fbk_"]) == 0
    for head in seen:
        fields = dict(head["headers"])
        assert fields["authorization"] == f"Bearer {chain.pool_key}"
        assert not {"x-api-key", "api-key", "cookie", "proxy-authorization"} & fields.keys()


def test_a_clients_other_credentials_stay_outside(chain: Chain) -> None:
    extra = {"cookie": "session=1", "proxy-authorization": "Basic x", "x-api-key": "other", "api-key": "other"}
    chain.chat("other credentials", extra_headers=extra)
    assert heads_with(heads(chain), ["session=1", "Basic x"]) == 0


def test_the_pools_key_stands_in_no_file_of_ours(chain: Chain) -> None:
    files = [path for path in chain.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert chain.pool_key.encode() not in content, path
        assert b"fbk_test" not in content, path


def test_an_answer_tells_where_it_came_from(chain: Chain) -> None:
    raw = chain.chat("where an answer came from", model="fast")
    headers = raw.headers
    assert len(headers["x-forebay-request-id"]) == 32
    assert headers["x-forebay-model"] == "small-chat"
    assert headers["x-forebay-pool"] == "small-fleet"
    assert headers["x-forebay-cache"] == "miss"
    assert not [name for name in headers if name.startswith("x-forebay-internal")]
    assert "server" not in headers or headers["server"] == "envoy"
    record = chain.record(headers["x-forebay-request-id"])
    assert (record["asked"], record["model"], record["tenant"], record["key"]) == ("fast", "small-chat", "acme", "acme")
    assert (record["route"], record["pool"], record["outcome"], record["cache"]) == (
        "chat",
        "small-fleet",
        "forward",
        "miss",
    )
    assert record["end"]["status"] == 200
    assert record["end"]["duration_ns"] > record["end"]["first_byte_ns"] > 0


def test_rate_headers_count_down(chain: Chain) -> None:
    first = chain.chat("rate headers one", "five-requests")
    second = chain.chat("rate headers two", "five-requests")
    for raw, left in ((first, "4"), (second, "3")):
        assert raw.headers["x-ratelimit-limit-requests"] == "5"
        assert raw.headers["x-ratelimit-remaining-requests"] == left
    tokens = chain.chat("rate headers three", "few-tokens", max_tokens=20)
    assert tokens.headers["x-ratelimit-limit-tokens"] == "500"
    assert 400 < int(tokens.headers["x-ratelimit-remaining-tokens"]) < 480
    # Whole numbers, however large: Envoy writes a number of metadata as `2e+06`.
    assert first.headers["x-ratelimit-limit-tokens"] == "2000000"
    assert first.headers["x-ratelimit-remaining-tokens"].isdigit()
    assert "x-ratelimit-limit-requests" not in tokens.headers


def test_the_upstream_knows_the_model_by_its_own_name(chain: Chain) -> None:
    word = "the upstream's own name"
    chain.chat(word, model="fast", max_tokens=9)
    body = json.loads(next(body for body in chain.small.bodies if word.encode() in body))
    assert (body["model"], body["max_tokens"]) == ("small-chat-v2", 9)


def test_the_log_of_the_gateway_holds_no_prompt_and_no_key(chain: Chain) -> None:
    word = "a prompt that must not be logged"
    chain.chat(word)
    chain.ask(word.encode())
    said = chain.gateway.said() + Path(chain.folder / "envoy.log").read_text()
    assert word not in said
    assert "fbk_" not in said
