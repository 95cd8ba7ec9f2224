"""Usage in JSON bodies, compressed answers and over HTTP/2, and the answers in which nothing is looked for."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import brotli
import h2.config
import h2.connection
import h2.events
import pytest

from envoy_rig import DEADLINE_S, until
from usage_rig import UsageSite, usage_site
from usage_shapes import SHAPES, USAGE, compact
from usage_upstream import Answering, json_answer, sized, streamed

NESTED = {"usage": {"a": 1}}
TOOL = {"type": "tool_use", "input": NESTED | {"text": '"usage":{"a":1}}\\'}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageSite]:
    with usage_site(tmp_path_factory.mktemp("usage")) as site:
        yield site


BODIES: dict[str, tuple[str, str]] = {
    "chat": (f'{{"id":"c","choices":[{{"message":{{"content":"{{"}}}}],"usage":{USAGE}}}', USAGE),
    "pretty": (json.dumps({"choices": [], "usage": json.loads(USAGE), "after": {"a": [{}]}}, indent=2), ""),
    "first": (f'{{"usage":{USAGE},"choices":[{compact(TOOL)}],"s":"}}\\"}}"}}\n', USAGE),
    "messages": (compact({"content": [TOOL], "usage": {"input_tokens": 3}}), '{"input_tokens":3}'),
    "twice": ('{"usage":{"a":1},"usage":{"a":2}}', '{"a":2}'),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_usage_of_a_body_is_its_own_member(site: UsageSite, name: str) -> None:
    body, usage = BODIES[name]
    got = site.ask(json_answer(body.encode()))
    assert got.body == body.encode()
    noted = site.noted(got.name)
    assert noted.keys() == {"last"}
    if usage:
        assert noted["last"] == usage
    else:
        assert json.loads(noted["last"]) == json.loads(USAGE)


@pytest.mark.parametrize(
    "body",
    [
        compact({"choices": [TOOL | NESTED], "x": NESTED}),
        '{"choices":[],"usage":null}',
        '{"choices":[],"usage":7}',
        '{"error":{"message":"no"}}',
        "",
        "[]",
        '{"usage":{"a":1}',
        '"usage":{}',
        "\x00\xff{}",
    ],
)
def test_a_body_without_usage_leaves_nothing(site: UsageSite, body: str) -> None:
    got = site.ask(json_answer(body.encode("latin-1")))
    assert got.body == body.encode("latin-1")
    assert site.noted(got.name) == {}


@pytest.mark.parametrize("usage", [{"a": "x" * 2048}, {"a": "\x7f"}, {"a": "}"}])
def test_usage_that_cannot_be_kept_is_said(site: UsageSite, usage: dict[str, str]) -> None:
    got = site.ask(json_answer(json.dumps({"usage": usage}, ensure_ascii=False).encode()))
    noted = site.noted(got.name)
    assert noted in ({"bad": "1"}, {"last": '{"a": "}'})


def test_usage_of_the_largest_size_is_kept(site: UsageSite) -> None:
    usage = compact({"a": "x" * (2048 - len('{"a":""}'))})
    for more, noted in (("", {"last": usage}), (" ", {"bad": "1"})):
        got = site.ask(json_answer(f'{{"usage":{usage[:-1]}{more}}}}}'.encode()))
        assert site.noted(got.name) == noted


def test_a_large_body_is_read_at_its_end(site: UsageSite) -> None:
    """Embeddings of 1.5 MB, in pieces of every kind, and one whose usage is out of reach."""
    vectors = ('{"embedding":[' + ",".join(["-0.0123456"] * 1536) + "]},") * 85
    body = f'{{"object":"list","data":[{vectors}{{}}],"usage":{USAGE}}}'.encode()
    assert len(body) > 1_400_000
    for size in (len(body), 100_000, 7_001, 65_536):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        got = site.ask(sized(parts, "content-type: application/json; charset=utf-8"))
        assert got.body == body
        assert site.noted(got.name) == {"last": USAGE}
    parts = [body[:-100], *(body[-100:][at : at + 1] for at in range(100))]
    assert site.noted(site.ask(sized(parts, "content-type: application/json")).name) == {"last": USAGE}
    far = f'{{"usage":{USAGE},"data":"{"x" * 70_000}"}}'.encode()
    assert site.noted(site.ask(json_answer(far)).name) == {}


def test_a_body_of_many_candidates_is_cheap(site: UsageSite) -> None:
    body = b'{"x":[' + b'{"usage":{}},' * 100_000 + b'{}],"usage":{"a":1}}'
    got = site.ask(json_answer(body))
    assert site.noted(got.name) == {"last": '{"a":1}'}


def packed(encoding: str, data: bytes) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else brotli.compress(data)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_compressed_answer_is_read_and_goes_on_plain(site: UsageSite, encoding: str) -> None:
    shape = SHAPES["chat"]
    headers = [f"content-encoding: {encoding}", "cache-control: no-transform"]
    data = packed(encoding, shape.stream)
    for cuts in (1, 7, len(data)):
        parts = [data[at : at + cuts] for at in range(0, len(data), cuts)]
        for asked, body in (({}, shape.stream), ({"x_drop": "1"}, shape.without_extra)):
            got = site.ask(streamed(parts, *headers), **asked)
            assert got.body == body
            assert "content-encoding" not in got.headers
            assert site.noted(got.name) == shape.noted
    # Envoy ends a Brotli answer that grows more than a hundredfold.
    words = "so " * 200_000 if encoding == "gzip" else " ".join(map(str, range(100_000)))
    body = f'{{"choices":[],"text":"{words}","usage":{USAGE}}}'.encode()
    got = site.ask(json_answer(packed(encoding, body), headers[0]))
    assert got.body == body
    assert got.headers.get("content-length", str(len(body))) == str(len(body))
    assert site.noted(got.name) == {"last": USAGE}


def test_upstreams_of_models_are_asked_for_no_encoding(site: UsageSite) -> None:
    names = {"accept_encoding": "gzip, br", "anthropic_version": "2023-06-01", "anthropic_beta": "x"}
    trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}
    for pool, asked in (("open", False), ("anthropic", False), ("plain", True)):
        site.ask(json_answer(b"{}"), x_script=pool, x_api_key="fbk_secret", **names, **trace)
        seen = dict(line.split(": ", 1) for line in site.upstream.seen[-1].split("\r\n")[1:])
        assert ("accept-encoding" in seen) == asked
        assert seen["anthropic-version"] == "2023-06-01"
        assert (seen["traceparent"], seen["tracestate"]) == (trace["traceparent"], trace["tracestate"])
        assert seen.get("x-api-key") == ("sk-a" if pool == "anthropic" else None)


def test_nothing_runs_where_nothing_is_looked_for(site: UsageSite) -> None:
    """Neither on answers of our own, nor on failures of Envoy, nor on other pools, which are not unpacked either."""
    stream = SHAPES["chat"].stream
    runs = site.runs()
    assert site.ask(json_answer(b"{}"), x_script="immediate").body == b'{"error":{"code":"ours"}}'
    assert b"undecided" in site.ask(json_answer(b"{}"), x_script="nowhere").body
    got = site.ask(streamed([stream]), x_script="plain", x_drop="1")
    assert got.body == stream
    assert site.noted(got.name) == {}
    zipped = gzip.compress(stream)
    got = site.ask(streamed([zipped], "content-encoding: gzip"), x_script="plain", x_drop="1")
    assert (got.body, got.headers["content-encoding"]) == (zipped, "gzip")
    assert site.runs() == runs
    assert site.noted(site.ask(json_answer(b"{}"), x_script="dead").name) == {}


@pytest.mark.parametrize("headers", [[], ["content-type: text/plain"], ["content-type: application/x-ndjson"]])
def test_other_kinds_of_answers_pass(site: UsageSite, headers: list[str]) -> None:
    stream = SHAPES["chat"].stream
    got = site.ask(sized([stream], *headers), x_drop="1")
    assert got.body == stream
    assert site.noted(got.name) == {}


def test_an_encoding_that_is_not_known_passes(site: UsageSite) -> None:
    got = site.ask(sized([b"\x28\xb5"], "content-type: text/event-stream", "content-encoding: zstd"), x_drop="1")
    assert (got.body, got.headers["content-encoding"]) == (b"\x28\xb5", "zstd")
    assert site.noted(got.name) == {}


def test_a_stream_with_a_length_loses_it_with_the_event(site: UsageSite) -> None:
    shape = SHAPES["chat"]
    got = site.ask(sized([shape.stream], "content-type: Text/Event-Stream ; charset=utf-8"), x_drop="1")
    assert got.body == shape.without_extra
    assert "content-length" not in got.headers
    assert site.noted(got.name) == shape.noted


def test_the_copy_has_the_event_that_the_client_does_not_get(site: UsageSite) -> None:
    shape = SHAPES["chat"]
    answer = streamed([gzip.compress(shape.stream)], "content-encoding: gzip")
    for play in (streamed([shape.stream]), answer):
        site.gateway.captured = b""
        assert site.ask(play, x_drop="1", x_capture="1").body == shape.without_extra
        until(lambda: site.gateway.captured == shape.stream, "the copy")


def http2(site: UsageSite, answering: Answering, *headers: tuple[str, str]) -> tuple[str, bytes]:
    name = site.play(answering)
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    body, ended = b"", False
    with socket.create_connection(("127.0.0.1", site.rig.listen), timeout=DEADLINE_S) as sock:
        client.initiate_connection()
        path = f"/v1/chat/completions?play={name}"
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path), *headers]
        client.send_headers(1, head, end_stream=True)
        sock.sendall(client.data_to_send())
        while not ended:
            events: list[Any] = client.receive_data(sock.recv(65536))
            for event in events:
                if isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    client.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                ended = ended or isinstance(event, h2.events.StreamEnded)
                assert not isinstance(event, h2.events.StreamReset)
            sock.sendall(client.data_to_send())
    return name, body


@pytest.mark.parametrize("shape", ["chat", "comments, CRLF", "unfinished", "messages"])
def test_clients_over_http2_get_the_same(site: UsageSite, shape: str) -> None:
    wanted = SHAPES[shape]
    for size in (1, 50, len(wanted.stream)):
        parts = [wanted.stream[at : at + size] for at in range(0, len(wanted.stream), size)]
        for headers, body in (([], wanted.stream), ([("x-drop", "1")], wanted.without_extra)):
            name, got = http2(site, streamed(parts), *headers)
            assert got == body
            assert site.noted(name) == wanted.noted
    zipped = streamed([gzip.compress(wanted.stream)], "content-encoding: gzip")
    assert http2(site, zipped, ("x-drop", "1"))[1] == wanted.without_extra
