"""What a fleet tells of its usage, in every API and style, and that its own books agree with it."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import brotli
import openai
import pytest

from forebay.lab.fleet import Fleet, fleet_in_thread, running_fleet
from forebay.lab.fleet_spec import Accounting, Faults, FleetSpec, FleetSpecError, Latency, LogNormal, Wire

AT_ONCE = Latency(output_tokens=LogNormal(40.0), time_scale=0.0)
COUNTED = Accounting("ask", cached_ratio=0.25, cache_write_ratio=0.25, reasoning_ratio=0.5)
TEXT = "How do I dispute a card payment that I do not recognise, and how long does it take to get the money back?"
CHAT = {"model": "m", "messages": [{"role": "user", "content": TEXT}]}
MESSAGE = CHAT | {"max_tokens": 64, "system": "Be brief."}
RESPONSE = {"model": "m", "input": TEXT, "instructions": "Be brief."}
ASKING = {"stream_options": {"include_usage": True}}


@contextmanager
def fleet_with(**fields: Any) -> Iterator[Fleet]:
    with fleet_in_thread(FleetSpec(models=("m",), **({"latency": AT_ONCE, "accounting": COUNTED} | fields))) as fleet:
        yield fleet
        assert fleet.server.errors == []


def post(fleet: Fleet, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.server.port, timeout=10)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, json.dumps(body), sent)
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def stream(fleet: Fleet, path: str, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    status, _, data = post(fleet, path, body | {"stream": True}, **headers)
    assert status == 200
    return events(data)


def events(data: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in data.splitlines() if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def usages(found: list[dict[str, Any]]) -> list[tuple[bool, int]]:
    """Of each chunk with usage: whether it has choices, and its output tokens."""
    return [(bool(e["choices"]), e["usage"]["completion_tokens"]) for e in found if e.get("usage")]


def test_the_usage_of_a_chat_names_its_parts_and_is_what_the_books_say() -> None:
    with fleet_with() as fleet:
        _, _, data = post(fleet, "/v1/chat/completions", CHAT, x_trial_id="t1", x_request_id="r1")
    usage, (entry,) = json.loads(data)["usage"], fleet.ledger.entries()
    assert usage["total_tokens"] == entry.prompt_tokens + entry.output_tokens
    assert usage["prompt_tokens"] == entry.prompt_tokens
    assert usage["prompt_tokens_details"]["cached_tokens"] == entry.cached_tokens == entry.prompt_tokens // 4
    assert usage["completion_tokens_details"]["reasoning_tokens"] == entry.reasoning_tokens > 0
    assert (entry.trial, entry.request_id, entry.outcome, entry.usage_told) == ("t1", "r1", "ok", True)
    assert entry.cache_write_tokens == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_each_style_tells_usage_in_its_own_place(path: str) -> None:
    body = CHAT if "chat" in path else {"model": "m", "prompt": TEXT, "max_tokens": 24}

    def told(style: Any, **more: Any) -> tuple[list[tuple[bool, int]], int, bool]:
        with fleet_with(accounting=Accounting(style, reasoning_ratio=0.25)) as fleet:
            found = usages(stream(fleet, path, body | more))
        (entry,) = fleet.ledger.entries()
        return found, entry.output_tokens, entry.usage_told

    found, output, given = told("ask", **ASKING)
    assert (found, given) == ([(False, output)], True)
    assert told("ask") == ([], output, False)
    assert told("always") == ([(False, output)], output, True)
    assert told("last_choice", **ASKING) == ([(True, output)], output, True)
    assert told("never", **ASKING) == ([], output, False)
    found, output, given = told("every_chunk")
    assert given
    assert all(has_choices for has_choices, _ in found)
    counts = [count for _, count in found]
    assert counts == sorted(counts)
    assert counts[-1] == output
    assert told("every_chunk", **ASKING)[0][-1] == (False, output)


def test_thinking_stays_within_the_limit() -> None:
    with fleet_with(accounting=Accounting(reasoning_ratio=3.0)) as fleet:
        for limit in (5, 30, 60):
            post(fleet, "/v1/chat/completions", CHAT | {"max_tokens": limit})
    for entry, limit in zip(fleet.ledger.entries(), (5, 30, 60), strict=True):
        assert entry.output_tokens <= limit
        assert entry.reasoning_tokens <= entry.output_tokens


def test_responses_are_what_the_client_expects() -> None:
    with fleet_with(credential="k") as fleet, openai.OpenAI(base_url=f"{fleet.base_url}/v1", api_key="k") as client:
        plain = client.responses.create(**RESPONSE)
        streamed = list(client.responses.create(**RESPONSE, stream=True))
        cut = client.responses.create(**RESPONSE, max_output_tokens=7)
        listed = client.responses.create(
            model="m", input=[{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}]
        )
        with pytest.raises(openai.BadRequestError, match="input"):
            client.responses.create(model="m", input=[])
    assert plain.status == "completed"
    assert plain.usage.input_tokens_details.cached_tokens == plain.usage.input_tokens // 4
    assert plain.usage.output_tokens_details.reasoning_tokens > 0
    assert [event.sequence_number for event in streamed] == list(range(len(streamed)))
    assert [streamed[0].type, streamed[-1].type] == ["response.created", "response.completed"]
    deltas = [event.delta for event in streamed if event.type == "response.output_text.delta"]
    assert "".join(deltas) == plain.output_text
    assert listed.output_text
    assert streamed[-1].response.usage == plain.usage
    assert (cut.status, cut.incomplete_details.reason, cut.usage.output_tokens) == (
        "incomplete",
        "max_output_tokens",
        7,
    )
    books = fleet.ledger.entries()
    assert [entry.output_tokens for entry in books[:3]] == [plain.usage.output_tokens] * 2 + [7]
    assert all(entry.usage_told for entry in books[:4])


def test_messages_have_anthropics_events_counts_and_errors() -> None:
    with fleet_with(credential="k") as fleet:
        _, _, data = post(fleet, "/v1/messages", MESSAGE, x_api_key="k", x_trial_id="a")
        first = json.loads(data)
        for trial in range(8):
            plain = json.loads(post(fleet, "/v1/messages", MESSAGE, x_api_key="k", x_trial_id=str(trial))[2])
            found = stream(fleet, "/v1/messages", MESSAGE, x_api_key="k", x_trial_id=str(trial))
            names = [event["type"] for event in found]
            assert names[:3] == ["message_start", "content_block_start", "ping"]
            assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
            start, end = found[0]["message"]["usage"], found[-2]["usage"]
            assert start == plain["usage"] | {"output_tokens": 1}
            assert end["output_tokens"] == plain["usage"]["output_tokens"]
            assert "".join(event["delta"].get("text", "") for event in found[3:-3]) == plain["content"][0]["text"]
        stranger, _, refused = post(fleet, "/v1/messages", MESSAGE)
        wrong, _, missing = post(fleet, "/v1/messages", CHAT, x_api_key="k")
    entry = fleet.ledger.entries()[0]
    assert entry.cached_tokens > 0
    assert entry.cache_write_tokens > 0
    assert first["usage"] | {"cache_creation": 0, "service_tier": 0} == {
        "cache_creation": 0,
        "service_tier": 0,
        "input_tokens": entry.prompt_tokens - entry.cached_tokens - entry.cache_write_tokens,
        "cache_creation_input_tokens": entry.cache_write_tokens,
        "cache_read_input_tokens": entry.cached_tokens,
        "output_tokens": entry.output_tokens,
    }
    assert (stranger, wrong) == (401, 400)
    assert json.loads(refused)["error"]["type"] == "authentication_error"
    assert json.loads(missing) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: Field required"},
    }


def test_newer_and_older_ends_of_a_message_both_occur() -> None:
    with fleet_with() as fleet:
        ends = [stream(fleet, "/v1/messages", MESSAGE, x_trial_id=str(trial))[-2]["usage"] for trial in range(16)]
    assert {"input_tokens" in end for end in ends} == {True, False}
    nested = [end["cache_creation"] for end in ends if "cache_creation" in end]
    assert all(lifetimes["ephemeral_5m_input_tokens"] > 0 for lifetimes in nested)


def test_usage_that_an_answer_quotes_is_text() -> None:
    accounting = Accounting("ask", quote_ratio=1.0)
    with fleet_with(accounting=accounting) as fleet:
        plain = json.loads(post(fleet, "/v1/chat/completions", CHAT)[2])
        found = stream(fleet, "/v1/chat/completions", CHAT | {"max_tokens": 4})
    assert plain["choices"][0]["message"]["content"].startswith('{"usage": {"prompt_tokens"')
    assert plain["usage"]["completion_tokens"] == fleet.ledger.entries()[0].output_tokens < 999
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert fleet.ledger.entries()[1].output_tokens == 4


@pytest.mark.parametrize("line_end", ["lf", "crlf"])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "br"])
@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT | ASKING), ("/v1/messages", MESSAGE), ("/v1/responses", RESPONSE)]
)
def test_the_wire_changes_nothing_that_is_said(path: str, body: dict[str, Any], encoding: Any, line_end: Any) -> None:
    wire = Wire(encoding, line_end, comment_ratio=0.5, cut_ratio=1.0)
    with fleet_with() as plain_fleet:
        expected = stream(plain_fleet, path, body, x_trial_id="t")
    with fleet_with(wire=wire) as fleet:
        _, head, data = post(fleet, path, body | {"stream": True}, accept_encoding="br, gzip;q=0.5", x_trial_id="t")
        _, plain_head, plain = post(fleet, path, body, accept_encoding=encoding)
        _, other, _ = post(fleet, path, body, accept_encoding="deflate")
    opened = {"gzip": gzip.decompress, "br": brotli.decompress}.get(encoding, bytes)
    assert head.get("content-encoding", "identity") == plain_head.get("content-encoding", "identity") == encoding
    assert "content-encoding" not in other
    text = opened(data)
    assert (b"\r\n" in text) == (line_end == "crlf")
    assert b"\n: data: not an event" in text
    drop = {"created", "created_at"}
    assert json.dumps([without(e, drop) for e in events(text)]) == json.dumps([without(e, drop) for e in expected])
    assert json.loads(opened(plain))["model"] == "m"


def without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


def test_a_compressed_event_can_be_read_as_soon_as_it_is_sent() -> None:
    """A gate between two events must not hold the first one back inside the compressor."""
    slow = Latency(LogNormal(0.0), LogNormal(3_600_000.0), LogNormal(40.0))
    spec = FleetSpec(models=("m",), latency=slow, wire=Wire("gzip"))

    async def first_text() -> bytes:
        async with running_fleet(spec) as fleet:
            reader, writer = await asyncio.open_connection("127.0.0.1", fleet.server.port)
            body = json.dumps(CHAT | {"stream": True}).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\naccept-encoding: gzip\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await reader.readuntil(b"\r\n\r\n")
            opened, text = zlib.decompressobj(31), b""
            while b'"content":"' not in text.replace(b'"content":""', b""):
                size = int(await reader.readline(), 16)
                text += opened.decompress((await reader.readexactly(size + 2))[:-2])
            writer.close()
            return text

    assert b"data: " in asyncio.run(asyncio.wait_for(first_text(), 10))


def test_what_a_cut_stream_used_is_in_the_books() -> None:
    faults = Faults(reset_ratio=1.0, reset_after_tokens=6)
    with fleet_with(faults=faults, accounting=Accounting("always")) as fleet:
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/messages", MESSAGE), ("/v1/responses", RESPONSE)):
            for streamed in (True, False):
                with pytest.raises((http.client.HTTPException, ConnectionError)):
                    post(fleet, path, body | {"stream": streamed})
    for entry in fleet.ledger.entries():
        assert (entry.outcome, entry.output_tokens, entry.usage_told) == ("reset", 6, False)
        assert entry.prompt_tokens > 0


def test_a_failed_request_used_nothing() -> None:
    with fleet_with(faults=Faults(failure_ratio=1.0, failure_statuses=(429, 500))) as fleet:
        statuses = {post(fleet, "/v1/messages", MESSAGE, x_trial_id=str(trial))[0] for trial in range(12)}
    assert statuses == {429, 500}
    assert {entry.outcome for entry in fleet.ledger.entries()} == {"failed"}
    assert sum(entry.prompt_tokens + entry.output_tokens for entry in fleet.ledger.entries()) == 0


def test_a_trials_fate_is_its_own() -> None:
    """The order in which requests arrive changes nothing."""

    def fates(order: list[int]) -> dict[str, str]:
        with fleet_with(faults=Faults(failure_ratio=0.5), seed=4) as fleet:
            for trial in order:
                post(fleet, "/v1/chat/completions", CHAT, x_trial_id=str(trial))
        return {entry.trial: entry.outcome for entry in fleet.ledger.entries()}

    forwards = fates(list(range(16)))
    assert fates(list(reversed(range(16)))) == forwards
    assert set(forwards.values()) == {"ok", "failed"}


def test_a_request_that_hangs_ends_with_its_client_and_the_ledger_is_served() -> None:
    with fleet_with(faults=Faults(hang_ratio=1.0)) as fleet:
        connection = http.client.HTTPConnection("127.0.0.1", fleet.server.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"x-trial-id": "h"})
        asked = http.client.HTTPConnection("127.0.0.1", fleet.server.port, timeout=10)
        while fleet.stats.in_flight == 0:
            asked.request("GET", "/health")
            asked.getresponse().read()
        connection.close()
        while fleet.stats.aborted == 0:
            asked.request("GET", "/health")
            asked.getresponse().read()
        asked.request("GET", "/lab/ledger")
        (entry,) = json.loads(asked.getresponse().read())
        asked.close()
    assert (entry["trial"], entry["outcome"], entry["output_tokens"]) == ("h", "aborted", 0)


def test_a_spec_with_the_new_fields_survives_json() -> None:
    spec = FleetSpec(accounting=COUNTED, wire=Wire("br", "crlf", 0.1, 0.2), faults=Faults(hang_ratio=0.1))
    assert FleetSpec.from_json(spec.to_json()) == spec
    with pytest.raises(FleetSpecError, match=r"`spec.accounting.usage` must be one of ask, always"):
        FleetSpec.from_json('{"accounting": {"usage": "sometimes"}}')
