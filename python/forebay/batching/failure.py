"""What a client reads when a model could not be learned.

Owns the mapping from gRPC errors. Must not know queues.
On failure: closed; Triton's words about a request are passed on, words about connections never: they name addresses.
"""

from __future__ import annotations

import re
from typing import NamedTuple, cast

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


def of_error(error: grpc.RpcError, pool: str) -> Failure:
    """Tell a failed call to one of the pool's servers."""
    call = cast("grpc.Call", error)
    code, words = call.code(), call.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(code, f"no server of pool `{pool}` answered in time")
    if code is grpc.StatusCode.CANCELLED:
        # Only we cancel: what a server left behind when it went, or the end of the sender.
        return stopped()
    # A connection that breaks in the middle of an answer has this code and no words of a model.
    broken = code is grpc.StatusCode.UNKNOWN and words.startswith("Stream removed")
    if code is grpc.StatusCode.UNAVAILABLE or broken:
        return away(pool)
    if not words or _ADDRESS.search(words):
        return Failure(code, f"the call to pool `{pool}` failed ({code.name})")
    return Failure(code, words)


def away(pool: str) -> Failure:
    """Tell that no server of the pool could be reached."""
    return Failure(grpc.StatusCode.UNAVAILABLE, f"no server of pool `{pool}` is available; try again")


def unreached(pool: str) -> Failure:
    """Tell that the pool has no server."""
    return Failure(grpc.StatusCode.UNAVAILABLE, f"pool `{pool}` has no server; try again later")


def not_served(pool: str, model: str, why: str) -> Failure:
    """Tell that the policy and the model do not fit."""
    return Failure(grpc.StatusCode.FAILED_PRECONDITION, f"model `{model}` of pool `{pool}` is not served: {why}")


def stopped() -> Failure:
    """Tell that the sender ends."""
    return Failure(grpc.StatusCode.UNAVAILABLE, "the gateway is shutting down; try again")


def broken(what: str) -> Failure:
    """Tell a fault of ours or of the server's configuration."""
    return Failure(grpc.StatusCode.INTERNAL, what)
