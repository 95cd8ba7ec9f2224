"""Numbers and tables as text."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.ledger import text


def test_examples_run():
    assert doctest.testmod(text).failed == 0


@given(st.integers(-(2**63), 2**63), st.integers(0, 9))
def test_money_is_exact(nanousd, decimals):
    whole, fraction = text.money(nanousd, decimals).replace(",", "").split(".")
    assert len(fraction) >= decimals
    assert int(whole + fraction.ljust(9, "0")) == nanousd


def test_a_column_of_money_has_one_number_of_decimals():
    assert text.money_column([0, 1_500_000_000, 1_000]) == ["$0.000000", "$1.500000", "$0.000001"]
    assert text.money_column([0, 5_000_000_000]) == ["$0.00", "$5.00"]
    assert text.money_column([]) == []


@pytest.mark.parametrize(
    ("part", "whole", "said"), [(1, 3, "33.3 %"), (2, 3, "66.7 %"), (5, 0, "-"), (3, 2, "150.0 %")]
)
def test_shares(part, whole, said):
    assert text.percent(part, whole) == said


def test_times_that_no_calendar_knows_are_numbers():
    assert text.minute(1_800_000_000) == "2027-01-15 08:00"
    assert text.minute(10**18) == str(10**18)
