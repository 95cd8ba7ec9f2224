"""What a server is asked beside inferences: whether it is ready, how its models are made, what it has done.

Owns these four calls. Must not know pools, health or what follows from an answer.
On failure: grpc.RpcError as it came; ValueError for an answer that cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from forebay.batching.channel import Link
from forebay.batching.health import Lane


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """What one server has done for one model since it started, over all versions; all times in ns."""

    succeeded: int = 0
    failed: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0


def server_ready(link: Link, timeout_s: float) -> bool:
    """Ask whether the server takes inferences."""
    answer = link.call("ServerReady", b"", timeout_s)
    return bool(_read(service_pb2.ServerReadyResponse, answer).ready)


def model_ready(link: Link, lane: Lane, timeout_s: float) -> bool:
    """Ask whether a model takes inferences."""
    request = service_pb2.ModelReadyRequest(name=lane[0], version=lane[1])
    answer = link.call("ModelReady", request.SerializeToString(), timeout_s)
    return bool(_read(service_pb2.ModelReadyResponse, answer).ready)


def model_config(link: Link, lane: Lane, timeout_s: float) -> bytes:
    """Ask for a model's configuration, as the encoded answer."""
    request = service_pb2.ModelConfigRequest(name=lane[0], version=lane[1])
    return link.call("ModelConfig", request.SerializeToString(), timeout_s)


def statistics(link: Link, timeout_s: float) -> dict[str, ModelCounts]:
    """Ask what the server has done, by model."""
    answer = link.call("ModelStatistics", b"", timeout_s)
    counts: dict[str, ModelCounts] = {}
    for each in _read(service_pb2.ModelStatisticsResponse, answer).model_stats:
        before, of = counts.get(each.name, ModelCounts()), each.inference_stats
        counts[each.name] = ModelCounts(
            succeeded=before.succeeded + of.success.count,
            failed=before.failed + of.fail.count,
            executions=before.executions + each.execution_count,
            queue_ns=before.queue_ns + of.queue.ns,
            compute_ns=before.compute_ns + of.compute_input.ns + of.compute_infer.ns + of.compute_output.ns,
        )
    return counts


def _read(kind: Any, answer: bytes) -> Any:
    # tritonclient's messages carry no types.
    try:
        return kind.FromString(answer)
    except DecodeError as error:
        raise ValueError(f"the server's answer cannot be read: {error}") from error
