"""What the extension shows: the stub says all of it, every exception can happen, every example runs.

Owns: the agreement of build and documentation. Must not know: what the parts do.
On failure: a person reads something that is not so.
"""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import forebay._core as core
from forebay._core import (
    AnswerCollector,
    AnswerRefused,
    BatchAssembler,
    BatchRefused,
    Engine,
    ForebayError,
    Gateway,
    GatewayError,
    LaneSettings,
    Limiter,
    LimitExceeded,
    LimitSpec,
    ModelShape,
    PolicyRefused,
)
from forebay.policy import load

STUB = Path(core.__file__).with_name("_core.pyi")
TREE = ast.parse(STUB.read_text())
POLICY = Path(__file__).parent / "transcripts" / "policy.yaml"


def stub_all() -> list[str]:
    for node in TREE.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError("the stub has no `__all__`")


def test_the_stub_names_exactly_what_the_build_has() -> None:
    assert sorted(core.__all__) == sorted(stub_all())


def test_everything_public_is_documented_in_the_stub() -> None:
    bare = [
        f"{getattr(owner, 'name', '')}.{node.name}"
        for owner in ast.walk(TREE)
        if isinstance(owner, ast.ClassDef | ast.Module)
        for node in owner.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("__")
        and not ast.get_docstring(node)
    ]
    assert bare == []


def test_the_build_documents_what_it_shows() -> None:
    undocumented = [name for name in core.__all__ if name != "__version__" and not getattr(core, name).__doc__]
    assert undocumented == []


@pytest.mark.parametrize("source", ["stub", "build"])
def test_every_example_runs(source: str) -> None:
    if source == "stub":
        texts = {
            node.name: ast.get_docstring(node) or ""
            for node in ast.walk(TREE)
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
    else:
        texts = {name: inspect.getdoc(getattr(core, name)) or "" for name in core.__all__ if name != "__version__"}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    names = {name: getattr(core, name) for name in core.__all__}
    for name, text in texts.items():
        runner.run(parser.get_doctest(text, dict(names), name, str(STUB), 0))
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 20


def raise_policy_refused() -> None:
    Engine(b"\xff")


def raise_limit_exceeded() -> None:
    limiter = Limiter([LimitSpec("l", "requests", capacity=1, window_ns=10**9)])
    for _ in range(2):
        limiter.reserve([("l", "a", 1)], now_ns=0)


def raise_gateway_error() -> None:
    Gateway(Engine(load(POLICY).message_bytes), "localhost:0", "127.0.0.1:0", 1, 1024)


def raise_batch_refused() -> None:
    BatchAssembler(ModelShape([("x", "FP32", [-1], "required")], ["y"], max_batch_rows=8), LaneSettings()).push(
        [], now_ns=0
    )


def raise_answer_refused() -> None:
    AnswerCollector("chat", 500, "application/json").finish()


RAISED = {
    PolicyRefused: (raise_policy_refused, "findings"),
    LimitExceeded: (raise_limit_exceeded, "retry_after_ns"),
    GatewayError: (raise_gateway_error, None),
    BatchRefused: (raise_batch_refused, "slug"),
    AnswerRefused: (raise_answer_refused, "slug"),
}


def test_no_exception_of_the_tree_is_left_out() -> None:
    tree = {
        value
        for name in core.__all__
        if isinstance(value := getattr(core, name), type) and issubclass(value, ForebayError)
    }
    assert tree == {ForebayError, *RAISED}
    assert {error.__module__ for error in tree} == {"forebay._core"}


@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.__name__)
def test_every_exception_can_happen_and_tells_what_it_says(error: type[ForebayError]) -> None:
    act, attribute = RAISED[error]
    with pytest.raises(error) as raised:
        act()
    assert str(raised.value)
    assert not str(raised.value).endswith(".")
    if attribute is not None:
        assert getattr(raised.value, attribute) is not None
