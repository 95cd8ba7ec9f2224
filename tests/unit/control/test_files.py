"""Files are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.control.files import read, replace
from forebay.errors import RolloutError


def test_a_file_is_replaced_by_rename(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.yaml"
    assert replace(path, "one")
    first = path.stat().st_ino
    assert replace(path, "two")
    assert path.stat().st_ino != first
    assert read(path) == "two"
    assert [each.name for each in path.parent.iterdir()] == ["a.yaml"]


def test_equal_content_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    replace(path, "one")
    first = path.stat().st_ino
    assert not replace(path, "one")
    assert path.stat().st_ino == first


def test_a_refusal_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("x")
    with pytest.raises(RolloutError, match="cannot replace"):
        replace(tmp_path / "taken", "text")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]
