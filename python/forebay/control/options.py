"""What rendering needs besides the policy: where the files will lie, and what the machine has.

Owns: the options of one rendering. Must not know: the policy. On failure: cannot fail.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RenderOptions"]


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Shape: `directory` is the absolute folder of the rendered files *as Envoy sees it*.

    `system_ca_file` is the system's bundle of authorities, for pools with TLS and no `ca_file`;
    `max_connections` bounds the clients' connections (Envoy warns when nothing does).
    """

    directory: str
    system_ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    max_connections: int = 50_000
    node_id: str = "forebay"

    def path(self, *parts: str) -> str:
        """Give the path of a rendered file."""
        return "/".join([self.directory.rstrip("/"), *parts])
