"""The questions and the session plan: complete, varied, and the same for the same seed."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest

from forebay.lab.questions import KINDS, TOOLS, load_questions
from forebay.lab.traffic import PlanSpec, Purpose, plan
from forebay.lab.writing import token_count

QUESTIONS = load_questions()


def test_there_are_hundreds_in_every_kind_and_many_domains() -> None:
    assert len(QUESTIONS) >= 300
    kinds = Counter(question.kind for question in QUESTIONS)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 20
    assert len({question.domain for question in QUESTIONS}) >= 10


def test_no_two_conversations_are_equal() -> None:
    said = [json.dumps(question.messages, sort_keys=True) for question in QUESTIONS]
    assert len(set(said)) == len(said)


def test_lengths_go_from_a_word_to_two_thousand_tokens() -> None:
    tokens = sorted(sum(token_count(turn["content"]) for turn in question.messages) for question in QUESTIONS)
    assert tokens[0] < 5
    assert sum(count > 800 for count in tokens) >= 30
    assert 2000 < tokens[-1] < 4000


def test_every_tool_is_asked_for_and_requests_are_whole() -> None:
    assert {name for question in QUESTIONS for name in question.tools} == set(TOOLS)
    for question in QUESTIONS:
        request = question.request()
        assert request["messages"][-1]["role"] == "user"
        assert ("tools" in request) == (question.kind == "tools")
        assert ("response_format" in request) == (question.kind == "json")


def test_equal_seeds_give_equal_plans_and_others_differ() -> None:
    assert plan(QUESTIONS, PlanSpec()) == plan(QUESTIONS, PlanSpec())
    assert plan(QUESTIONS, PlanSpec(seed=8)) != plan(QUESTIONS, PlanSpec())


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_holds_what_its_spec_says(seed: int) -> None:
    spec = PlanSpec(seed=seed, requests=400)
    asks = plan(QUESTIONS, spec)
    purposes = Counter(ask.purpose for ask in asks)
    assert len(asks) == 400 + spec.over_limit_requests + spec.bad_key_requests
    assert purposes[Purpose.BAD_KEY] == spec.bad_key_requests == sum(ask.tenant is None for ask in asks)
    assert purposes[Purpose.OVER_LIMIT] == sum(ask.tenant == spec.limited_tenant for ask in asks)
    assert 0.27 < purposes[Purpose.REPEAT] / 400 < 0.43
    assert 0.4 < sum(ask.streamed for ask in asks) / len(asks) < 0.6
    assert min(purposes[purpose] for purpose in Purpose) > 0


def test_a_repeat_was_asked_before_by_the_same_tenant_and_nothing_else_was() -> None:
    asked: dict[str | None, set[str]] = defaultdict(set)
    for ask in plan(QUESTIONS, PlanSpec(requests=300)):
        if ask.tenant is not None:
            assert (ask.question.id in asked[ask.tenant]) == (ask.purpose is Purpose.REPEAT)
            asked[ask.tenant].add(ask.question.id)


def test_popular_questions_are_repeated_most() -> None:
    repeats = Counter(
        ask.question.id for ask in plan(QUESTIONS, PlanSpec(requests=600)) if ask.purpose is Purpose.REPEAT
    )
    counts = [count for _, count in repeats.most_common()]
    assert counts[0] >= 4 * counts[len(counts) // 2]


def test_more_first_questions_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="plan fewer requests"):
        plan(QUESTIONS, PlanSpec(requests=2000, tenants=("acme",), repeat_ratio=0.1))
