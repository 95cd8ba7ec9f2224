"""What a model takes, read from Triton's own configuration of it.

Owns the reading of `ModelConfig`. Must not know queues, rules or the network.
On failure: ValueError for a configuration that cannot be read; the model is then not served.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2

# tritonclient's messages carry no types.
_Message = Any
ANY = -1


@dataclass(frozen=True, slots=True)
class TensorDeclared:
    """One tensor: `datatype` as the protocol writes it, such as `BYTES`; `dims` behind the rows, -1 for any size."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    presence: str = "required"

    def __str__(self) -> str:
        dims = ", ".join("any" if dim == ANY else str(dim) for dim in self.dims)
        return f"`{self.name}` {self.datatype} [{dims}]"


@dataclass(frozen=True, slots=True)
class ModelDeclared:
    """What a server says about a model.

    `max_batch_rows` 64; 0: requests pass one by one, for the reason that `alone` gives.
    `instances` 2: one server runs two batches at once. `preferred_rows`: Triton's own preferred batch sizes.
    """

    inputs: tuple[TensorDeclared, ...]
    outputs: tuple[TensorDeclared, ...]
    max_batch_rows: int
    instances: int
    preferred_rows: tuple[int, ...] = ()
    alone: str = ""

    def same_form(self, other: ModelDeclared) -> bool:
        """Whether requests for one may go to the other: all is equal but how much runs at once."""
        return self == replace(other, instances=self.instances)


def declared_model(response: bytes) -> ModelDeclared:
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
    alone = _alone(config)
    # A batch dimension that exists but is not counted is one that may have any size.
    batch = (ANY,) if alone and rows else ()
    return ModelDeclared(
        inputs=tuple(_tensor(each, () if each.is_shape_tensor else batch) for each in config.input),
        outputs=tuple(_tensor(each, batch) for each in config.output),
        max_batch_rows=0 if alone else rows,
        instances=_instances(config),
        preferred_rows=tuple(sorted({size for size in config.dynamic_batching.preferred_batch_size if size > 0})),
        alone=alone,
    )


def _alone(config: _Message) -> str:
    """Why requests cannot share a batch; empty: they can."""
    if config.HasField("sequence_batching"):
        return "its requests belong to sequences"
    if config.model_transaction_policy.decoupled:
        return "it is decoupled"
    if any(tensor.is_shape_tensor or tensor.is_non_linear_format_io for tensor in config.input):
        return "it has inputs without a batch dimension"
    return "" if config.max_batch_size > 0 else "its `max_batch_size` is 0"


def _tensor(tensor: _Message, batch: tuple[int, ...]) -> TensorDeclared:
    presence = "optional" if getattr(tensor, "optional", False) else "required"
    return TensorDeclared(tensor.name, _datatype(tensor), (*batch, *tensor.dims), presence)


def _datatype(tensor: _Message) -> str:
    name = str(model_config_pb2.DataType.Name(tensor.data_type)).removeprefix("TYPE_")
    if name == "INVALID":
        raise ValueError(f"the model's tensor `{tensor.name}` has datatype `{name}`, which the protocol does not have")
    return "BYTES" if name == "STRING" else name


def _instances(config: _Message) -> int:
    """Count batches at once: `count` on each GPU of a group, which Triton lists. An ensemble says nothing: one."""
    groups = [group for group in config.instance_group if not group.passive]
    counts: list[int] = [max(1, group.count) * max(1, len(group.gpus)) for group in groups]
    return max(1, sum(counts))
