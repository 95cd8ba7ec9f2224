"""The batch assembler as a library class."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import forebay._core as core
from forebay._core import BatchAssembler, BatchRefused, LaneSettings, ModelShape

MS = 1_000_000


def shape(rows: int = 8) -> ModelShape:
    return ModelShape([("x", "FP32", [-1], "required")], ["x"], max_batch_rows=rows)


def encoder(rows: int = 8) -> ModelShape:
    """Token ids of any length, a mask that may be left out, states back for every token."""
    return ModelShape(
        [("ids", "INT64", [-1], "required"), ("mask", "INT64", [-1], "required")],
        ["ids", "mask"],
        max_batch_rows=rows,
        ragged_inputs=[("ids", 0, -1), ("mask", 0, 0)],
        ragged_outputs=[("ids", 0), ("mask", 0)],
        mask="mask",
    )


def given(array: np.ndarray) -> tuple[str, str, list[int], np.ndarray]:
    return ("x", "FP32", list(array.shape), array)


def ids(length: int, rows: int = 1) -> tuple[str, str, list[int], np.ndarray]:
    return ("ids", "INT64", [rows, length], np.arange(1, rows * length + 1))


def test_arrays_go_in_and_come_back() -> None:
    assembler = BatchAssembler(shape(), LaneSettings(slots=9, instances=9))
    random = np.random.default_rng(5)
    sent = {}
    for _ in range(20):
        array = random.random((random.integers(1, 5), 3), np.float32)
        sent[assembler.push([given(array)], now_ns=0)] = array
    order = []
    while (batch := assembler.take(now_ns=0)) is not None:
        ((name, datatype, dims, data),) = batch.inputs()
        assert batch.rows <= 8
        for ticket, tensors in batch.split([(name, datatype, dims, data)]):
            order.append(ticket)
            assert np.frombuffer(tensors[0][3], np.float32).reshape(tensors[0][2]).tolist() == sent[ticket].tolist()
    assert order == list(sent)
    assert assembler.waiting() == (0, 0, 0, 0)


def test_requests_of_any_length_are_padded_masked_and_cut_back() -> None:
    assembler = BatchAssembler(encoder(), LaneSettings(length_classes=[4, 6]))
    short, long = assembler.push([ids(2)], now_ns=0), assembler.push([ids(5, rows=2)], now_ns=0)
    batch = assembler.take(now_ns=0)
    assert batch is not None
    assert (batch.rows, batch.length, batch.tickets) == (3, 6, [short, long])
    padded, mask = (np.frombuffer(data, np.int64).reshape(dims) for _, _, dims, data in batch.inputs())
    assert padded.tolist() == [[1, 2, -1, -1, -1, -1], [1, 2, 3, 4, 5, -1], [6, 7, 8, 9, 10, -1]]
    assert mask.sum(axis=1).tolist() == [2, 5, 5]
    answers = dict(batch.split(batch.inputs()))
    assert np.frombuffer(answers[short][0][3], np.int64).tolist() == [1, 2]
    assert answers[long][0][2] == [2, 5]
    assert np.frombuffer(answers[long][0][3], np.int64).tolist() == list(range(1, 11))


def test_a_ragged_output_must_have_the_padded_length() -> None:
    assembler = BatchAssembler(encoder(), LaneSettings())
    assembler.push([ids(3)], now_ns=0)
    batch = assembler.take(now_ns=0)
    assert batch is not None
    with pytest.raises(BatchRefused, match=r"must be the padded length 3") as refused:
        batch.split([("ids", "INT64", [1, 4], np.zeros(4, np.int64))])
    assert refused.value.slug == "batch_output_length"


def test_any_contiguous_or_strided_buffer_is_taken_in_row_major_order() -> None:
    assembler = BatchAssembler(shape(), LaneSettings())
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assembler.push([given(turned)], now_ns=0)
    assembler.push([("x", "FP32", [1, 3], bytearray(12))], now_ns=0)
    batch = assembler.take(now_ns=0)
    assert batch is not None
    assert np.frombuffer(batch.inputs()[0][3], np.float32).tolist() == [0, 2, 4, 1, 3, 5, 0, 0, 0]


def test_a_busy_lane_sends_when_an_instance_is_expected_to_be_idle() -> None:
    assembler = BatchAssembler(shape(), LaneSettings())
    row = np.zeros((1, 2), np.float32)
    now_ns = 0
    for _ in range(5):
        assembler.push([given(row)], now_ns)
        assert assembler.wake_at_ns(now_ns) == 0
        batch = assembler.take(now_ns)
        assert batch is not None
        now_ns += 20 * MS
        batch.split([given(row)], now_ns)
    assembler.push([given(row)], now_ns)
    running = assembler.take(now_ns)
    assert running is not None
    assembler.push([given(row)], now_ns + MS)
    wake_ns = assembler.wake_at_ns(now_ns + MS)
    assert wake_ns is not None
    assert now_ns + 15 * MS < wake_ns < now_ns + 20 * MS
    assert assembler.take(wake_ns - 1) is None
    behind = assembler.take(wake_ns)
    assert behind is not None
    assembler.push([given(row)], wake_ns)
    assert assembler.wake_at_ns(wake_ns) is None
    running.fail()
    assert assembler.wake_at_ns(wake_ns) is None or assembler.take(wake_ns) is None


def test_the_most_urgent_then_the_earliest_deadline_leaves_first() -> None:
    assembler = BatchAssembler(shape(1), LaneSettings(slots=9, instances=9))
    row = given(np.zeros((1, 2), np.float32))
    later = assembler.push([row], 0, priority="P1", deadline_ns=900 * MS)
    sooner = assembler.push([row], 0, priority="P1", deadline_ns=100 * MS)
    least = assembler.push([row], 0, priority="p2", deadline_ns=1)
    urgent = assembler.push([row], 0, priority="P0")
    order = [batch.tickets[0] for batch in iter(lambda: assembler.take(0), None)]
    assert order == [urgent, sooner, later, least]
    with pytest.raises(ValueError, match="say P0, P1 or P2"):
        assembler.push([row], 0, priority="P9")


def test_tenants_share_by_weight() -> None:
    assembler = BatchAssembler(shape(1), LaneSettings())
    row = given(np.zeros((1, 2), np.float32))
    heavy = {assembler.push([row], 0, tenant="heavy", weight=3) for _ in range(40)}
    for _ in range(40):
        assembler.push([row], 0, tenant="light")
    count = 0
    for _ in range(40):
        batch = assembler.take(0)
        assert batch is not None
        count += batch.tickets[0] in heavy
        batch.fail()
    assert 29 <= count <= 31


def test_a_dropped_batch_frees_its_slot() -> None:
    assembler = BatchAssembler(shape(), LaneSettings(slots=1))
    row = np.zeros((1, 2), np.float32)
    for _ in range(3):
        assembler.push([given(row)], now_ns=0)
        assert assembler.take(now_ns=0) is not None


def test_a_request_is_taken_back_once() -> None:
    assembler = BatchAssembler(shape(), LaneSettings())
    ticket = assembler.push([given(np.zeros((2, 2), np.float32))], now_ns=0)
    assert assembler.waiting() == (1, 2, 2, 16)
    assert assembler.cancel(ticket)
    assert not assembler.cancel(ticket)
    assert assembler.take(now_ns=0) is None


def test_refusals_say_what_is_wrong() -> None:
    assembler = BatchAssembler(shape(), LaneSettings(), max_rows=8)
    with pytest.raises(BatchRefused, match=r"needs 24 bytes, but 4 came"):
        assembler.push([("x", "FP32", [2, 3], b"1234")], now_ns=0)
    with pytest.raises(BatchRefused, match=r"is INT32, but the model takes FP32"):
        assembler.push([("x", "INT32", [1, 1], b"1234")], now_ns=0)
    with pytest.raises(TypeError):
        assembler.push([("x", "FP32", [1, 1], 4)], now_ns=0)
    with pytest.raises(BatchRefused, match=r"has 9 rows, but one request may have at most 8; send it in parts"):
        assembler.push([given(np.zeros((9, 1), np.float32))], now_ns=0)
    assembler.push([given(np.zeros((8, 1), np.float32))], now_ns=0)
    with pytest.raises(BatchRefused, match=r"is full: 8 of 8 rows wait") as refused:
        assembler.push([given(np.zeros((1, 1), np.float32))], now_ns=0)
    assert refused.value.slug == "batch_queue_full"
    batch = assembler.take(now_ns=0)
    assert batch is not None
    with pytest.raises(BatchRefused, match=r"first dimension must be the rows"):
        batch.split([("x", "INT8", [7], b"1234567")])
    with pytest.raises(ValueError, match="has ended"):
        batch.inputs()
    with pytest.raises(ValueError, match="say `required` or `optional`"):
        ModelShape([("x", "FP32", [1], "maybe")], [], max_batch_rows=1)


@pytest.mark.parametrize("name", ["BatchAssembler", "ModelShape"])
def test_the_examples_run(name: str) -> None:
    example = doctest.DocTestParser().get_doctest(getattr(core, name).__doc__, {}, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
