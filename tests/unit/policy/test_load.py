"""Policy files: every error at once, with path and line, and never anything but PolicyError."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToJson
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import PolicyError, PolicyUnreadable
from forebay.policy import Finding, load, load_text
from forebay.policy._pb.policy_pb2 import FeatureCache, Pool, Priority
from forebay.policy.engine import check
from forebay.policy.yaml_tree import MAX_DEPTH

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "policy.yaml"


def found(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(PolicyError) as refused:
        load_text(text)
    return [(finding.line, finding.slug, finding.path) for finding in refused.value.findings]


def message(text: str) -> str:
    with pytest.raises(PolicyError) as refused:
        load_text(text)
    return str(refused.value)


def test_the_example_loads_with_its_lines() -> None:
    policy = load(EXAMPLE)
    assert policy.message().name == "example"
    line = policy.lines["models[1].pools[0]"]
    assert "pools: [hosted]" in EXAMPLE.read_text().splitlines()[line - 1]


def test_a_path_that_the_file_leaves_out_has_the_line_around_it() -> None:
    policy = load_text("name: a\nlimits:\n- name: x\n  amount: 1\n")
    assert policy.line_of("limits[0].amount") == 4
    assert policy.line_of("limits[0].window_ms") == 3
    assert policy.line_of("routes") == 0


def test_tensors_are_read_and_their_findings_have_lines() -> None:
    policy = load_text("""\
pools:
- {name: t, protocol: KSERVE_GRPC, endpoints: [{address: "127.0.0.1:8001"}], queue: {max_rows: 64}}
models:
- name: enc
  capabilities: [TENSORS]
  pools: [t]
  tensors:
    ragged_inputs:
    - {name: input_ids, pad_value: -1.5}
    length_classes: [64, 32]
    answers: DETERMINISTIC
tiers: [{name: free, priority: P2}]
""")
    message = policy.message()
    assert message.models[0].tensors.ragged_inputs[0].pad_value == -1.5
    assert message.tiers[0].priority == Priority.P2
    told = {(finding.slug, finding.line) for finding in check(policy)}
    assert ("not_rising", 10) in told
    assert ("cache_missing", 11) in told


def test_every_error_is_said_at_once() -> None:
    text = """\
