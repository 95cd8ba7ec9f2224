"""YAML with comments: what is written reads back as what was meant."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.control.annotated import Script, text, typed, without_comments

KEYS = st.text(max_size=6).filter(lambda key: not key.startswith("#")) | st.sampled_from(["no", "@type", "a-b", "1"])
WORDS = st.text(st.characters(codec="utf-8"), max_size=150)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_it_reads_back(value: dict[str, Any]) -> None:
    assert yaml.safe_load(text(value)) == value


ENTRIES = st.lists(st.tuples(KEYS, WORDS | st.lists(WORDS, max_size=3)), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(ENTRIES, st.text(max_size=20))
def test_comments_are_only_comments(entries: list[tuple[str, Any]], comment: str) -> None:
    items = [{f"# {key}": f"y{comment}", key: {f"# {key}": comment, key: item}} for key, item in entries]
    commented = {"# list": f"x{comment}", "list": items}
    assert without_comments(yaml.safe_load(text(commented))) == without_comments(commented)


def test_no_character_breaks_a_line_or_a_string() -> None:
    odd = "".join(map(chr, range(0x100))) + "\u2028\ufeff\U0001f600"
    written = text({f"# {odd}": odd, "#": odd, "a": odd})
    assert yaml.safe_load(written) == {"a": odd}


def test_a_comment_stands_above_its_key_or_its_dash() -> None:
    written = text({"# a": "why\nso", "a": [{"# b": "because", "b": 1, "c": "x: y"}]})
    assert written == '# why\n# so\na:\n# because\n- b: 1\n  c: "x: y"\n'


def test_a_message_has_its_type_first() -> None:
    assert text(typed("a.B", c=1)) == '"@type": type.googleapis.com/a.B\nc: 1\n'


def test_what_is_no_json_is_a_fault() -> None:
    with pytest.raises(TypeError, match="set"):
        text({"a": {1}})


def test_a_script_stands_in_lines_as_it_is() -> None:
    script = Script("-- one: #two\n\nif x then\n  y()\nend\n")
    value = {"a": {"script": script, "b": 1}, "list": [{"c": {"script": script}}]}
    assert yaml.safe_load(text(value)) == value
    assert "  script: |\n    -- one: #two\n\n    if x then\n      y()\n    end\n" in text(value)
