"""A full disk, a locked, damaged, foreign or newer file: each an error with its slug, and nothing half-written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from forebay.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreLocked, StoreTooNew, StoreUnwritable
from forebay.store import FILE_NAME, JournalPosition, SqliteStore
from forebay.store.lock import FolderLock

AT = JournalPosition(1, 100)


def test_a_second_process_on_the_folder_is_told_so(store, tmp_path: Path):
    code = "import sys; from forebay.store import SqliteStore; SqliteStore(sys.argv[1], 'two')"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"`{tmp_path}` is in use by another process (pid {os.getpid()})" in ran.stderr
    with pytest.raises(StoreInUse):
        FolderLock(tmp_path)


def test_a_file_that_another_program_holds_is_locked_until_it_lets_go(tmp_path: Path, bench):
    with closing(SqliteStore(tmp_path, "one", timeout_ms=50)) as store:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for call in (lambda: store.draw([bench.ask(5)]), lambda: store.write([bench.row("a", ("b", "v", 1))], AT)):
                with pytest.raises(StoreLocked, match="database is locked; another program holds it"):
                    call()
            other.execute("ROLLBACK")
        assert store.draw([bench.ask(5)])[0].granted == 5
        store.write([bench.row("a", ("b", "v", 1))], AT)
        assert bench.balance(store) == (5, 1)
        assert bench.count(store) == 1


def test_a_full_disk_writes_nothing_and_all_of_it_once_there_is_room(store, bench):
    with store._rows.reading() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    for connection in (store._rows, store._leases):
        with connection.reading() as db:
            db.execute(f"PRAGMA max_page_count = {pages + 1}")
    rows = [bench.row(str(n), ("b", f"v{n}", 1), user="u" * 200) for n in range(500)]
    with pytest.raises(StoreFull, match="free some space"):
        store.write(rows, AT)
    assert bench.count(store) == 0
    assert bench.balance(store, value="v1") == (0, 0)
    assert store.position() == JournalPosition(0, 0)
    with store._rows.reading() as db:
        db.execute("PRAGMA max_page_count = 100000")
    store.write(rows, AT)
    assert bench.count(store) == 500
    assert bench.balance(store, value="v1") == (1, 1)


def test_a_bound_on_the_files_size_is_an_error_and_the_file_stays_sound(tmp_path: Path, bench):
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from forebay.errors import StoreError
from forebay.store import JournalPosition, LeaseAsk, SqliteStore
store = SqliteStore(sys.argv[1], "one")
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
granted = 0
try:
    for n in range(10_000):
        store.draw([LeaseAsk(1, "b", str(n), "tokens", 0, 10, 100, 10)])
        granted += 1
except StoreError as error:
    print(error.slug, granted, flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    slug, granted = ran.stdout.split()
    assert slug in ("store_unwritable", "store_full"), ran.stderr
    with closing(SqliteStore(tmp_path, "two")) as store:
        assert len(store.stranded()) == int(granted) > 5


@pytest.mark.parametrize("content", [b"this is no database, and it is longer than a header of SQLite needs to be" * 3])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="not a database"):
        SqliteStore(tmp_path, "one")
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    content = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="no ledger of forebay's"):
        SqliteStore(tmp_path, "one")
    assert path.read_bytes() == content


def test_a_damaged_page_is_corrupt_and_not_mended(tmp_path: Path, bench):
    with closing(SqliteStore(tmp_path, "one")) as store:
        store.write([bench.row(str(n), ("b", str(n), 1)) for n in range(2_000)], AT)
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[8_192:] = b"\xa5" * (len(content) - 8_192)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="malformed"), closing(SqliteStore(tmp_path, "two")) as store:
        store.write([bench.row("new", ("b", "v", 1))], AT)
    assert path.read_bytes()[8_192:] == bytes(content[8_192:])


def test_a_newer_file_is_refused(tmp_path: Path):
    SqliteStore(tmp_path, "one").close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreTooNew, match="has version 99, and this forebay knows up to"):
        SqliteStore(tmp_path, "one")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable):
        SqliteStore(tmp_path / "file" / "below", "one")


def test_a_failed_opening_frees_the_folder(tmp_path: Path):
    path = tmp_path / FILE_NAME
    path.write_bytes(b"nonsense" * 100)
    with pytest.raises(StoreError):
        SqliteStore(tmp_path, "one")
    path.unlink()
    SqliteStore(tmp_path, "one").close()