nme: x
pools:
- {name: 1.10, protocol: openai, max_concurrency: 1_000}
- 3
cache:
routes:
- {path: /a, path_prefix: /b}
gateway: {workers: 5000000000, drain_ms: -1, max_records: on}
keys: [{disabled: yes}]
tenants: {name: a}
models: [[]]
tiers: [null]
"""
    assert found(text) == [
        (1, "unknown_field", "nme"),
        (3, "wrong_type", "pools[0].name"),
        (3, "unknown_value", "pools[0].protocol"),
        (3, "wrong_type", "pools[0].max_concurrency"),
        (4, "wrong_type", "pools[1]"),
        (5, "empty_value", "cache"),
        (7, "both_given", "routes[0].path_prefix"),
        (8, "out_of_range", "gateway.workers"),
        (8, "out_of_range", "gateway.drain_ms"),
        (8, "wrong_type", "gateway.max_records"),
        (9, "wrong_type", "keys[0].disabled"),
        (10, "wrong_type", "tenants"),
        (11, "wrong_type", "models[0]"),
        (12, "wrong_type", "tiers[0]"),
    ]


def test_a_near_name_is_suggested() -> None:
    assert "did you mean `protocol`?" in message("pools: [{protcol: HTTP}]")
    assert "did you mean `ext_proc_address`?" in message("gateway: {extProcAddress: a}")
    assert "did you mean `OPENAI`?" in message("pools: [{protocol: OpenAI}]")
    assert "its fields are `name`, `gateway`" in message("zzzzzz: 1")


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("", "empty_file"),
        ("# only a comment", "empty_file"),
        ("a: 1\na: 2", "duplicate_key"),
        ("name: [", "yaml_syntax"),
        ("a:\n\t- b", "yaml_syntax"),
        ("\x00", "yaml_syntax"),
        ('name: "\\ud800"', "yaml_syntax"),
        ("--- \na: b\n---\nc: d", "many_documents"),
        ("a: &a [*a]", "alias_unknown"),
        ("a: *b", "alias_unknown"),
        ("<<: {name: b}", "merge_refused"),
        ("? [a]\n: b", "key_not_text"),
        ("? {a: b}\n: b", "key_not_text"),
        ("a: &x name\n*x : b", "key_not_text"),
        ("a: !!python/object:os.system {}", "tag_refused"),
        ("a: !custom b", "tag_refused"),
        ("[" * (MAX_DEPTH + 1), "too_deep"),
        ("{a: " * (MAX_DEPTH + 1), "too_deep"),
        ("just text", "wrong_type"),
        ("- a", "wrong_type"),
    ],
)
def test_yaml_that_is_not_accepted(text: str, slug: str) -> None:
    assert slug in [finding[1] for finding in found(text)]


def test_words_that_yaml_1_1_would_change_stay_text() -> None:
    text = "name: no\nfeatures: [{name: on, cache: {mode: OFF}}]\nmodels: [{revision: 2024-07-18}]"
    policy = load_text(text).message()
    assert policy.name == "no"
    assert policy.features[0].name == "on"
    assert policy.features[0].cache.mode == FeatureCache.OFF
    assert policy.models[0].revision == "2024-07-18"


@pytest.mark.parametrize("text", ["012", "1_000", "0x10", "1:30", "1.5", "+-1", "'1e3'", "1e400", "true", "9" * 30])
def test_a_number_is_digits_alone(text: str) -> None:
    assert [path for _, _, path in found(f"gateway: {{drain_ms: {text}}}")] == ["gateway.drain_ms"]


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("'5'", 5), ("1.5e3", 1500), ("18446744073709551615", 2**64 - 1)]
)
def test_numbers_as_proto_json_writes_them(text: str, value: int) -> None:
    assert load_text(f"gateway: {{drain_ms: {text}}}").message().gateway.drain_ms == value


def test_what_protobuf_prints_as_json_loads_again() -> None:
    policy = load(EXAMPLE)
    text = MessageToJson(policy.message(), preserving_proto_field_name=True)
    assert load_text(text).message_bytes == policy.message_bytes


def test_anchors_are_followed_and_bounded() -> None:
    policy = load_text("pools:\n- {name: a, endpoints: &e [{address: 'a:1'}]}\n- {name: b, endpoints: *e}").message()
    assert policy.pools[1].endpoints[0].address == "a:1"
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    assert [slug for _, slug, _ in found(bomb)] == ["too_large"]


def test_the_environment_is_not_expanded() -> None:
    assert load_text("name: ${HOME}").message().name == "${HOME}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnreadable, match="no such file"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(PolicyUnreadable, match="directory"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: a\nx: \xff")
    with pytest.raises(PolicyError, match=r"latin.yaml:2: error\[not_utf8\]"):
        load(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfname: a")
    assert load(tmp_path / "bom.yaml").message().name == "a"


def test_ten_thousand_keys_load_in_seconds() -> None:
    keys = "".join(f"- {{id: k{i}, sha256: '{i:064x}', tenant: t}}\n" for i in range(10_000))
    began = time.process_time()
    assert len(load_text(f"keys:\n{keys}").message().keys) == 10_000
    assert time.process_time() - began < 20


def test_the_generated_code_is_fresh() -> None:
    command = [sys.executable, ROOT / "proto" / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


YAMLISH = st.text(st.sampled_from("ab:-[]{}#&*!|>'\"%@`,? \n\t~01é\x85\u2028\U0001f600") | st.characters(), max_size=80)
WORDS = Pool.Protocol.keys()
FIELDS = ["name", "pools", "models", "gateway", "cache", "endpoints", "protocol", "path", "tls", "x"]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def findings_of(text: str) -> list[Finding]:
    try:
        load_text(text)
    except PolicyError as refused:
        return list(refused.findings)
    return []


@settings(max_examples=200, deadline=None)
@given(YAMLISH)
def test_no_text_does_anything_but_load_or_be_refused(text: str) -> None:
    assert all(finding.line >= 0 and "\n" not in finding.text("f") for finding in findings_of(text))


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_no_tree_does_anything_but_load_or_be_refused(tree: object) -> None:
    findings_of(json.dumps(tree))


@pytest.mark.parametrize(
    ("text", "slug"),
    [("", "empty_file"), ("\n# a comment\n", "empty_file"), ("pools: []\n", "empty_policy"), ("{}", "empty_policy")],
)
def test_a_file_that_says_nothing_is_refused(text: str, slug: str) -> None:
    with pytest.raises(PolicyError) as refused:
        load_text(text)
    assert [finding.slug for finding in refused.value.findings] == [slug]
