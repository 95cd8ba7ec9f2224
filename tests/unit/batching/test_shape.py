"""Models learned from Triton's configuration of them."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2

from forebay.batching.shape import LearnedModel, learned_model

ENCODER = """
name: "encoder" max_batch_size: 64
input [
  { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "text" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "vector" data_type: TYPE_FP32 dims: [ 384 ] } ]
"""


def learn(text: str) -> LearnedModel:
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    return learned_model(service_pb2.ModelConfigResponse(config=config).SerializeToString())


def test_inputs_outputs_and_rows_are_read() -> None:
    learned = learn(ENCODER)
    assert repr(learned.shape) == "ModelShape(inputs='ids, text', outputs='vector', max_batch_rows=64)"
    assert learned.instances == 1


@pytest.mark.parametrize(
    ("groups", "instances"),
    [
        ("instance_group [ { kind: KIND_CPU count: 3 } ]", 3),
        ("instance_group [ { kind: KIND_GPU count: 2 gpus: [ 0, 1 ] } ]", 4),
        ("instance_group [ { kind: KIND_GPU count: 2 gpus: [ 0 ] }, { kind: KIND_CPU count: 1 } ]", 3),
        ("instance_group [ { kind: KIND_CPU count: 2 }, { kind: KIND_CPU count: 9 passive: true } ]", 2),
    ],
)
def test_instances_are_counted_over_groups_and_devices(groups: str, instances: int) -> None:
    assert learn(ENCODER + groups).instances == instances


@pytest.mark.parametrize(
    "more",
    [
        "sequence_batching { max_sequence_idle_microseconds: 5000000 }",
        "model_transaction_policy { decoupled: true }",
        'input [ { name: "shape" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true } ]',
    ],
)
def test_requests_that_cannot_share_a_batch_pass_one_by_one(more: str) -> None:
    assert "max_batch_rows=0" in repr(learn(ENCODER + more).shape)


def test_a_model_without_a_batch_dimension_passes_one_by_one() -> None:
    assert "max_batch_rows=0" in repr(learn(ENCODER.replace("size: 64", "size: 0")).shape)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        learned_model(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="does not have"):
        learn(ENCODER.replace("TYPE_INT64", "TYPE_INVALID"))
