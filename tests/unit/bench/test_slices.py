"""What a slice makes of the generator's records and the gateway's metrics."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from bench.batch.generator import Group, read_records
from bench.batch.messages import decode, encode
from bench.batch.rounds import interleaved
from bench.batch.slices import Window, batch_tokens, client_waste, failures, latencies, waste_between
from bench.batch.traffic import Traffic, as_it_is, to_power_of_two, token_rows
from bench.load.process import BenchError
from tritonclient.grpc import service_pb2

MS = 1_000_000


def record(due_ms: int, ended_ms: int, code: int = 0, answer: bytes = b"", message: int = 0) -> bytes:
    times = (due_ms * MS, due_ms * MS, ended_ms * MS)
    return struct.pack("<QQQIIII", *times, 0, message, code, len(answer)) + answer


def answer_of(*sums: int) -> bytes:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="id_sum", datatype="INT64", shape=[len(sums), 1])
    response.raw_output_contents.append(np.array(sums, np.int64).tobytes())
    return bytes(response.SerializeToString())


def test_records_are_read_as_the_generator_writes_them() -> None:
    calls, answers = read_records(record(1, 5, answer=b"abc", message=7) + record(2, 3, code=14))
    assert answers == [b"abc", b""]
    assert calls["ended_ns"].tolist() == [5 * MS, 3 * MS]
    assert (calls["message"].tolist(), calls["code"].tolist()) == ([7, 0], [0, 14])


def test_a_schedule_has_twelve_bytes_a_call() -> None:
    open_group = Group(0, np.array([3, 4]), np.array([5, 257]))
    assert open_group.schedule() == struct.pack("<QIQI", 5, 3, 257, 4)
    assert Group(2, np.array([1])).schedule() == struct.pack("<QI", 0, 1)


def test_a_window_counts_answers_by_their_end_and_latencies_by_their_beginning() -> None:
    calls, _ = read_records(record(0, 1_500) + record(1_200, 1_700) + record(1_900, 2_400) + record(1_300, 1_310, 14))
    window = Window(1.0, 2.0)
    assert window.per_s(int(window.answered(calls).sum())) == 2
    # The refused one counts as long as the slice.
    assert sorted(latencies(calls, window).tolist()) == [500, 500, 2000]
    assert failures(calls) == {"unavailable": 1}


def test_padding_is_what_the_gateway_or_the_client_added() -> None:
    page = "# TYPE x counter\n" + "\n".join(
        f'forebay_batch_{name}_total{{model="{model}"}} {value}'
        for name, model, value in [("tokens", "a", 60), ("tokens", "b", 40), ("padded_tokens", "a", 150)]
    )
    assert batch_tokens(page) == (100, 150)
    assert batch_tokens("forebay_batches_total 3") is None
    assert waste_between((100, 150), (300, 400)) == pytest.approx(0.25)
    assert waste_between(None, (1, 1)) is None
    requests = token_rows(np.array([5, 8]), seed=1)
    calls, _ = read_records(record(0, 1, message=0) + record(0, 1, message=1))
    assert client_waste(Traffic.of("cost", requests, to_power_of_two), calls) == pytest.approx(16 / 13 - 1)
    assert client_waste(Traffic.of("cost", requests, as_it_is), calls) == 0


def test_another_requests_answer_is_found() -> None:
    requests = token_rows(np.array([5, 6]), seed=1, rows=2)
    traffic = Traffic.of("cost", requests, to_power_of_two)
    right = [answer_of(*rows["input_ids"].sum(axis=1).tolist()) for rows in requests]
    traffic.check_sums([0, 1, 0], [right[0], right[1], right[0]])
    with pytest.raises(BenchError, match="request 0 was answered with"):
        traffic.check_sums([0], [right[1]])


def test_a_message_says_names_shapes_and_bytes() -> None:
    message = service_pb2.ModelInferRequest.FromString(encode("cost", {"input_ids": np.ones((1, 3), np.int64)}))
    assert (message.model_name, message.inputs[0].datatype, list(message.inputs[0].shape)) == ("cost", "INT64", [1, 3])
    assert len(message.raw_input_contents[0]) == 24
    assert decode(answer_of(4, 5))["id_sum"].tolist() == [[4], [5]]


def test_variants_take_turns_and_the_first_slices_are_thrown_away() -> None:
    order: list[tuple[str, int]] = []
    slices = {name: (lambda number, name=name: order.append((name, number)) or number) for name in "ab"}
    assert interleaved(slices, 2) == {"a": [0, 1], "b": [0, 1]}
    assert order == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
