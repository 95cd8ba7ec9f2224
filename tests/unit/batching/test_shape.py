"""Models as Triton's configuration describes them."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2

from forebay.batching.shape import ModelDeclared, declared_model

ENCODER = """
name: "encoder" max_batch_size: 64
input [
  { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "text" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "vector" data_type: TYPE_FP32 dims: [ 384 ] } ]
"""


def declare(text: str) -> ModelDeclared:
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    return declared_model(service_pb2.ModelConfigResponse(config=config).SerializeToString())


def test_inputs_outputs_and_rows_are_read() -> None:
    declared = declare(ENCODER)
    assert [str(each) for each in declared.inputs] == ["`ids` INT64 [any]", "`text` BYTES [1]"]
    assert [each.presence for each in declared.inputs] == ["required", "optional"]
    assert [str(each) for each in declared.outputs] == ["`vector` FP32 [384]"]
    assert (declared.max_batch_rows, declared.instances, declared.alone) == (64, 1, "")


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
    assert declare(ENCODER + groups).instances == instances


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("sequence_batching { max_sequence_idle_microseconds: 5000000 }", "its requests belong to sequences"),
        ("model_transaction_policy { decoupled: true }", "it is decoupled"),
        (
            'input [ { name: "shape" data_type: TYPE_INT32 dims: [ 2 ] is_shape_tensor: true } ]',
            "it has inputs without a batch dimension",
        ),
    ],
)
def test_requests_that_cannot_share_a_batch_pass_one_by_one(more: str, why: str) -> None:
    declared = declare(ENCODER + more)
    assert (declared.max_batch_rows, declared.alone) == (0, why)
    # The batch dimension is there, and is one of any size.
    assert declared.inputs[0].dims == (-1, -1)


def test_a_model_without_a_batch_dimension_passes_one_by_one() -> None:
    declared = declare(ENCODER.replace("size: 64", "size: 0"))
    assert (declared.max_batch_rows, declared.alone) == (0, "its `max_batch_size` is 0")
    assert declared.inputs[0].dims == (-1,)


def test_tritons_preferred_sizes_are_read_in_order_and_once() -> None:
    text = ENCODER + "dynamic_batching { preferred_batch_size: [ 32, 8, 8 ] }"
    assert declare(text).preferred_rows == (8, 32)


def test_two_servers_are_alike_whatever_their_instances() -> None:
    one, two = declare(ENCODER), declare(ENCODER + "instance_group [ { kind: KIND_CPU count: 3 } ]")
    assert one.same_form(two)
    assert not one.same_form(declare(ENCODER.replace("384", "768")))


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        declared_model(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="`ids` has datatype `INVALID`"):
        declare(ENCODER.replace("TYPE_INT64", "TYPE_INVALID"))
