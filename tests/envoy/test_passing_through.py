"""What is decided by headers alone and forwarded as it is: WebSocket and bidirectional gRPC."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets

import grpc
import pytest

from chain import Chain
from chain_policy import secret_of
from chain_sockets import CLOSE, TEXT, accept_key, frame, read_frame
from envoy_rig import DEADLINE_S, until


async def open_socket(port: int, path: str, key: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """Shake hands; the head of the answer comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    nonce = base64.b64encode(secrets.token_bytes(16)).decode()
    lines = [f"GET {path} HTTP/1.1", "host: x", "upgrade: websocket", "connection: upgrade"]
    lines += ["sec-websocket-version: 13", f"sec-websocket-key: {nonce}", "x-forebay-internal-pool: echo"]
    lines += [f"authorization: Bearer {secret_of(key)}"] if key else []
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    if head.startswith("HTTP/1.1 101 "):
        assert f"sec-websocket-accept: {accept_key(nonce)}" in head
    return reader, writer, head


def in_time(coroutine: object) -> None:
    asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))  # type: ignore[arg-type]


def test_a_websocket_goes_both_ways(chain: Chain) -> None:
    async def talk() -> None:
        reader, writer, head = await open_socket(chain.ports.listen, "/sockets/chat", "acme")
        assert head.startswith("HTTP/1.1 101 "), head
        for text in (b"first", b"second " * 40, b""):
            writer.write(frame(TEXT, text, os.urandom(4)))
            assert await read_frame(reader) == (TEXT, text)
        # It stays a request in flight until it is closed.
        assert chain.metric("forebay_pool_requests", pool="sockets") == 1
        writer.write(frame(CLOSE, b"", os.urandom(4)))
        assert (await read_frame(reader))[0] == CLOSE
        writer.close()
        await writer.wait_closed()

    in_time(talk())
    until(lambda: chain.metric("forebay_pool_requests", pool="sockets") == 0, "its place is free")
    seen = chain.echo.heads[-1]
    assert seen[":line"] == "GET /sockets/chat HTTP/1.1"
    assert "authorization" not in seen
    assert not [name for name in seen if name.startswith("x-forebay-internal")]


def test_a_websocket_of_a_stranger_is_refused(chain: Chain) -> None:
    before = len(chain.echo.heads)

    async def talk() -> None:
        _, writer, head = await open_socket(chain.ports.listen, "/sockets/chat", None)
        assert head.startswith("HTTP/1.1 401 "), head
        writer.close()
        await writer.wait_closed()

    in_time(talk())
    assert len(chain.echo.heads) == before


def test_a_websocket_client_that_vanishes_frees_its_place(chain: Chain) -> None:
    async def talk() -> None:
        _, writer, head = await open_socket(chain.ports.listen, "/sockets/chat", "acme")
        assert head.startswith("HTTP/1.1 101 ")
        writer.transport.abort()

    in_time(talk())
    until(lambda: chain.metric("forebay_pool_requests", pool="sockets") == 0, "its place is free")


def test_bidirectional_grpc_goes_both_ways(chain: Chain) -> None:
    """Each message is answered before the next is sent, so nothing on the way waits for the whole."""

    async def talk() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{chain.ports.listen}") as channel:
            metadata = (("authorization", f"Bearer {secret_of('acme')}"), ("x-forebay-internal-pool", "sockets"))
            call = channel.stream_stream("/lab.Echo/Talk")(metadata=metadata)
            for message in (b"one", b"two", b"x" * 3_000_000):
                await call.write(message)
                assert await call.read() == b"echo " + message
            assert chain.metric("forebay_pool_requests", pool="echo") == 1
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    in_time(talk())
    seen = chain.echo.metadata[-1]
    assert "authorization" not in seen
    assert not [name for name in seen if name.startswith("x-forebay-internal")]


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/lab.Echo/Talk", None, grpc.StatusCode.UNAUTHENTICATED),
        ("/lab.Other/Talk", "acme", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_grpc_callers_are_refused_in_their_own_words(
    chain: Chain, path: str, key: str | None, status: grpc.StatusCode
) -> None:
    async def talk() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{chain.ports.listen}") as channel:
            metadata = [("authorization", f"Bearer {secret_of(key)}")] if key else []
            call = channel.stream_stream(path)(metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == status
            assert caught.value.details()

    in_time(talk())


def test_an_aborted_grpc_call_frees_its_place(chain: Chain) -> None:
    async def talk() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{chain.ports.listen}") as channel:
            call = channel.stream_stream("/lab.Echo/Talk")(metadata=[("authorization", f"Bearer {secret_of('acme')}")])
            await call.write(b"one")
            assert await call.read() == b"echo one"
            call.cancel()

    in_time(talk())
    until(lambda: chain.metric("forebay_pool_requests", pool="echo") == 0, "its place is free")
