"""What a client reads when a call to Triton failed.

Owns the mapping from gRPC errors. Must not know queues.
On failure: closed; Triton's words about a request are passed on, words about connections never: they name addresses.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import grpc

# How the C core writes addresses into its own messages.
_ADDRESS = re.compile(r"\b(ipv4|ipv6|unix|dns):")


class Failure(NamedTuple):
    """A gRPC status and words for the client."""

    code: grpc.StatusCode
    message: str

    @property
    def number(self) -> int:
        """The status as the protocol numbers it."""
        return int(self.code.value[0])


class Refused(Exception):
    """Raised inside the sender for a failure that is no gRPC error of a call."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


def of_error(error: grpc.aio.AioRpcError, pool: str) -> Failure:
    """Tell a failed call to one of the pool's servers."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(code, f"no server of pool `{pool}` answered in time")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Failure(code, f"no server of pool `{pool}` is available; try again")
    words = error.details() or ""
    if not words or _ADDRESS.search(words):
        return Failure(code, f"the call to pool `{pool}` failed ({code.name})")
    return Failure(code, words)


def unreached(pool: str) -> Failure:
    """Tell that the pool has no server."""
    return Failure(grpc.StatusCode.UNAVAILABLE, f"pool `{pool}` has no server; try again later")


def stopped() -> Failure:
    """Tell that the sender ends."""
    return Failure(grpc.StatusCode.UNAVAILABLE, "the gateway is shutting down; try again")


def broken(what: str) -> Failure:
    """Tell a fault of ours or of the server's configuration."""
    return Failure(grpc.StatusCode.INTERNAL, what)
