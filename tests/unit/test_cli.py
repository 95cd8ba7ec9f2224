"""The commands as a person types them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

from forebay.cli import main, parser

EXAMPLE = Path(__file__).parents[2] / "examples" / "policy.yaml"
CHAT = {"model": "small", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def request_file(tmp_path: Path) -> str:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(CHAT))
    return str(path)


def test_check_says_that_the_example_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(EXAMPLE)]) == 0
    *prices, verdict = capsys.readouterr().out.splitlines()
    assert verdict == f"{EXAMPLE}: 0 errors, 0 warnings"
    assert f"{EXAMPLE}: chat-small: 0.05 in, 0.2 out USD per million tokens (own-2026-10)" in prices
    assert f"{EXAMPLE}: minilm: no price, so its cost is unknown" in prices


def test_check_says_every_error_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: a\nlimits:\n- name: x\n  unit: TOKENS\n  models: [nobody]\nroutes: []\n")
    assert main(["check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{path}:3: error[no_scope] limits[0].scope: ") for line in lines)
    assert any(line.startswith(f"{path}:5: error[unknown_model] limits[0].models[0]: ") for line in lines)
    assert lines[-1] == f"{path}: 4 errors, 2 warnings"


def test_check_says_what_does_not_fit_the_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("nmae: a\n")
    assert main(["check", str(path), "--json"]) == 1
    assert [finding["slug"] for finding in json.loads(capsys.readouterr().out)] == ["unknown_field"]


def test_a_file_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere.yaml"]) == 1
    assert capsys.readouterr().err == (
        "forebay: error[policy_unreadable]: cannot read `nowhere.yaml`: no such file or directory\n"
    )


def test_explain_tells_the_stages(request_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(EXAMPLE), request_file, "--key", "fbk_example_acme"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("POST /v1/chat/completions\n")
    for stage in ("identify", "authorise", "limit", "place", "total"):
        assert re.search(rf"^  {stage} +[0-9.]+ µs", told, re.MULTILINE), told
    assert "=> forwarded to the pool `own-vllm`" in told


def test_explain_decides_as_a_key_without_its_secret(request_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(EXAMPLE), request_file, "--key-id", "acme-app", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {
        "action": "forward",
        "pool": "own-vllm",
        "capture": False,
        "body_rewritten": True,
    }


def test_explain_reads_standard_input_and_headers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(CHAT | {"model": "none"}).encode())))
    header = "Authorization: Bearer fbk_example_acme"
    assert main(["explain", str(EXAMPLE), "-", "--header", header]) == 0
    assert "answered here with 404 (model_not_found)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "more", "said"),
    [
        ("{}", [], "give `--path`"),
        ("no json", [], "give `--path`"),
        ("{}", ["--header", "nocolon", "--path", "/"], "write `NAME:VALUE`"),
    ],
)
def test_explain_says_what_it_cannot_use(
    body: str, more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "request.json"
    path.write_text(body)
    assert main(["explain", str(EXAMPLE), str(path), *more]) == 1
    assert said in capsys.readouterr().err


def test_a_refused_policy_is_not_explained(
    tmp_path: Path, request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: a\nmodels:\n- name: m\n")
    assert main(["explain", str(path), request_file]) == 1
    assert f"{path}:3: error[no_pool] models[0].pools" in capsys.readouterr().err


def test_envoy_config_writes_what_envoy_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envoy-config", str(EXAMPLE), "--out", str(tmp_path / "envoy"), "--as", "/etc/envoy"]) == 0
    names = {str(path.relative_to(tmp_path / "envoy")) for path in (tmp_path / "envoy").rglob("*.yaml")}
    files = {"envoy.yaml", "clusters.yaml", "routes.yaml"}
    assert names == files | {"secrets/pool-hosted.yaml", "secrets/pool-anthropic.yaml"}
    assert len(capsys.readouterr().out.splitlines()) == len(names)
    assert "path: /etc/envoy/routes.yaml" in (tmp_path / "envoy" / "envoy.yaml").read_text()


def test_a_new_key_and_its_digest_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "--tenant", "acme", "--id", "acme-2"]) == 0
    told = capsys.readouterr().out
    key, digest = (told.splitlines()[line].split()[1] for line in (0, 1))
    assert re.fullmatch(r"fbk_[A-Za-z0-9_-]{43}", key)
    assert hashlib.sha256(key.encode()).hexdigest() == digest
    assert told.count(key) == 1
    assert f"  sha256: {digest}\n  tenant: acme\n" in told


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["check"], ["explain"], ["envoy-config"], ["serve"], ["up"], ["demo"], ["key"], ["key", "new"]):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([*words, "--help"])
        assert ended.value.code == 0
        assert len(capsys.readouterr().out.splitlines()) > 3
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([])
    assert ended.value.code == 2
