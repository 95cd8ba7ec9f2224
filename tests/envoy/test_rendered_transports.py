"""TLS on both sides, WebSocket, and the way that idle times hand over, with the real Envoy.

`certificates/` holds self-signed certificates for `localhost` that only these tests trust.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from envoy_rig import Rig, policy_head, running, trial, until

CERTIFICATES = Path(__file__).parent / "certificates"
CERTIFICATE = CERTIFICATES / "localhost.pem"
NEXT_CERTIFICATE = CERTIFICATES / "localhost-next.pem"
KEY = CERTIFICATES / "localhost.key"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with trial(tmp_path, "a") as rig:
        yield rig


def trusting(certificate: Path = CERTIFICATE) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def takes(rig: Rig, certificate: Path) -> bool:
    try:
        return ask_with_tls(rig, trusting(certificate)) == 200
    except ssl.SSLCertVerificationError:
        return False


def ask_with_tls(rig: Rig, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("localhost", rig.listen, timeout=20, context=context)
    try:
        connection.request("POST", "/v1/chat/completions", "{}", {"x-script": "pool:a"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_listener_speaks_tls_and_takes_a_new_certificate(rig: Rig) -> None:
    served = rig.directory / "served"
    served.mkdir()
    for file in (CERTIFICATE, KEY):
        shutil.copy(file, served)
    tls = f"{{certificate_file: {served / 'localhost.pem'}, private_key_file: {served / 'localhost.key'}}}"
    policy = policy_head(rig).replace('"log_flush_ms": 20', f'"log_flush_ms": 20, "tls": {tls}')
    pools = f"pools: [{{name: a, protocol: OPENAI, endpoints: [{{address: '127.0.0.1:{rig.upstreams['a'].port}'}}]}}]\n"
    with running(rig, policy + pools):
        context = trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", rig.listen), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            assert secured.selected_alpn_protocol() == "h2"
            assert secured.version() in ("TLSv1.2", "TLSv1.3")
        assert ask_with_tls(rig, trusting()) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            ask_with_tls(rig, trusting(NEXT_CERTIFICATE))
        shutil.copy(NEXT_CERTIFICATE, served / "next.pem")
        (served / "next.pem").replace(served / "localhost.pem")
        until(lambda: takes(rig, NEXT_CERTIFICATE), "the next certificate")


@contextmanager
def tls_upstream() -> Iterator[tuple[int, list[str]]]:
    """A server that answers 204 and notes the server names it was asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.set_alpn_protocols(["http/1.1"])
    asked: list[str] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(65536)
                    secured.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1]), asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_an_upstream_is_verified_by_the_name_that_was_asked_for(rig: Rig) -> None:
    with tls_upstream() as (port, asked):
        trusted = f"ca_file: {CERTIFICATE}"
        pools = f"""pools:
- {{name: by-host, protocol: OPENAI, endpoints: [{{address: "localhost:{port}"}}], tls: {{{trusted}}}}}
- {{name: by-sni, protocol: OPENAI, endpoints: [{{address: "127.0.0.1:{port}"}}], tls: {{sni: localhost, {trusted}}}}}
- {{name: wrong, protocol: OPENAI, endpoints: [{{address: "127.0.0.1:{port}"}}], tls: {{sni: other.test, {trusted}}}}}
- {{name: system, protocol: OPENAI, endpoints: [{{address: "localhost:{port}"}}], tls: {{}}}}
"""
        with running(rig, policy_head(rig) + pools):
            assert rig.ask(x_script="pool:by-host").status == 204
            assert rig.ask(x_script="pool:by-sni").status == 204
            assert asked == ["localhost", "localhost"]
            for name in ("wrong", "system"):
                answer = rig.ask(x_script=f"pool:{name}")
                assert (answer.status, answer.code) == (503, "upstream_unavailable")
            assert "other.test" in asked


def test_websocket_passes_through(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                assert b"fbk_secret" not in head
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
                )
                while data := connection.recv(65536):
                    connection.sendall(data.upper())

        thread = threading.Thread(target=serve)
        thread.start()
        pools = (
            f"pools: [{{name: w, protocol: HTTP, endpoints: [{{address: '127.0.0.1:{listener.getsockname()[1]}'}}]}}]"
        )
        with (
            running(rig, policy_head(rig) + pools),
            socket.create_connection(("127.0.0.1", rig.listen), timeout=20) as client,
        ):
            client.sendall(
                b"GET /live HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"authorization: Bearer fbk_secret\r\nx-script: pool:w\r\n\r\n"
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            assert head.startswith(b"HTTP/1.1 101")
            client.sendall(b"hello")
            assert client.recv(65536) == b"HELLO"
        thread.join()


def test_a_stream_ends_at_its_longest_duration(rig: Rig) -> None:
    """Not at the shorter idle time before the decision, and with an error in OpenAI's shape."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        pools = f"pools: [{{name: silent, protocol: OPENAI, endpoints: [{{address: '{address}'}}]}}]"
        with running(rig, policy_head(rig, max_stream_duration_ms=1000) + pools):
            answer = rig.ask(x_script="pool:silent")
            assert (answer.status, answer.code) == (504, "upstream_timeout")
