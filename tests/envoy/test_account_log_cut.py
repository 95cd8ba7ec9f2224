"""Envoy's access log is held up or cut in mid-load: what nobody ends expires at its bound, and balances are right.

Only the log's stream fails here: it alone runs through a forwarder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from account_books import LedgerFolder
from account_forwarder import Forwarder, forwarding, log_through
from account_site import Load, assert_books_agree, bookkeeping, both, budget, price, quiet, upstream_cost
from chain import Chain, running_chain
from chain_policy import free_ports
from envoy_rig import until
from forebay.control import logs_dropped

AMOUNT = 512_000_000


@dataclass
class CutSite:
    chain: Chain
    ledger: LedgerFolder
    log: Forwarder

    def books(self, name: str) -> int:
        return int(self.ledger.bucket("all-money")[name])


CutSites = Callable[..., CutSite]


@pytest.fixture
def cut_sites(tmp_path: Path) -> Iterator[CutSites]:
    """Starts a chain whose access log runs through a forwarder. Reservations expire after seconds, not minutes."""
    with ExitStack() as stack:

        def start(buffer_bytes: int | None = None) -> CutSite:
            (port,) = free_ports(1)
            forwarders: list[Forwarder] = []

            def rendered(folder: Path) -> None:
                target = log_through(folder, port, buffer_bytes)
                forwarders.append(stack.enter_context(forwarding(port, target)))

            change = both(bookkeeping(tmp_path, budget("all-money", AMOUNT)), short_lived)
            chain = stack.enter_context(running_chain(tmp_path, change, rendered))
            return CutSite(chain, LedgerFolder(tmp_path / "ledger"), forwarders[0])

        yield start


def short_lived(policy: dict[str, Any]) -> None:
    policy["gateway"] |= {"max_stream_duration_ms": 2_000, "max_message_timeout_ms": 1_000}
    policy["cache"]["follow_ms"] = 500


def test_entries_that_come_late_correct_what_expired(cut_sites: CutSites) -> None:
    site = cut_sites()
    chain, ledger = site.chain, site.ledger
    load = Load(chain, 4)
    with load.running():
        load.more(20)
        site.log.hold()
        load.more(40)
        expired = until(lambda: ledger.rows("outcome = 'expired'"), "reservations expire without an entry")
        for row in expired[:5]:
            assert row["cost_nanousd"] == row["reserved_nanousd"] > 0
            assert row["usage"] == 2
        assert upstream_cost(chain.small) <= site.books("drawn")
        site.log.release()
        load.more(20)
    assert load.refused == load.broken == []
    until(lambda: not ledger.rows("outcome = 'expired'"), "every late entry corrects its row")
    assert chain.metric("forebay_settled_late_total") >= len(expired)
    assert_books_agree(chain)
    assert site.books("spent") == upstream_cost(chain.small)
    assert len(ledger.rows()) == len(load.good)
    assert chain.metric("forebay_envoy_logs_dropped_total") == dropped_by_envoy(chain)


def test_what_was_lost_with_the_stream_stays_at_its_bound(cut_sites: CutSites) -> None:
    site = cut_sites()
    chain, ledger = site.chain, site.ledger
    load = Load(chain, 4)
    with load.running():
        load.more(20)
        site.log.cut()
        load.more(40)
        site.log.restore()
        before = chain.metric("forebay_settled_total")
        until(lambda: chain.metric("forebay_settled_total") > before, "entries come again")
        load.more(20)
    assert load.refused == load.broken == []
    quiet(chain)
    rows = ledger.rows()
    lost = [row for row in rows if row["outcome"] == "expired"]
    assert lost, "the cut was too short to lose an entry"
    assert len(rows) == len(load.good)
    for row in lost:
        assert row["cost_nanousd"] == row["reserved_nanousd"] >= price(1, 16)
    exact = [row for row in rows if row["outcome"] != "expired"]
    assert all(row["usage"] == 1 for row in exact)
    # To the nano-USD: what was told as the upstream counts it, what was lost at its bound, and so never below.
    spent, upstream = site.books("spent"), upstream_cost(chain.small)
    assert spent == sum(row["cost_nanousd"] for row in rows) >= upstream
    assert spent - upstream <= sum(row["reserved_nanousd"] for row in lost)
    assert spent <= site.books("drawn")
    assert chain.metric("forebay_envoy_logs_dropped_total") == dropped_by_envoy(chain)
    # The bound is what nobody can correct any more once the wait for a late entry is over.
    until(lambda: chain.metric("forebay_settled_total", outcome="expired") == len(lost), "the metrics count them")
    assert_books_agree(chain)


def test_what_envoy_drops_is_a_metric(cut_sites: CutSites) -> None:
    """A stream that takes nothing, and a buffer of a few entries: Envoy drops the others, and says how many."""
    site = cut_sites(4_096)
    chain = site.chain
    assert chain.metric("forebay_envoy_logs_dropped_total") == 0
    load = Load(chain, 4)
    with load.running():
        load.more(10)
        site.log.hold()
        until(lambda: chain.metric("forebay_envoy_logs_dropped_total") > 0, "envoy drops and the gateway says so")
        site.log.release()
        load.more(10)
    quiet(chain)
    assert load.refused == load.broken == []
    assert site.books("spent") >= upstream_cost(chain.small)


def dropped_by_envoy(chain: Chain) -> int:
    """Envoy's own count."""
    return logs_dropped(f"127.0.0.1:{chain.ports.envoy}")
