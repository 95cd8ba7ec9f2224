"""How to reach a server: plain text or TLS, and the channel's options.

Owns the making of channels. Must not know pools or batches.
On failure: OSError when an authority's file cannot be read; a server that is away is found out by calling it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc


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


def open_channel(address: str, tls: ClientTls | None, settings: ChannelSettings) -> grpc.aio.Channel:
    """Open a channel with a connection of its own and without a bound on messages, since the queue has one.

    Raises: OSError when `ca_file` cannot be read.
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", settings.reconnect_ms),
        ("grpc.min_reconnect_backoff_ms", settings.reconnect_ms),
        ("grpc.max_reconnect_backoff_ms", settings.reconnect_ms),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    if tls.sni:
        options.append(("grpc.ssl_target_name_override", tls.sni))
    authorities = tls.ca_file.read_bytes() if tls.ca_file else None
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authorities), options=options)
