"""A file that is replaced is noticed, in whatever way it is replaced, and one bad change hides no later one."""

from __future__ import annotations

import logging
import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from forebay.gateway import FileWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 20.0


@contextmanager
def watching(path: Path, changed: Callable[[], object]) -> Iterator[FileWatch]:
    watch = FileWatch(path, changed)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text("one")
    return file


@pytest.fixture
def seen() -> queue.Queue[str]:
    return queue.Queue()


def test_a_rename_over_the_file_is_noticed_each_time(file: Path, seen: queue.Queue[str]) -> None:
    with watching(file, lambda: seen.put(file.read_text())):
        for text in ("two", "six", "ten"):
            fresh = file.with_suffix(".new")
            fresh.write_text(text)
            fresh.rename(file)
            assert seen.get(timeout=DEADLINE_S) == text
    assert seen.empty()


def test_a_write_in_place_is_noticed(file: Path, seen: queue.Queue[str]) -> None:
    with watching(file, lambda: seen.put("changed")):
        file.write_text("longer than it was")
        assert seen.get(timeout=DEADLINE_S) == "changed"


def test_a_file_that_goes_and_comes_back_is_noticed_when_it_is_back(file: Path, seen: queue.Queue[str]) -> None:
    with watching(file, lambda: seen.put(file.read_text())):
        file.unlink()
        file.write_text("back again")
        assert seen.get(timeout=DEADLINE_S) == "back again"


def test_a_symbolic_link_that_is_turned_is_noticed(tmp_path: Path, seen: queue.Queue[str]) -> None:
    """As mounted configuration is changed: the link's target is another file with the same size and time."""
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("size")
    link = tmp_path / "policy.yaml"
    link.symlink_to("a")
    with watching(link, lambda: seen.put(link.read_text())):
        turned = tmp_path / "turned"
        turned.symlink_to("b")
        turned.rename(link)
        assert seen.get(timeout=DEADLINE_S) == "size"


def test_a_change_that_is_not_taken_hides_no_later_one(
    file: Path, seen: queue.Queue[str], caplog: pytest.LogCaptureFixture
) -> None:
    def changed() -> None:
        text = file.read_text()
        seen.put(text)
        if text == "bad":
            raise RuntimeError("cannot take this")

    with caplog.at_level(logging.ERROR), watching(file, changed):
        for text in ("bad", "good"):
            fresh = file.with_suffix(".new")
            fresh.write_text(text)
            fresh.rename(file)
            assert seen.get(timeout=DEADLINE_S) == text
    assert "was not taken" in caplog.text


def test_nothing_is_told_of_a_file_that_stays(file: Path, seen: queue.Queue[str]) -> None:
    with watching(file, lambda: seen.put("changed")):
        pass
    assert seen.empty()
