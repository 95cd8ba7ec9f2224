"""kill -9, ten times: what was acknowledged is there, and what was granted is counted."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from forebay.store import JournalPosition, SqliteStore

# Draws from one thread and writes from the other, and says each on standard output once it is acknowledged.
CHILD = """
import hashlib, os, sys, threading
from forebay.store import JournalPosition, LeaseAsk, LedgerRow, SqliteStore
from forebay.store.interface import KIND_COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS
folder, life = sys.argv[1], sys.argv[2]
store = SqliteStore(folder, f"life-{life}")
numbers = {"status", "stream", "usage", "cost_known"}
kind = tuple(0 if name in numbers else "x" for name in KIND_COLUMNS)
def row(n):
    id = hashlib.md5(f"{life}-{n}".encode()).digest()
    return LedgerRow(id, kind, ("",) * len(TEXT_COLUMNS), (1,) * len(NUMBER_COLUMNS), 0, "[]", b"", f"life-{life}",
                     [("b", "v", 0, 1)])
def say(text):
    os.write(1, (text + "\\n").encode())
def draw():
    while True:
        (grant,) = store.draw([LeaseAsk(1, "b", "v", "tokens", 0, 10, 1 << 40, 100)])
        say(f"d {grant.granted}")
threading.Thread(target=draw, daemon=True).start()
n = 0
while True:
    store.write([row(n + k) for k in range(20)], JournalPosition(int(life), n + 20))
    n += 20
    say(f"w {n}")
"""


def test_nothing_acknowledged_is_lost(tmp_path: Path):
    granted = rows = 0
    for life in range(1, 11):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(life)], stdout=subprocess.PIPE)
        said = b""
        until = time.monotonic() + 30
        # A different moment each time, told by how much was said.
        while said.count(b"\n") < 5 + 7 * life and time.monotonic() < until:
            if select.select([child.stdout], [], [], 1)[0]:
                said += os.read(child.stdout.fileno(), 4096)
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.stdout.close()
        child.wait()
        lines = [line.split() for line in (said + rest).decode().splitlines() if line.count(" ") == 1]
        acknowledged_rows = max((int(number) for what, number in lines if what == "w"), default=0)
        acknowledged_grants = sum(int(number) for what, number in lines if what == "d")
        assert acknowledged_rows
        assert acknowledged_grants

        with closing(SqliteStore(tmp_path, f"check-{life}")) as store:
            with store._rows.reading() as db:
                drawn, spent = db.execute("SELECT drawn, spent FROM bucket").fetchone()
                found = db.execute("SELECT count(*) FROM record").fetchone()[0]
                sums = db.execute("SELECT sum(max(granted, settled)), sum(settled) FROM lease").fetchone()
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            # One draw and one write at most were on their way when it died.
            assert granted + acknowledged_grants <= sums[0] <= granted + acknowledged_grants + 100 + spent
            assert rows + acknowledged_rows <= found <= rows + acknowledged_rows + 20
            assert found == spent == sums[1]
            assert drawn == sums[0] >= spent
            position = store.position()
            assert position.segment == life
            assert position == JournalPosition(life, found - rows)
            (stranded,) = store.stranded() or [None]
            assert stranded is None or stranded.owner == f"life-{life}"
        granted, rows = sums[0], found
