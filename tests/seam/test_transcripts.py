"""Recorded `ext_proc` streams get the recorded answers, from the Rust server and from the reference alike.

Owns: the comparison. Must not know: how a stream is played. On failure: the steps that differ are shown.

After a change of what is answered on purpose, `FOREBAY_RECORD=1 pytest tests/seam/test_transcripts.py` writes the Rust
server's answers into the files; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from extproc_servers import SERVERS, rust_server
from extproc_streams import Player
from forebay.policy import load

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.json"))
POLICY = load(FOLDER / "policy.yaml").message_bytes


def steps(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_text())["steps"])


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_recorded_stream_gets_the_recorded_answer(file: Path, server: str) -> None:
    recorded = steps(file)
    if os.environ.get("FOREBAY_RECORD"):
        with rust_server(POLICY) as target:
            recorded = Player(target).play(recorded)
        transcript = {**json.loads(file.read_text()), "steps": recorded}
        file.write_text(json.dumps(transcript, indent=1, ensure_ascii=False) + "\n")
    with SERVERS[server](POLICY) as target:
        assert Player(target).play(recorded) == recorded


def answered(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for step in steps(file):
        if "expect" in step:
            yield step["expect"], step["frame"]


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_no_stream_ends_well_without_an_answer(file: Path) -> None:
    said: dict[str, list[str]] = {}
    for stream, frame in answered(file):
        common = (frame.get("request_headers") or frame.get("request_body") or {}).get("response", {})
        decided = "immediate_response" in frame or "header_mutation" in common
        said.setdefault(stream, []).append("decided" if decided else "undecided")
    captures = {step["open"] for step in steps(file) if step.get("filter") == "capture"}
    for step in steps(file):
        if "end" in step and step["end"] not in captures:
            decided = said.get(step["end"], [""])[-1] == "decided"
            assert decided or step["code"] != "OK", f"`{step['end']}` passed undecided"


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_nothing_follows_an_immediate_response(file: Path) -> None:
    over: set[str] = set()
    for stream, frame in answered(file):
        assert stream not in over
        if "immediate_response" in frame:
            over.add(stream)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_what_goes_on_carries_a_pool_and_no_credential(file: Path) -> None:
    for _, frame in answered(file):
        common = (frame.get("request_headers") or frame.get("request_body") or {}).get("response", {})
        if "header_mutation" in common:
            mutation = common["header_mutation"]
            names = {header["header"]["key"] for header in mutation["set_headers"]}
            assert "x-forebay-internal-pool" in names
            assert {"authorization", "x-api-key", "api-key"} <= set(mutation["remove_headers"])
