"""The batch assembler as a library class."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import forebay._core as core
from forebay._core import BatchAssembler, BatchRefused, ModelShape


def shape(rows: int = 8) -> ModelShape:
    return ModelShape([("x", "FP32", [-1], "required")], ["x"], max_batch_rows=rows)


def given(array: np.ndarray) -> tuple[str, str, list[int], np.ndarray]:
    return ("x", "FP32", list(array.shape), array)


def test_arrays_go_in_and_come_back() -> None:
    assembler = BatchAssembler(shape(), slots=9, instances=9)
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
    assert assembler.waiting() == (0, 0)


def test_any_contiguous_or_strided_buffer_is_taken_in_row_major_order() -> None:
    assembler = BatchAssembler(shape())
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assembler.push([given(turned)], now_ns=0)
    assembler.push([("x", "FP32", [1, 3], bytearray(12))], now_ns=0)
    batch = assembler.take(now_ns=0)
    assert batch is not None
    assert np.frombuffer(batch.inputs()[0][3], np.float32).tolist() == [0, 2, 4, 1, 3, 5, 0, 0, 0]


def test_a_busy_lane_waits_for_company_then_for_the_delay() -> None:
    assembler = BatchAssembler(shape(), max_delay_ns=100)
    row = np.zeros((1, 2), np.float32)
    assembler.push([given(row)], now_ns=0)
    first = assembler.take(now_ns=0)
    assembler.push([given(row)], now_ns=10)
    assert assembler.take(now_ns=10) is None
    assert assembler.wake_at_ns() == 110
    second = assembler.take(now_ns=110)
    assert first is not None
    assert second is not None
    assembler.push([given(row)], now_ns=111)
    assert assembler.take(now_ns=10_000) is None
    assert assembler.wake_at_ns() is None
    first.fail()
    assert assembler.take(now_ns=10_000) is not None


def test_a_dropped_batch_frees_its_slot() -> None:
    assembler = BatchAssembler(shape(), slots=1)
    row = np.zeros((1, 2), np.float32)
    for _ in range(3):
        assembler.push([given(row)], now_ns=0)
        assert assembler.take(now_ns=0) is not None


def test_a_request_is_taken_back_once() -> None:
    assembler = BatchAssembler(shape())
    ticket = assembler.push([given(np.zeros((2, 2), np.float32))], now_ns=0)
    assert assembler.waiting() == (2, 16)
    assert assembler.cancel(ticket)
    assert not assembler.cancel(ticket)
    assert assembler.take(now_ns=0) is None


def test_refusals_say_what_is_wrong() -> None:
    assembler = BatchAssembler(shape(), max_rows=8)
    with pytest.raises(BatchRefused, match=r"needs 24 bytes, but 4 came"):
        assembler.push([("x", "FP32", [2, 3], b"1234")], now_ns=0)
    with pytest.raises(BatchRefused, match=r"is INT32, but the model takes FP32"):
        assembler.push([("x", "INT32", [1, 1], b"1234")], now_ns=0)
    with pytest.raises(TypeError):
        assembler.push([("x", "FP32", [1, 1], 4)], now_ns=0)
    assembler.push([given(np.zeros((8, 1), np.float32))], now_ns=0)
    with pytest.raises(BatchRefused, match=r"is full: 8 of 8 rows") as refused:
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
