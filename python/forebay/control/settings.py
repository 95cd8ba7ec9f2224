"""The policy's numbers and addresses as rendering needs them: defaults filled in, addresses taken apart.

Owns: the defaults that `policy.proto` documents for `gateway` and `envoy`. Must not know: Envoy's messages.
On failure: RenderError; a checked policy never fails here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forebay.errors import RenderError

if TYPE_CHECKING:
    from forebay.policy._pb.policy_pb2 import Policy

__all__ = ["Address", "Settings"]


@dataclass(frozen=True, slots=True)
class Address:
    """A `host:port`; `host` is without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take `host:port` or `[IPv6]:port` apart; RenderError when it is neither."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise RenderError(f"`{text}` is not `host:port`")
        return cls(host[1:-1] if host.startswith("[") and host.endswith("]") else host, int(port))

    @property
    def is_ip(self) -> bool:
        """Whether the host is an address, not a name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def reachable(self) -> Address:
        """Give the address that a caller on this machine uses: a wildcard is listened on, not called."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)  # noqa: S104

    def socket(self) -> dict[str, object]:
        """Give Envoy's form."""
        return {"socket_address": {"address": self.host, "port_value": self.port}}


@dataclass(frozen=True, slots=True)
class Settings:
    """Units: `_ms` milliseconds, `_bytes` bytes."""

    ext_proc: Address
    batch: Address
    listen: Address
    admin: Address
    max_body_bytes: int
    message_timeout_ms: int
    max_message_timeout_ms: int
    max_stream_duration_ms: int
    log_flush_ms: int

    @classmethod
    def of(cls, policy: Policy) -> Settings:
        """Read a policy, filling in what it does not give."""
        gateway, envoy = policy.gateway, policy.envoy
        return cls(
            ext_proc=Address.parse(gateway.ext_proc_address or "127.0.0.1:9300").reachable(),
            batch=Address.parse(gateway.batch_address or "127.0.0.1:9302").reachable(),
            listen=Address.parse(envoy.listen_address or "127.0.0.1:10000"),
            admin=Address.parse(envoy.admin_address or "127.0.0.1:9901"),
            max_body_bytes=gateway.max_body_bytes or 32 * 1024 * 1024,
            message_timeout_ms=gateway.message_timeout_ms or 1_000,
            max_message_timeout_ms=gateway.max_message_timeout_ms or 60_000,
            max_stream_duration_ms=gateway.max_stream_duration_ms or 600_000,
            log_flush_ms=envoy.log_flush_ms or 200,
        )


def seconds(milliseconds: int) -> str:
    """Give Envoy's text of a duration: `1500` is `1.500s`."""
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds / 1000:.3f}s"
