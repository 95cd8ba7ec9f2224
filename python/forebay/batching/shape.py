"""What a model takes, read from Triton's own configuration of it.

Owns the reading of `ModelConfig`. Must not know queues or the network.
On failure: ValueError for a configuration that cannot be read; the model is then not served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

from forebay.batching.seam import ModelShape

# tritonclient's messages carry no types.
_Message = Any
_ANY = -1


@dataclass(frozen=True, slots=True)
class LearnedModel:
    """A model's shape, and how many batches one server runs at the same time.

    `instances` 2: a server with two instances has at most three batches of ours, so that none waits for the wire.
    """

    shape: ModelShape
    instances: int


def learned_model(response: bytes) -> LearnedModel:
    """Read the model that an encoded `ModelConfigResponse` describes.

    Models whose requests belong together (sequences), answer more than once (decoupled) or carry inputs without a
    batch dimension (shape tensors) are passed one by one, whatever their `max_batch_size`.

    Raises: ValueError when the message cannot be read or names a datatype that the protocol does not have.
    """
    try:
        config = service_pb2.ModelConfigResponse.FromString(response).config
    except DecodeError as error:
        raise ValueError(f"the model's configuration cannot be read: {error}") from error
    rows = max(config.max_batch_size, 0)
    alone = (
        config.HasField("sequence_batching")
        or config.model_transaction_policy.decoupled
        or any(tensor.is_shape_tensor or tensor.is_non_linear_format_io for tensor in config.input)
    )
    inputs = [
        (tensor.name, _datatype(tensor.data_type), _dims(tensor, rows if alone else 0), _presence(tensor))
        for tensor in config.input
    ]
    shape = ModelShape(inputs, [tensor.name for tensor in config.output], max_batch_rows=0 if alone else rows)
    return LearnedModel(shape, _instances(config))


def _datatype(number: int) -> str:
    name = str(model_config_pb2.DataType.Name(number)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _dims(tensor: _Message, rows: int) -> list[int]:
    """Give the dimensions as a request has them, with a batch dimension where it exists but is not counted."""
    batch = [_ANY] if rows and not tensor.is_shape_tensor else []
    return [*batch, *tensor.dims]


def _presence(tensor: _Message) -> str:
    return "optional" if tensor.optional else "required"


def _instances(config: _Message) -> int:
    """Count batches at once: `count` on each GPU of a group, which Triton lists. An ensemble says nothing: one."""
    groups = [group for group in config.instance_group if not group.passive]
    counts: list[int] = [max(1, group.count) * max(1, len(group.gpus)) for group in groups]
    return max(1, sum(counts))
