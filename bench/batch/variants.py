"""Owns the ways to a model that are compared: where requests go, which model they name, who pads them.

Must not know how much is sent or what is made of the numbers.
On failure: nothing here can fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.batch.policy import key_of
from bench.batch.site import Gateway, Site
from bench.batch.traffic import Padding, as_it_is, to_power_of_two


@dataclass(frozen=True)
class Variant:
    """One way. `gateway` is None where requests go straight to Triton."""

    name: str
    address: str
    model: str
    padding: Padding = as_it_is
    metadata: Mapping[str, str] = field(default_factory=dict)
    gateway: Gateway | None = None


def plain(site: Site, model: str) -> Variant:
    """Straight to Triton's own dynamic batcher."""
    return Variant("plain", site.triton.grpc_address, f"queued_{model}")


def pow2(site: Site, model: str) -> Variant:
    """As `plain`, by clients that pad to powers of two."""
    return Variant("pow2", site.triton.grpc_address, f"queued_{model}", to_power_of_two)


def ragged(site: Site) -> Variant:
    """Straight to a model that takes requests of different lengths in one call and pays for no padding."""
    return Variant("ragged", site.triton.grpc_address, "ragged_cost")


def forebay(site: Site, model: str) -> Variant:
    """Envoy, decide, the batch service, the sender, Triton without a batcher of its own."""
    return Variant("forebay", site.forebay.address, model, metadata=key_of("usual"), gateway=site.forebay)


def unbatched(site: Site, model: str) -> Variant:
    """The same Envoy and decide, but each request goes on to Triton by itself."""
    return Variant("unbatched", site.unbatched.address, model, metadata=key_of("usual"), gateway=site.unbatched)
