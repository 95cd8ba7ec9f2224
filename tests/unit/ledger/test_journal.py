"""Frames in segments: whole, torn, damaged, and whatever bytes."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import JournalUnreadable
from forebay.ledger.journal import MAX_PAYLOAD_BYTES, Journal, segment_name
from forebay.store import JournalPosition

BEGIN = JournalPosition()


def read_all(journal: Journal, at: JournalPosition = BEGIN, max_records: int = 1_000):
    """Read until nothing moves; bounded, so that a reader that stands still fails."""
    payloads, bad, torn = [], 0, 0
    for _ in range(100_000):
        batch = journal.read(at, max_records)
        payloads += batch.payloads
        bad += batch.bad_frames
        torn += batch.torn_frames
        if batch.position == at:
            return payloads, at, bad, torn
        at = batch.position
    raise AssertionError("it never comes to an end")


def test_an_absent_or_empty_folder_has_nothing(tmp_path):
    assert read_all(Journal(tmp_path / "none")) == ([], BEGIN, 0, 0)
    (tmp_path / "other.log").write_bytes(b"x")
    (tmp_path / segment_name(1)).mkdir()
    assert read_all(Journal(tmp_path)) == ([], BEGIN, 0, 0)


def test_frames_are_read_over_segments_in_order(tmp_path, desk):
    desk.segment(tmp_path, 2, desk.frame(b"a") + desk.frame(b"b"))
    desk.segment(tmp_path, 3, b"")
    desk.segment(tmp_path, 10, desk.frame(b"c"))
    journal = Journal(tmp_path)
    first = journal.read(BEGIN, 1)
    assert (first.payloads, first.position, first.lag_bytes) == ([b"a"], JournalPosition(2, 9), 18)
    assert read_all(journal, first.position) == ([b"b", b"c"], JournalPosition(10, 9), 0, 0)
    for many in (1, 2, 3):
        assert read_all(journal, max_records=many)[0] == [b"a", b"b", b"c"]


def test_a_cut_frame_is_waited_for_in_the_newest_segment(tmp_path, desk):
    frame = desk.frame(b"payload")
    journal = Journal(tmp_path)
    at = BEGIN
    for cut in range(len(frame)):
        desk.segment(tmp_path, 1, frame[cut : cut + 1])
        batch = journal.read(at, 10)
        assert batch.bad_frames == batch.torn_frames == 0
        assert batch.payloads == ([b"payload"] if cut == len(frame) - 1 else [])
        at = batch.position
    assert at == JournalPosition(1, len(frame))


def test_a_cut_frame_is_the_end_of_an_older_segment(tmp_path, desk):
    desk.segment(tmp_path, 1, desk.frame(b"a") + desk.frame(b"lost")[:-1])
    desk.segment(tmp_path, 2, desk.frame(b"b"))
    assert read_all(Journal(tmp_path)) == ([b"a", b"b"], JournalPosition(2, 9), 0, 1)


def test_a_wrong_checksum_costs_one_frame(tmp_path, desk):
    content = desk.frame(b"a") + desk.frame(b"bad") + desk.frame(b"b")
    desk.segment(tmp_path, 1, content.replace(b"bad", b"bed"))
    assert read_all(Journal(tmp_path)) == ([b"a", b"b"], JournalPosition(1, len(content)), 1, 0)


@pytest.mark.parametrize("length", [0, MAX_PAYLOAD_BYTES + 1, 2**32 - 1])
def test_a_length_that_cannot_be_costs_the_rest_of_what_is_there(tmp_path, desk, length):
    damage = length.to_bytes(4, "little") + b"\0" * 3_000_000
    desk.segment(tmp_path, 1, desk.frame(b"a") + damage)
    journal = Journal(tmp_path)
    payloads, at, bad, _ = read_all(journal)
    assert (payloads, bad) == ([b"a"], 1)
    assert at == JournalPosition(1, 9 + len(damage))
    # What the writer appends afterwards is whole again.
    desk.segment(tmp_path, 1, desk.frame(b"b"))
    desk.segment(tmp_path, 2, desk.frame(b"c"))
    assert read_all(journal, at)[0] == [b"b", b"c"]
    assert read_all(journal)[0] == [b"a", b"c"]


def test_the_largest_payload_passes_and_a_batch_is_bounded(tmp_path, desk):
    large = bytes(MAX_PAYLOAD_BYTES)
    for number in (1, 2, 3):
        desk.segment(tmp_path, number, desk.frame(large) * 20)
    journal = Journal(tmp_path)
    assert sum(map(len, journal.read(BEGIN, 1_000).payloads)) <= 1 << 20
    payloads, at, bad, torn = read_all(journal)
    assert (len(payloads), bad, torn, journal.read(at, 10).lag_bytes) == (60, 0, 0, 0)


def test_what_is_read_is_deleted_but_never_the_newest(tmp_path, desk):
    for number in (1, 2, 3):
        desk.segment(tmp_path, number, desk.frame(b"a"))
    journal = Journal(tmp_path)
    assert journal.delete_before(JournalPosition(1, 9)) == 0
    assert journal.delete_before(JournalPosition(3, 0)) == 2
    assert journal.delete_before(JournalPosition(9, 0)) == 0
    assert [path.name for path in tmp_path.iterdir()] == [segment_name(3)]


def test_numbers_that_begin_anew_are_read_again(tmp_path, desk):
    desk.segment(tmp_path, 1, desk.frame(b"a"))
    journal = Journal(tmp_path)
    assert journal.read(JournalPosition(57, 1_000), 10).payloads == [b"a"]
    assert journal.read(JournalPosition(1, 1_000), 10).payloads == [b"a"]


def test_an_older_segment_that_could_not_be_deleted_is_not_read_again(tmp_path, desk):
    desk.segment(tmp_path, 1, desk.frame(b"a"))
    desk.segment(tmp_path, 2, desk.frame(b"b"))
    batch = Journal(tmp_path).read(JournalPosition(2, 0), 10)
    assert (batch.payloads, batch.lag_bytes) == ([b"b"], 0)


def test_a_folder_that_is_none_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnreadable, match="not a directory"):
        Journal(tmp_path / "file").read(BEGIN, 1)


PIECES = st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 300).map(bytes)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    pieces=PIECES,
    framed=st.lists(st.booleans(), min_size=6, max_size=6),
    cuts=st.lists(st.integers(0, 200), max_size=2),
)
def test_any_bytes_end_without_an_error(desk, pieces, framed, cuts):
    with tempfile.TemporaryDirectory() as folder:
        content = b"".join(desk.frame(piece) if whole else piece for piece, whole in zip(pieces, framed, strict=False))
        marks = sorted({0, *(min(cut, len(content)) for cut in cuts), len(content)})
        for number, (start, stop) in enumerate(itertools.pairwise(marks), 1):
            desk.segment(Path(folder), number, content[start:stop])
        payloads, at, _, _ = read_all(Journal(folder), max_records=2)
        assert sum(map(len, payloads)) <= len(content)
        assert Journal(folder).read(at, 10).payloads == []


def test_a_flipped_bit_costs_at_most_what_stands_behind_it(tmp_path, desk):
    rnd = random.Random(4)
    frames = [desk.frame(rnd.randbytes(rnd.randrange(1, 60))) for _ in range(20)]
    content = b"".join(frames)
    whole = [frame[8:] for frame in frames]
    for at in range(len(content)):
        broken = bytearray(content)
        broken[at] ^= 1 << rnd.randrange(8)
        path = tmp_path / segment_name(1)
        path.write_bytes(broken)
        desk.segment(tmp_path, 2, b"")
        payloads, _, bad, torn = read_all(Journal(tmp_path))
        assert set(payloads) <= set(whole)
        before = 0
        while sum(map(len, frames[: before + 1])) <= at:
            before += 1
        assert payloads[:before] == whole[:before]
        assert bad + torn >= 1
