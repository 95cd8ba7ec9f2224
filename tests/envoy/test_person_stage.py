"""A person's own routing stage: good, slow, failing, absent or wrong, each as the policy says."""

from __future__ import annotations

from typing import Any

from chain import Chain
from chain_policy import CHAT
from envoy_rig import Answer

SMALL: dict[str, Any] = {"model": "small-chat", "temperature": 0}


def ask(chain: Chain, stage: str, text: str, model: str = "small-chat") -> Answer:
    body = SMALL | {"model": model, "messages": [{"role": "user", "content": text}]}
    return chain.ask(body, f"/{stage}{CHAT}")


def test_a_stage_names_the_model(chain: Chain) -> None:
    short = ask(chain, "good", "a short question")
    long = ask(chain, "good", "a long question " * 100)
    assert (short.status, short.headers["x-forebay-model"]) == (200, "small-chat")
    assert (long.status, long.headers["x-forebay-model"]) == (200, "large-chat")
    record = chain.record(long.headers["x-forebay-request-id"])
    assert record["reason"] == "the stage named the model"
    assert (record["asked"], record["model"], record["route"]) == ("small-chat", "large-chat", "stage-good")


def test_a_name_that_only_the_stage_knows_is_for_it(chain: Chain) -> None:
    answer = ask(chain, "good", "which model is auto", model="auto")
    assert (answer.status, answer.headers["x-forebay-model"]) == (200, "small-chat")
    plain = chain.refusal(SMALL | {"model": "auto", "messages": [{"role": "user", "content": "auto"}]})
    assert (plain.status_code, plain.code) == (404, "model_not_found")


def test_a_stage_gives_nobody_a_model_that_is_not_theirs(chain: Chain) -> None:
    body = SMALL | {"messages": [{"role": "user", "content": "a long question of a narrow key " * 50}]}
    answer = chain.ask(body, f"/good{CHAT}", key="narrow")
    assert (answer.status, answer.code) == (403, "model_forbidden")


def test_a_slow_stage_is_not_waited_for(chain: Chain) -> None:
    failures = chain.metric("forebay_stage_failures_total")
    answer = ask(chain, "slow", "a slow stage")
    assert (answer.status, answer.headers["x-forebay-model"]) == (200, "small-chat")
    record = chain.record(answer.headers["x-forebay-request-id"])
    assert record["reason"] == "the stage was too slow"
    assert chain.metric("forebay_stage_failures_total") == failures + 1
    unknown = ask(chain, "slow", "a slow stage and an unknown name", model="auto")
    assert (unknown.status, unknown.code) == (503, "stage_failed")


def test_a_patient_policy_waits_for_it(chain: Chain) -> None:
    answer = ask(chain, "patient", "a slow stage that is waited for")
    assert (answer.status, answer.headers["x-forebay-model"]) == (200, "large-chat")


def test_a_stage_that_raises_falls_back(chain: Chain) -> None:
    answer = ask(chain, "raising", "a stage that raises")
    assert (answer.status, answer.headers["x-forebay-model"]) == (200, "large-chat")
    assert "requests cannot be routed" in chain.gateway.said()
    record = chain.record(answer.headers["x-forebay-request-id"])
    assert record["reason"] == "the stage gave no answer"


def test_a_stage_that_is_not_there_refuses(chain: Chain) -> None:
    for stage in ("absent", "wrong"):
        body = SMALL | {"messages": [{"role": "user", "content": f"a stage that is {stage}"}]}
        answer = chain.ask(body, f"/{stage}{CHAT}")
        assert (answer.status, answer.code) == (503, "stage_failed")
        assert answer.headers["retry-after"] == "1"
    assert "`chain_stages:no_such_function` cannot be found" in chain.gateway.said()


def test_many_at_once_are_asked_in_batches(chain: Chain) -> None:
    """Each gets its own answer: long ones the large model, short ones the small one."""
    texts = [f"many at once {index} " * (100 if index % 2 else 1) for index in range(24)]
    answers = chain.at_once([lambda text=text: ask(chain, "good", text) for text in texts])  # type: ignore[misc]
    assert [answer.status for answer in answers] == [200] * 24
    models = [answer.headers["x-forebay-model"] for answer in answers]
    assert models == ["large-chat" if index % 2 else "small-chat" for index in range(24)]
