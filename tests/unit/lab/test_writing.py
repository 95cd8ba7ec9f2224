"""What the simulated model says: deterministic, and tokens that join to the text again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.lab.writing import answer, pieces, random_for, token_count


@given(st.text())
def test_tokens_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


@given(st.text(max_size=200), st.integers(1, 300))
def test_an_answer_has_the_length_asked_for_and_ends_with_a_sentence(question: str, wanted_tokens: int) -> None:
    said = answer(question, wanted_tokens, random_for(question))
    assert token_count(said) + said.count(". ") + 1 >= wanted_tokens
    assert said.endswith(".")
    assert said == answer(question, wanted_tokens, random_for(question))
