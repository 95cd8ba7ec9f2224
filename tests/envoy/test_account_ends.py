"""Each way in which a request ends: its outcome in the ledger, what it is charged, and right balances after it."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from account_books import LedgerFolder
from account_site import assert_books_agree, bookkeeping, both, budget, ledger_of, price, quiet, upstream_cost
from chain import NOTHING, Chain, running_chain
from chain_policy import CHAT, free_ports, secret_of
from envoy_rig import DEADLINE_S, until
from forebay.lab.fleet_spec import Faults

ALL_MONEY = budget("all-money", 1 << 50)
ALL_TOKENS = budget("all-tokens", 1 << 50, "PROVIDER", "TOKENS")
EXACT, ESTIMATED, NONE = 1, 2, 0


@pytest.fixture(scope="module")
def module_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One chain for the module; streams live two seconds, and one pool has an endpoint where nobody listens."""
    folder = tmp_path_factory.mktemp("ends")

    def change(policy: dict[str, Any]) -> None:
        policy["gateway"] |= {"max_stream_duration_ms": 2_000, "max_message_timeout_ms": 1_000}
        policy["cache"]["follow_ms"] = 500
        large = next(pool for pool in policy["pools"] if pool["name"] == "large-fleet")
        large["endpoints"].insert(0, {"address": f"127.0.0.1:{free_ports(1)[0]}"})

    with running_chain(folder, both(bookkeeping(folder, ALL_MONEY, ALL_TOKENS), change)) as chain:
        yield chain


@pytest.fixture
def site(module_site: Chain) -> Iterator[Chain]:
    yield module_site
    module_site.assert_quiet(NOTHING)
    assert_books_agree(module_site)


class Spent:
    """What a test has added to the budgets."""

    def __init__(self, chain: Chain) -> None:
        self._chain, self._ledger = chain, ledger_of(chain)
        self._before = self._sums()
        self._upstream = upstream_cost(chain.small, chain.large)

    def nanousd(self) -> int:
        quiet(self._chain)
        return self._sums() - self._before

    def upstream(self) -> int:
        return upstream_cost(self._chain.small, self._chain.large) - self._upstream

    def _sums(self) -> int:
        return sum(bucket["spent"] for bucket in self._ledger.buckets("all-money"))


