"""Tensor traffic: the same for the same seed, within its bounds, and as mixed as it says."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from forebay.lab.tensor_traffic import FIRST_ID, LAST_ID, MAX_CHARACTERS, arrivals_s, lengths, sentences, token_ids


@given(seed=some.integers(0, 2**32), middle=some.floats(8, 128), sigma=some.floats(0, 1.5), count=some.integers(0, 200))
def test_lengths_keep_their_bounds_and_their_seed(seed: int, middle: float, sigma: float, count: int) -> None:
    drawn = lengths(seed, count, middle, sigma)
    assert len(drawn) == count
    assert all(4 <= length <= 512 for length in drawn)
    assert drawn == lengths(seed, count, middle, sigma)
    # A longer run begins as a shorter one does, so that runs of different sizes can be compared.
    assert lengths(seed, count + 1, middle, sigma)[:count] == drawn


def test_lengths_are_log_normal() -> None:
    drawn = lengths(1, 20_000, 32, 1.0)
    assert median(drawn) == pytest.approx(32, rel=0.1)
    assert sum(length > 87 for length in drawn) / len(drawn) == pytest.approx(1 / 6, rel=0.1)
    assert lengths(1, 100, 32, 1.0) != lengths(2, 100, 32, 1.0)
    assert set(lengths(1, 10, 16, 0.0)) == {16}


@pytest.mark.parametrize(
    ("middle", "sigma", "bounds", "words"),
    [
        (2, 1.0, (4, 512), "low <= median <= high, not 4, 2 and 512"),
        (32, -1.0, (4, 512), "sigma >= 0"),
        (5, 10.0, (5, 5), "misses 5 to 5"),
    ],
)
def test_lengths_that_cannot_be_are_refused(middle: float, sigma: float, bounds: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lengths(1, 1000, middle, sigma, *bounds)


def test_arrivals_have_their_rate() -> None:
    times = arrivals_s(3, 10_000, 250.0)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(40, rel=0.05)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert arrivals_s(3, 10, 250.0) == times[:10]
    with pytest.raises(ValueError, match="must be above 0"):
        arrivals_s(3, 1, 0)


def test_rows_are_their_numbers_own() -> None:
    rows = [token_ids(5, number, 12) for number in range(200)]
    assert {row.shape for row in rows} == {(1, 12)}
    assert {row.dtype for row in rows} == {np.dtype(np.int64)}
    assert len({row.tobytes() for row in rows}) == 200
    assert FIRST_ID <= min(int(row.min()) for row in rows) <= max(int(row.max()) for row in rows) <= LAST_ID
    assert (token_ids(5, 7, 12) == rows[7]).all()


def test_sentences_are_real_different_and_mixed() -> None:
    texts = sentences(512)
    assert texts == sentences(600)[:512]
    assert len(set(texts)) == 512
    words = sorted(len(text.split()) for text in texts)
    assert words[0] <= 3
    assert words[-1] >= 100
    assert max(map(len, texts)) <= MAX_CHARACTERS
    assert texts != sentences(512, seed=2)
    with pytest.raises(ValueError, match="5000 sentences were asked for; there are 1"):
        sentences(5000)
