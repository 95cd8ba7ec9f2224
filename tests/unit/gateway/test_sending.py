"""The sending side's metrics."""

from __future__ import annotations

from forebay.batching import BatchQueue, ModelCounts, PoolServers, Sender, Serving
from forebay.gateway.exposition import exposition
from forebay.gateway.sending import bounds_families, sending_families
from forebay.gateway.tensors import QueueBounds


def test_servers_and_tritons_own_times_are_shown() -> None:
    sender = Sender(BatchQueue(), Serving({"pool": PoolServers(("127.0.0.1:1",))}))
    sender.start()
    try:
        sender.observed.take("127.0.0.1:1", {"m": ModelCounts(succeeded=3, queue_ns=5)})
        text = exposition(sending_families(sender))
    finally:
        sender.stop(0)
    assert 'forebay_endpoint_ready{pool="pool",endpoint="127.0.0.1:1"} 0\n' in text
    assert 'forebay_triton_requests_total{endpoint="127.0.0.1:1",model="m"} 3\n' in text
    assert 'forebay_triton_queue_ns_total{endpoint="127.0.0.1:1",model="m"} 5\n' in text


def test_the_bounds_of_queues_are_shown() -> None:
    text = exposition(bounds_families({"pool": QueueBounds(max_rows=7)}))
    assert 'forebay_queue_max_rows{pool="pool"} 7\n' in text
