"""Model servers as metrics: whether they are ready, what they say of themselves.

Owns these metrics' names. Must not know how anything is sent; what waits, leaves and fails is counted by the queue.
On failure: cannot fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forebay.gateway.exposition import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from forebay.batching import Endpoint, Link, ModelCounts, Sender
    from forebay.gateway.tensors import QueueBounds

__all__ = ["bounds_families", "sending_families"]


def sending_families(sender: Sender) -> list[Family]:
    """All metrics of a sender."""
    mismatches = {f'pool="{pool}",model="{model}"': 1 for pool, model in sender.models.mismatches()}
    return [
        Family("forebay_model_mismatch", "gauge", "models not served, as policy and server do not fit", mismatches),
        _endpoints(
            sender,
            "forebay_endpoint_ready",
            "whether a server says that it is ready",
            lambda each: int(bool(each.health.ready)),
        ),
        _counts(
            sender, "forebay_triton_requests_total", "inferences that a server answered", lambda each: each.succeeded
        ),
        _counts(
            sender, "forebay_triton_failures_total", "inferences that failed in a server", lambda each: each.failed
        ),
        _counts(sender, "forebay_triton_executions_total", "batches that a server ran", lambda each: each.executions),
        _counts(
            sender,
            "forebay_triton_queue_ns_total",
            "time that inferences waited in a server",
            lambda each: each.queue_ns,
        ),
        _counts(sender, "forebay_triton_compute_ns_total", "time that a server computed", lambda each: each.compute_ns),
    ]


def bounds_families(bounds: Mapping[str, QueueBounds]) -> list[Family]:
    """What may wait in front of each pool."""
    rows = {f'pool="{pool}"': each.max_rows for pool, each in bounds.items()}
    tokens = {f'pool="{pool}"': each.max_tokens for pool, each in bounds.items()}
    return [
        Family("forebay_queue_max_rows", "gauge", "rows that may wait for a pool", rows),
        Family("forebay_queue_max_tokens", "gauge", "tokens that may wait for a pool", tokens),
    ]


def _endpoints(sender: Sender, name: str, text: str, value: Callable[[Endpoint[Link]], int]) -> Family:
    values = {
        f'pool="{pool}",endpoint="{each.address}"': value(each)
        for pool, group in sender.endpoints().items()
        for each in group
    }
    return Family(name, "gauge", text, values)


def _counts(sender: Sender, name: str, text: str, value: Callable[[ModelCounts], int]) -> Family:
    values = {
        f'endpoint="{address}",model="{model}"': value(counts)
        for (address, model), counts in sender.observed.sums().items()
    }
    return Family(name, "counter", text, values)
