"""What a server says of a model, held against what a person chose."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from forebay.batching import Mismatch, ModelDeclared, ModelRules, RaggedInput, RaggedOutput, served_model
from forebay.batching.shape import TensorDeclared

DECLARED = ModelDeclared(
    inputs=(
        TensorDeclared("ids", "INT64", (-1,)),
        TensorDeclared("mask", "INT64", (-1,), "optional"),
        TensorDeclared("texts", "BYTES", (-1,), "optional"),
        TensorDeclared("image", "FP32", (3, -1), "optional"),
    ),
    outputs=(TensorDeclared("vector", "FP32", (384,)), TensorDeclared("tags", "INT64", (-1,))),
    max_batch_rows=64,
    instances=2,
    preferred_rows=(8, 32, 128),
)
IDS = RaggedInput("ids", 0, 0.0)


def test_without_rules_the_server_says_everything() -> None:
    served = served_model(DECLARED, ModelRules())
    assert (served.max_batch_rows, served.preferred_rows) == (64, (8, 32))
    assert "inputs='ids, mask, texts, image'" in repr(served.shape())
    served.settings((("a:1", 2), ("b:1", 2)))


def test_a_person_may_choose_less() -> None:
    served = served_model(DECLARED, ModelRules(max_batch_rows=16, preferred_rows=(4, 16)))
    assert (served.max_batch_rows, served.preferred_rows) == (16, (4, 16))
    assert served_model(DECLARED, ModelRules(max_batch_rows=8)).preferred_rows == (8,)
    assert "max_batch_rows=16" in repr(served.shape())


def test_a_mask_is_padded_with_zeros_whether_it_is_named_as_ragged_or_not() -> None:
    rules = ModelRules(ragged_inputs=(IDS,), ragged_outputs=(RaggedOutput("tags", 0),), mask_input="mask")
    named = replace(rules, ragged_inputs=(IDS, RaggedInput("mask", 0, 0.0)))
    for each in (rules, named):
        padded = served_model(DECLARED, each)._padded()
        assert padded == (IDS, RaggedInput("mask", 0, 0.0))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            ModelRules(ragged_inputs=(RaggedInput("input_ids", 0, 0.0),)),
            "the policy names input `input_ids`, but the model has `ids` INT64 [any], `mask` INT64 [any], `texts`",
        ),
        (
            ModelRules(ragged_inputs=(RaggedInput("ids", 1, 0.0),)),
            "dimension 1 of input `ids`, but the model has `ids`",
        ),
        (
            ModelRules(ragged_inputs=(RaggedInput("image", 0, 0.0),)),
            "dimension 0 of input `image` is 3 in the model and cannot be padded; the model has `image` FP32 [3, any]",
        ),
        (
            ModelRules(ragged_inputs=(RaggedInput("ids", 0, 0.5),)),
            "cannot be padded with 0.5; the model has `ids` INT64",
        ),
        (ModelRules(ragged_outputs=(RaggedOutput("logits", 0),)), "names output `logits`, but the model has `vector`"),
        (ModelRules(ragged_outputs=(RaggedOutput("vector", 0),)), "dimension 0 of output `vector` is 384"),
        (ModelRules(ragged_inputs=(IDS,), mask_input="attention"), "names input `attention`"),
        (ModelRules(ragged_inputs=(IDS,), mask_input="texts"), "`texts` as mask, which needs numbers of any length"),
        (ModelRules(mask_input="mask"), "no input in `ragged_inputs` that it could tell of"),
        (ModelRules(max_batch_rows=65), "`max_batch_rows` 65, but the model takes at most 64"),
        (ModelRules(preferred_rows=(8, 65)), "prefers 65 rows, but a batch has at most 64"),
        (ModelRules(max_batch_rows=8, preferred_rows=(16,)), "prefers 16 rows, but a batch has at most 8"),
    ],
)
def test_what_does_not_fit_is_told_with_what_the_model_has(rules: ModelRules, words: str) -> None:
    with pytest.raises(Mismatch, match=re.escape(words)):
        served_model(DECLARED, rules)


def test_a_model_that_takes_requests_one_by_one_cannot_be_batched_by_choice() -> None:
    alone = replace(DECLARED, max_batch_rows=0, alone="it is decoupled", preferred_rows=())
    served_model(alone, ModelRules())
    with pytest.raises(Mismatch, match="one by one, since it is decoupled"):
        served_model(alone, ModelRules(ragged_inputs=(IDS,)))
