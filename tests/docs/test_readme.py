"""README's blocks run, its files exist, and its commands are commands."""

import re
import shlex
from pathlib import Path

import pytest

from forebay.cli import parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize("line", re.findall(r"^\$ forebay (.*?)(?:#.*)?$", README, re.MULTILINE))
def test_commands_are_understood(line):
    parser().parse_args(shlex.split(line))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_point_at_files(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^\$ )make ([a-z]+)", README, re.MULTILINE))))
def test_make_targets_exist(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_command_has_help():
    help_text = parser().format_help()
    for name in ("check", "explain", "envoy-config", "serve", "up", "demo", "ledger", "key"):
        assert name in help_text
