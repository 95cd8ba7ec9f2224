"""Stages by their names: what they may answer, and that nothing that they do is more than a failed batch."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from forebay.gateway.stages import Stages

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS: list[Any] = ["first", "second"]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """Makes a stage that can be imported."""
    import sys  # noqa: PLC0415 - only this fixture touches it

    def make(function: Any) -> str:
        module = ModuleType("persons_stage")
        module.decide = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "persons_stage", module)
        return "persons_stage:decide"

    return make


def test_a_stage_answers_models_with_or_without_a_reason_or_nothing(stage: Callable[[Any], str]) -> None:
    target = stage(lambda requests: [("small", f"{len(requests)} came"), None])
    assert Stages().choose(target, REQUESTS) == [("small", "2 came"), None]
    assert Stages().choose(stage(lambda _: ["small", "large"]), REQUESTS) == [("small", ""), ("large", "")]
    assert Stages().choose(stage(lambda _: (name for name in ("a", "b"))), REQUESTS) == [("a", ""), ("b", "")]


@pytest.mark.parametrize(
    "answer",
    [
        ["one"],
        ["a", "b", "c"],
        [1, 2],
        [("a",), ("b",)],
        [("a", 1), "b"],
        [b"a", b"b"],
        None,
        7,
        ["a", ("b", "c", "d")],
    ],
)
def test_what_is_no_answer_fails_the_batch(stage: Callable[[Any], str], answer: Any) -> None:
    assert Stages().choose(stage(lambda _: answer), REQUESTS) == [None, None]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), RecursionError()])
def test_what_a_stage_raises_fails_the_batch(stage: Callable[[Any], str], error: BaseException) -> None:
    def fail(_: Any) -> Any:
        raise error

    assert Stages().choose(stage(fail), REQUESTS) == [None, None]


@pytest.mark.parametrize("target", ["", ":", "persons_stage", "persons_stage:", "persons_stage:missing", "no.such:x"])
def test_what_cannot_be_found_fails_the_batch(stage: Callable[[Any], str], target: str) -> None:
    stage(lambda _: ["a", "b"])
    assert Stages().choose(target, REQUESTS) == [None, None]


def test_a_stage_is_looked_for_once(stage: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys  # noqa: PLC0415 - as above

    target = stage(lambda _: ["a", "b"])
    stages = Stages()
    assert stages.choose(target, REQUESTS) == [("a", ""), ("b", "")]
    monkeypatch.delitem(sys.modules, "persons_stage")
    assert stages.choose(target, REQUESTS) == [("a", ""), ("b", "")]
