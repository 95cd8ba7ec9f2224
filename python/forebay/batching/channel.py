"""How to reach a server: plain text or TLS, and one connection for all calls to it.

Owns channels. Must not know pools or batches.
On failure: OSError when an authority's file cannot be read; a server that is away is found out by calling it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS to a server.

    `sni` `triton.internal`: the name that is sent and verified; empty: the address's host.
    `ca_file` `/etc/ca.pem`: the authorities that are trusted; None: the system's.
    """

    sni: str = ""
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class PoolServers:
    """The servers of one pool: `addresses` are `host:port`; without `tls` they are called in plain text."""

    addresses: tuple[str, ...]
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """`reconnect_ms` 500: a server that came back is noticed within half a second."""

    reconnect_ms: int = 500


@dataclass(frozen=True, slots=True)
class Server:
    """One server, as it is told from others: `address` is `host:port`."""

    address: str
    tls: ClientTls | None = None

    @property
    def name(self) -> str:
        """What TLS sends and verifies; empty without TLS."""
        if self.tls is None:
            return ""
        return self.tls.sni or self.address.rpartition(":")[0].strip("[]")

    def authorities(self) -> bytes | None:
        """Read the authorities that are trusted; None: the system's.

        Raises: OSError when the file cannot be read.
        """
        return self.tls.ca_file.read_bytes() if self.tls and self.tls.ca_file else None


class Link:
    """Calls to one server, from any thread, on a connection of its own.

    Raises: OSError when the authorities cannot be read.
    """

    def __init__(self, server: Server, settings: ChannelSettings) -> None:
        self.server = server
        self.authorities = server.authorities()
        self._channel = _open(server, self.authorities, settings)
        self._calls: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Make one call of the protocol, as bytes, and wait for its answer.

        Raises: grpc.RpcError when it fails; ValueError on a link that is closed.
        Cost: the GIL is released while it waits.
        """
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self._channel.unary_unary(
                f"/{_SERVICE}/{method}", request_serializer=None, response_deserializer=None
            )
        return call(request, timeout=timeout_s)

    def close(self) -> None:
        """Close the connection; calls on it end with CANCELLED."""
        self._channel.close()


def _open(server: Server, authorities: bytes | None, settings: ChannelSettings) -> grpc.Channel:
    """Open a channel without a bound on messages, since the queue has one."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", settings.reconnect_ms),
        ("grpc.min_reconnect_backoff_ms", settings.reconnect_ms),
        ("grpc.max_reconnect_backoff_ms", settings.reconnect_ms),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    if server.tls is None:
        return grpc.insecure_channel(server.address, options=options)
    options.append(("grpc.ssl_target_name_override", server.name))
    return grpc.secure_channel(server.address, grpc.ssl_channel_credentials(authorities), options=options)
