"""A mixed load through a gateway: clients in parallel, and what they saw, compared with every set of books.

Owns running a plan against an address, and the command. Must not know how the gateway or the fleets are started.
A trial that fails is a result; only an address that nobody listens on makes every trial one.

    python -m forebay.lab.mixed_load --url http://127.0.0.1:10000 --admin http://127.0.0.1:9301 \
        --ledger forebay-ledger --fleet http://127.0.0.1:8001 --key app=fbk_...@acme --requests 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from forebay.lab.demo_sources import parse_metrics
from forebay.lab.mixed_load_books import read_books
from forebay.lab.mixed_load_client import LoadClient, View
from forebay.lab.mixed_load_compare import Books, Report, compare
from forebay.lab.mixed_load_plan import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    LoadKey,
    MixSpec,
    Trial,
    plan,
)

_TIMEOUT_S = 30
_QUIET_S = 1.0
_HELD = ("forebay_open_reservations", "forebay_ledger_lag_bytes")


async def drive(base_url: str, trials: Iterable[Trial], clients: int = 32) -> list[View]:
    """Sends trials through `base_url`, as many at once as there are clients.

    Returns: one view for each trial, in the order of the trials.
    """
    address = urllib.parse.urlsplit(base_url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    waiting: Iterator[tuple[int, Trial]] = iter(enumerate(trials))
    views: dict[int, View] = {}

    async def client() -> None:
        own = LoadClient(host, port)
        try:
            for index, trial in waiting:  # shared: each takes the next one
                views[index] = await own.ask(trial)
        finally:
            own.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return [views[index] for index in sorted(views)]


def run(base_url: str, trials: Iterable[Trial], clients: int = 32) -> list[View]:
    """`drive` for callers without an event loop."""
    return asyncio.run(drive(base_url, trials, clients))


def read_fleet(base_url: str) -> list[dict[str, Any]]:
    """A fleet's own books."""
    with urllib.request.urlopen(f"{base_url}/lab/ledger", timeout=_TIMEOUT_S) as answer:
        entries: list[dict[str, Any]] = json.load(answer)
    return entries


def read_metrics_text(admin_url: str) -> str:
    """The gateway's metrics in Prometheus' text form."""
    with urllib.request.urlopen(f"{admin_url}/metrics", timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text


def wait_for_quiet(admin_url: str, longest_s: float = 30.0) -> bool:
    """Waits until no reservation is open, the journal is read, and nothing was booked for a second; False: too long."""
    until = time.monotonic() + longest_s
    booked, since = -1.0, time.monotonic()
    while time.monotonic() < until:
        metrics = parse_metrics(read_metrics_text(admin_url))
        held = sum(value for name in _HELD for _, value in metrics.get(name, []))
        now_booked = sum(value for _, value in metrics.get("forebay_ledger_records_total", []))
        if held or now_booked != booked:
            booked, since = now_booked, time.monotonic()
        elif time.monotonic() - since >= _QUIET_S:
            return True
        time.sleep(0.1)
    return False


def report_of(trials: Iterable[Trial], views: Iterable[View], options: argparse.Namespace) -> Report:
    """Reads every set of books and compares them."""
    entries = [entry for url in options.fleet for entry in read_fleet(url)]
    rows, buckets = read_books(options.ledger)
    books = Books(entries, rows, buckets, read_metrics_text(options.admin))
    return compare(list(trials), list(views), books)


def main(arguments: list[str] | None = None) -> int:
    """Sends a load, waits for quiet, compares all books, prints the report as JSON; status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m forebay.lab.mixed_load", description=main.__doc__)
    parser.add_argument("--url", required=True, help="where clients reach the gateway")
    parser.add_argument("--admin", required=True, help="the gateway's admin port")
    parser.add_argument("--ledger", required=True, help="the folder of the ledger")
    parser.add_argument("--fleet", action="append", default=[], help="a fleet's own address; repeat")
    parser.add_argument("--key", action="append", default=[], help="ID=SECRET@TENANT; repeat")
    parser.add_argument("--model", action="append", default=[], help="KIND=NAME, such as chat=small-chat; repeat")
    parser.add_argument("--feature", action="append", default=[], help="a feature that requests may name; repeat")
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    trials = plan(_spec(options))
    views = run(options.url, trials, options.clients)
    wait_for_quiet(options.admin)
    report = report_of(trials, views, options)
    print(json.dumps(report.json(), indent=2))
    return 0 if report.passed else 1


_KINDS = {
    "chat": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "responses": RESPONSES,
    "messages": MESSAGES,
}


def _spec(options: argparse.Namespace) -> MixSpec:
    models: dict[str, tuple[str, ...]] = {}
    for text in options.model:
        kind, _, name = text.partition("=")
        if kind not in _KINDS or not name:
            raise SystemExit(f"`{text}` is no model; write `KIND=NAME` with a kind of {', '.join(_KINDS)}")
        models[_KINDS[kind]] = (*models.get(_KINDS[kind], ()), name)
    keys = []
    for text in options.key:
        identity, _, rest = text.partition("=")
        secret, _, tenant = rest.rpartition("@")
        if not (identity and secret and tenant):
            raise SystemExit("a key is written as `ID=SECRET@TENANT`")
        keys.append(LoadKey(identity, secret, tenant))
    if not keys or not models:
        raise SystemExit("give at least one `--key` and one `--model`")
    shares = {path: share for path, share in MixSpec((), {}).shares.items() if path in models}
    return MixSpec(
        tuple(keys),
        models,
        seed=options.seed,
        requests=options.requests,
        features=tuple(options.feature),
        shares=shares,
    )


if __name__ == "__main__":
    sys.exit(main())
