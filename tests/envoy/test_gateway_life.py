"""The gateway ends, by request, by force or because its ports are taken: requests fail closed, and it comes back."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai

from chain import NOTHING, Chain
from chain_gateway import GatewayProcess
from chain_policy import CHAT, Ports, secret_of
from envoy_rig import Answer, until

GOOD: dict[str, Any] = {"model": "small-chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
SPOOFED = {"x-forebay-internal-pool": "large-fleet", "x-forebay-internal-capture": "1"}


class Load:
    """Clients that ask without a pause, each answer kept."""

    def __init__(self, chain: Chain, headers: dict[str, str]) -> None:
        self._chain = chain
        self._headers = headers
        self._stop = threading.Event()
        self._count = 0
        self._lock = threading.Lock()
        self.answers: list[Answer | Exception] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Load:  # noqa: PYI034 - `Self` is not in Python 3.10
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def statuses(self) -> set[int]:
        return {answer.status for answer in self.answers if isinstance(answer, Answer)}

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._count += 1
                text = f"load {self._count}"
            try:
                body = GOOD | {"messages": [{"role": "user", "content": text}]}
                self.answers.append(self._chain.ask(body, **self._headers))
            except OSError as error:
                self.answers.append(error)


def assert_closed(answers: list[Answer | Exception]) -> None:
    """Every answer is whole and either good or one of ours."""
    for answer in answers:
        assert isinstance(answer, Answer), answer
        if answer.status != 200:
            assert (answer.status, answer.code) in {
                (503, "gateway_unavailable"),
                (503, "draining"),
                (503, "undecided"),
                (503, "no_healthy_pool"),
                (504, "gateway_timeout"),
            }, answer
            assert set(answer.json["error"]) == {"message", "type", "param", "code"}
            assert answer.headers["content-type"] == "application/json"


def test_a_killed_gateway_fails_closed_and_comes_back(sites: Callable[..., Chain]) -> None:
    chain = sites()
    with Load(chain, SPOOFED) as load:
        until(lambda: len(load.answers) > 50, "load runs")
        chain.gateway.send(signal.SIGKILL)
        chain.gateway.wait()
        killed = len(load.answers)
        until(lambda: len(load.answers) > killed + 50, "load runs on")
        after = load.answers[killed + 8 :]
        assert {answer.status for answer in after if isinstance(answer, Answer)} == {503}
        chain.gateway.start()
        until(lambda: isinstance(load.answers[-1], Answer) and load.answers[-1].status == 200, "it serves again")
    assert_closed(load.answers)
    assert chain.large.bodies == []
    with_openai = chain.chat("after the kill")
    assert with_openai.headers["x-forebay-pool"] == "small-fleet"
    chain.assert_quiet(NOTHING)


def test_the_openai_client_sees_a_gateway_that_is_away(sites: Callable[..., Chain]) -> None:
    chain = sites()
    chain.gateway.end(signal.SIGKILL)
    error = chain.refusal(GOOD)
    assert isinstance(error, openai.InternalServerError)
    assert (error.status_code, error.code, error.type) == (503, "gateway_unavailable", "server_error")
    chain.gateway.start()
    until(lambda: chain.ask(GOOD).status == 200, "it serves again")


def test_a_drain_in_mid_decision_lets_nothing_pass_undecided(sites: Callable[..., Chain]) -> None:
    """A follower waits, a stage is asked, a body is half sent, a stream runs; then SIGTERM comes."""
    chain = sites()
    gate = chain.small.gate("in flight when the drain comes")
    held = GOOD | {"messages": [{"role": "user", "content": "in flight when the drain comes"}]}
    results: list[Answer] = []
    calls = [threading.Thread(target=lambda: results.append(chain.ask(held, **SPOOFED))) for _ in range(3)]
    for call in calls:
        call.start()
    until(lambda: gate.arrived == 1, "one leads")
    until(lambda: chain.metric("forebay_decide_streams_total") >= 3, "the others follow")
    with half_sent(chain) as finish, Load(chain, SPOOFED) as load:
        until(lambda: len(load.answers) > 20, "load runs")
        chain.gateway.send(signal.SIGTERM)
        until(lambda: any(isinstance(a, Answer) and a.status == 503 for a in load.answers), "it drains")
        assert chain.admin("GET", "/healthz").status == 200
        ready = chain.admin("GET", "/readyz")
        assert ready.status == 503, ready
        finish()
        gate.open()
        assert chain.gateway.wait() == 0
        after = len(load.answers)
        until(lambda: len(load.answers) > after + 20, "load runs on")
    for call in calls:
        call.join()
    assert_closed(load.answers)
    assert_closed(list(results))
    assert any(result.status == 200 for result in results)
    assert chain.large.bodies == []
    assert "Traceback" not in chain.gateway.said()


@contextmanager
def half_sent(chain: Chain) -> Iterator[Callable[[], None]]:
    """A request whose body is not there yet; the function sends the rest and reads the answer."""
    body = json.dumps(GOOD).encode()
    connection = http.client.HTTPConnection("127.0.0.1", chain.ports.listen, timeout=20)
    connection.putrequest("POST", CHAT)
    for name, value in {
        "content-type": "application/json",
        "authorization": f"Bearer {secret_of('acme')}",
        "content-length": str(len(body)),
        **SPOOFED,
    }.items():
        connection.putheader(name, value)
    connection.endheaders(body[:10])

    def finish() -> None:
        connection.send(body[10:])
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        assert_closed([answer])

    try:
        yield finish
    finally:
        connection.close()


def test_two_gateways_on_the_same_ports_are_one_too_many(chain: Chain) -> None:
    second = GatewayProcess(chain.policy_file, chain.folder, "second.log")
    try:
        second.start()
    except AssertionError:
        assert second.status == 1
    else:
        second.end()
        raise AssertionError("a second gateway serves on the same ports")
    said = second.said()
    assert "Traceback" not in said, said
    assert "error[" in said.splitlines()[-1]
    assert "127.0.0.1:" in said.splitlines()[-1]
    assert chain.chat("the first gateway goes on").headers["x-forebay-pool"] == "small-fleet"


def test_a_taken_admin_port_is_said_too(chain: Chain) -> None:
    ports = Ports.free()
    second = GatewayProcess(
        chain.policy_file,
        chain.folder,
        "second-admin.log",
        f"gateway.ext_proc_address=127.0.0.1:{ports.ext_proc}",
        f"gateway.batch_address=127.0.0.1:{ports.batch}",
    )
    try:
        second.start()
    except AssertionError:
        assert second.status == 1
    else:
        second.end()
        raise AssertionError("a second gateway serves on the same admin port")
    assert "Traceback" not in second.said(), second.said()
    assert str(chain.ports.admin) in second.said().splitlines()[-1]
