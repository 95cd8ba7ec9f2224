"""The books are in trouble: a second process, a locked file, a full disk, a corrupt file. Requests go on.

A full disk is a bound on the size of the gateway's files (RLIMIT_FSIZE), which can be set while it runs.
"""

from __future__ import annotations

import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from account_books import LedgerFolder
from account_site import Load, assert_books_agree, bookkeeping, budget, price, spend_all, upstream_cost
from chain import Chain
from chain_gateway import GatewayProcess
from chain_policy import Ports
from envoy_rig import until

AMOUNT = 64_000_000_000
LOCKED_S = 3.0
Sites = Callable[..., Chain]


@contextmanager
def locked(ledger: LedgerFolder) -> Iterator[None]:
    """Somebody else holds the file's write lock inside the block."""
    other = sqlite3.connect(ledger.file, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


@contextmanager
def full_disk(gateway: GatewayProcess, bound_bytes: int) -> Iterator[None]:
    """No file of the gateway may grow above the bound inside the block; Python ignores SIGXFSZ: a write fails."""
    _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (bound_bytes, hard))
    try:
        yield
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_second_process_on_the_same_books_is_refused(sites: Sites, tmp_path: Path) -> None:
    chain = sites(bookkeeping(tmp_path, budget("all-money", AMOUNT)))
    ports = Ports.free()
    second = GatewayProcess(
        chain.policy_file,
        chain.folder,
        "second.log",
        f"gateway.ext_proc_address=127.0.0.1:{ports.ext_proc}",
        f"gateway.batch_address=127.0.0.1:{ports.batch}",
        f"gateway.admin_address=127.0.0.1:{ports.admin}",
    )
    with pytest.raises(AssertionError):
        second.start()
    assert second.status == 1
    said = second.said().splitlines()[-1]
    assert "error[store_in_use]" in said, said
    assert str(tmp_path / "ledger") in said
    assert "Traceback" not in second.said()
    assert chain.chat("the first goes on").headers["x-forebay-pool"] == "small-fleet"
    assert_books_agree(chain)
    assert len(LedgerFolder(tmp_path / "ledger").rows()) == 1


def test_a_locked_ledger_holds_nobody_up(sites: Sites, tmp_path: Path) -> None:
    """Small leases, so that some are drawn while the file is locked; then they are counted in memory."""
    chain = sites(bookkeeping(tmp_path, budget("all-money", 64_000_000)))
    ledger = LedgerFolder(tmp_path / "ledger")
    load = Load(chain, 4)
    with load.running():
        load.more(20)
        with locked(ledger):
            held = threading.Event()
            before = len(load.good)
            held.wait(LOCKED_S)
            assert len(load.good) > before, "nobody was served while it was locked"
        load.more(20)
    assert load.broken == []
    assert [error.response.text for error in load.refused] == []
    assert_books_agree(chain)
    bucket = ledger.bucket("all-money")
    assert len(ledger.rows()) == len(load.good)
    assert bucket["spent"] == upstream_cost(chain.small) <= bucket["drawn"] <= 64_000_000
    assert chain.gateway.end() == 0
    # What was drawn in memory is written down, and what was not used is given back.
    assert ledger.bucket("all-money")["drawn"] == bucket["spent"]


def test_a_full_disk_stops_the_books_and_not_the_requests(sites: Sites, tmp_path: Path) -> None:
    chain = sites(bookkeeping(tmp_path, budget("all-money", AMOUNT)))
    ledger = LedgerFolder(tmp_path / "ledger")
    load = Load(chain, 4)
    with load.running():
        load.more(20)
        quiet_before = chain.metric("forebay_ledger_records_total")
        with full_disk(chain.gateway, 4_096):
            until(lambda: chain.metric("forebay_journal_failures_total") > 0, "the journal cannot be written")
            load.more(60)
        until(lambda: chain.metric("forebay_ledger_records_total") > quiet_before, "the ledger goes on")
        load.more(20)
    assert load.broken == load.refused == []
    assert_books_agree(chain)
    rows = ledger.rows()
    assert sorted(row["id"] for row in rows) == sorted(identity for _, identity in load.good)
    assert ledger.bucket("all-money")["spent"] == upstream_cost(chain.small)
    assert chain.metric("forebay_journal_lost_total") == 0
    assert "Traceback" not in chain.gateway.said()


def test_a_corrupt_ledger_does_not_keep_a_gateway_from_starting(sites: Sites, tmp_path: Path) -> None:
    """Budgets are then counted in memory, and still end."""
    amount = 1_000_003
    ledger = corrupt(tmp_path)
    chain = sites(bookkeeping(tmp_path, budget("all-money", amount)))
    assert "the ledger cannot be opened" in chain.gateway.said()
    error = spend_all(chain, "in memory")
    assert error.code == "budget_exhausted"
    assert amount - price(20, 64) < upstream_cost(chain.small) <= amount
    assert chain.metric("forebay_lease_failures_total") > 0
    # Somebody takes the broken file away: the journal has everything.
    for file in ledger.directory.glob("ledger.sqlite3*"):
        file.unlink()
    until(lambda: chain.metric("forebay_ledger_records_total") > 0, "a new ledger is begun")
    assert_books_agree(chain)
    bucket = ledger.bucket("all-money")
    assert bucket["spent"] == upstream_cost(chain.small) <= bucket["drawn"] <= amount


def test_a_policy_may_refuse_while_the_ledger_is_away(sites: Sites, tmp_path: Path) -> None:
    corrupt(tmp_path)
    hard = budget("all-money", AMOUNT, models=["small-chat"])
    chain = sites(bookkeeping(tmp_path, hard, on_failure="REFUSE"))
    error = chain.refusal({"model": "small-chat", "messages": [{"role": "user", "content": "closed"}]})
    assert (error.status_code, error.code) == (503, "budget_unavailable")
    # What no hard budget counts goes on.
    assert chain.chat("open", model="large-chat").headers["x-forebay-pool"] == "large-fleet"
    assert chain.small.bodies == []


def corrupt(folder: Path) -> LedgerFolder:
    """A file in the ledger's place that is no database."""
    ledger = LedgerFolder(folder / "ledger")
    ledger.directory.mkdir()
    ledger.file.write_bytes(b"this is no database, whatever its name says\n" * 400)
    return ledger
