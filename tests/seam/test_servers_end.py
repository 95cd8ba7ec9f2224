"""How both `ext_proc` servers end: a stream that was not answered never ends well, whatever happened to the server.

Owns: drain and shutdown in the middle of a stream. Must not know: what is decided.
On failure: Envoy would let a request go on that nobody decided on.
"""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from extproc_servers import SERVERS
from extproc_streams import Stream
from forebay._core import Engine, Gateway, GatewayError
from forebay.policy import load

FOLDER = Path(__file__).parent / "transcripts"
POLICY = load(FOLDER / "policy.yaml").message_bytes
HEAD, BODY = (step["message"] for step in json.loads((FOLDER / "no_cache.json").read_text())["steps"] if "send" in step)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_stops_breaks_what_it_has_not_answered(name: str) -> None:
    with SERVERS[name](POLICY) as target:
        channel = grpc.insecure_channel(target.address)
        silent, asked, forwarded = (Stream(channel, stream, "decide") for stream in "abc")
        asked.send(HEAD)
        assert "mode_override" in asked.receive()
        forwarded.send(HEAD)
        forwarded.receive()
        forwarded.send(BODY)
        assert "request_body" in forwarded.receive()
    with channel:
        ends = [stream.end() for stream in (silent, asked)]
        for stream in (silent, asked, forwarded):
            stream.half_close()
    assert all(instead is None and code != "OK" for code, instead in ends), ends


@pytest.mark.parametrize("name", SERVERS)
def test_a_draining_server_answers_what_is_new_and_finishes_what_it_began(name: str) -> None:
    with SERVERS[name](POLICY) as target, grpc.insecure_channel(target.address) as channel:
        begun = Stream(channel, "a", "decide")
        begun.send(HEAD)
        begun.receive()
        target.engine.drain()
        late = Stream(channel, "b", "decide")
        late.send(HEAD)
        assert late.receive()["immediate_response"]["details"] == "forebay_draining"
        begun.send(BODY)
        assert "request_body" in begun.receive()
        for stream in (begun, late):
            stream.half_close()
            assert stream.end() == ("OK", None)


def test_an_address_that_is_taken_or_none_is_said_before_anything_is_served() -> None:
    engine = Engine(POLICY)
    first = Gateway(engine, "127.0.0.1:0", "127.0.0.1:0", 1, 1024)
    with pytest.raises(GatewayError, match="cannot serve on"):
        Gateway(engine, first.ext_proc_address, "127.0.0.1:0", 1, 1024)
    with pytest.raises(GatewayError, match="numeric host"):
        Gateway(engine, "somewhere", "127.0.0.1:0", 1, 1024)
    assert first.shutdown(0) == 0
    again = Gateway(engine, first.ext_proc_address, "127.0.0.1:0", 1, 1024)
    assert (again.shutdown(0), again.shutdown(0)) == (0, 0)