def asked(text: str, **fields: Any) -> bytes:
    body = {"model": "small-chat", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
    return json.dumps(body | fields).encode()


@contextlib.contextmanager
def sending(chain: Chain, body: bytes, run: str) -> Iterator[http.client.HTTPResponse]:
    """A request whose answer the block may read or leave."""
    connection = http.client.HTTPConnection("127.0.0.1", chain.ports.listen, timeout=DEADLINE_S)
    headers = {"authorization": f"Bearer {secret_of('acme')}", "content-type": "application/json"}
    try:
        connection.request("POST", CHAT, body, headers | {"x-forebay-run": run})
        yield connection.getresponse()
    finally:
        connection.close()


def row_of(chain: Chain, run: str) -> dict[str, Any]:
    return LedgerFolder(ledger_of(chain).directory).row_of_run(run)


def test_a_good_answer_is_charged_to_the_token(site: Chain) -> None:
    spent = Spent(site)
    answer = site.ask(asked("a good answer"), x_forebay_run="good")
    row = row_of(site, "good")
    usage = answer.json["usage"]
    assert (row["outcome"], row["status"], row["usage"], row["attempts"]) == ("ok", 200, EXACT, 1)
    assert (row["prompt_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row["cost_nanousd"] == price(usage["prompt_tokens"], usage["completion_tokens"])
    assert row["endpoint"] == f"127.0.0.1:{site.small.server.port}"
    assert row["id"] == answer.headers["x-forebay-request-id"]
    assert (row["price_revision"], row["provider"], row["pool"]) == ("test-1", "lab", "small-fleet")
    assert spent.nanousd() == spent.upstream() == row["cost_nanousd"]


def test_what_comes_from_the_cache_costs_nothing_and_says_what_it_saved(site: Chain) -> None:
    first = site.ask(asked("asked twice"), x_forebay_run="first")
    until(lambda: site.metric("forebay_capture_bytes") == 0, "the answer is put away")
    paid = row_of(site, "first")
    spent = Spent(site)
    assert site.ask(asked("asked twice"), x_forebay_run="again").body == first.body
    row = row_of(site, "again")
    assert (row["outcome"], row["cache"], row["usage"], row["cost_nanousd"]) == ("hit", "hit", NONE, 0)
    assert row["saved_by_cache_nanousd"] == paid["cost_nanousd"] > 0
    assert spent.nanousd() == 0


def test_a_try_at_a_dead_endpoint_is_an_attempt(site: Chain) -> None:
    """Of two endpoints one is dead, and Envoy draws: both ends are met within a few requests."""
    attempts: set[int] = set()
    for turn in range(100):
        answer = site.ask(asked(f"attempt {turn}", model="large-chat"), x_forebay_run=f"attempt-{turn}")
        assert answer.status in (200, 503), answer
        row = row_of(site, f"attempt-{turn}")
        if row["outcome"] == "ok":
            assert row["endpoint"] == f"127.0.0.1:{site.large.server.port}"
            attempts.add(row["attempts"])
        else:
            # The second try went to the dead one again.
            assert (row["outcome"], row["attempts"], row["cost_nanousd"]) == ("local_reply", 2, 0)
        if attempts == {1, 2}:
            return
    raise AssertionError(f"only {attempts} attempts")


def test_an_upstream_error_costs_nothing(site: Chain) -> None:
    spent = Spent(site)
    site.small.fail_next("the upstream fails", 1)
    assert site.ask(asked("the upstream fails"), x_forebay_run="failed").status == 500
    row = row_of(site, "failed")
    assert (row["outcome"], row["status"], row["usage"], row["attempts"]) == ("upstream_error", 500, NONE, 1)
    assert (row["cost_nanousd"], row["prompt_tokens"], row["output_tokens"]) == (0, 0, 0)
    assert spent.nanousd() == 0


def test_a_local_reply_never_settles_from_usage(site: Chain) -> None:
    spent = Spent(site)
    answer = site.ask(asked("nobody is there", model="lost"), x_forebay_run="lost")
    assert answer.status == 503
    row = row_of(site, "lost")
    assert (row["outcome"], row["status"], row["usage"]) == ("local_reply", 503, NONE)
    assert row["attempts"] == 2
    assert row["cost_nanousd"] == 0
    assert spent.nanousd() == 0


def test_a_client_that_leaves_pays_what_it_got(site: Chain) -> None:
    spent = Spent(site)
    gate = site.small.gate("leaves in mid stream")
    with sending(site, asked("leaves in mid stream", stream=True), "left") as response:
        assert response.status == 200
        assert response.read(20)
    row = row_of(site, "left")
    gate.open()
    assert (row["outcome"], row["status"], row["usage"]) == ("aborted", 200, ESTIMATED)
    assert row["prompt_tokens"] > 0
    assert 0 < row["cost_nanousd"] <= row["reserved_nanousd"]
    assert spent.nanousd() == row["cost_nanousd"]


def test_a_client_that_leaves_before_the_answer(site: Chain) -> None:
    gate = site.small.gate("leaves before the answer")
    spent = Spent(site)
    connection = http.client.HTTPConnection("127.0.0.1", site.ports.listen, timeout=DEADLINE_S)
    headers = {"authorization": f"Bearer {secret_of('acme')}", "content-type": "application/json"}
    connection.request("POST", CHAT, asked("leaves before the answer"), headers | {"x-forebay-run": "early"})
    until(lambda: gate.arrived == 1, "the upstream has it")
    connection.close()
    row = row_of(site, "early")
    gate.open()
    assert (row["outcome"], row["usage"]) == ("aborted", ESTIMATED)
    # The upstream has read the prompt.
    assert row["prompt_tokens"] > 0
    assert spent.nanousd() == row["cost_nanousd"] > 0


def test_time_is_over(site: Chain) -> None:
    spent = Spent(site)
    gate = site.small.gate("longer than a stream may be")
    with sending(site, asked("longer than a stream may be", stream=True), "timeout") as response:
        assert response.status == 200
        with contextlib.suppress(http.client.HTTPException, OSError):
            response.read()
    row = row_of(site, "timeout")
    gate.open()
    assert (row["outcome"], row["usage"]) == ("timeout", ESTIMATED), row
    assert 0 < row["cost_nanousd"] <= row["reserved_nanousd"]
    assert spent.nanousd() == row["cost_nanousd"]


@pytest.mark.parametrize("form", ["streamed", "plain"])
def test_an_upstream_that_breaks_off(site: Chain, form: str) -> None:
    streamed = form == "streamed"
    spent = Spent(site)
    before, site.small.faults = site.small.faults, Faults(reset_ratio=1.0)
    run = f"reset-{form}"
    try:
        with sending(site, asked(f"broken off {form}", stream=streamed), run) as response:
            with contextlib.suppress(http.client.HTTPException, OSError):
                response.read()
            assert response.status == (200 if streamed else 502)
    finally:
        site.small.faults = before
    row = row_of(site, run)
    assert (row["outcome"], row["usage"], row["attempts"]) == ("reset", ESTIMATED, 1)
    # The upstream had read the prompt, and perhaps charges for it.
    assert row["prompt_tokens"] > 0
    assert spent.nanousd() == row["cost_nanousd"] > 0


def test_a_refusal_is_written_down(site: Chain) -> None:
    spent = Spent(site)
    answer = site.ask(asked("too much", max_tokens=None, n=1, model="nothing-of-this-name"), x_forebay_run="refused")
    row = row_of(site, "refused")
    assert (row["outcome"], row["status"], row["code"]) == ("refused", answer.status, answer.code)
    assert (row["cost_nanousd"], row["attempts"]) == (0, 0)
    assert spent.nanousd() == 0
