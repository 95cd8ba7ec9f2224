"""The whole chain as it ships: a real Envoy, `forebay serve` as a process of its own, scripted fleets.

Owns: processes, ports and folders, and the check after every test that nothing leaked. Must not know: what is tested.
On failure: the end of the gateway's log stands in the message; everything started is ended by its process id.
"""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from chain_fleet import ScriptedFleet, scripted
from chain_gateway import GatewayProcess
from chain_policy import CHAT, POOL_KEY_ENV, Ports, chain_policy, free_ports, secret_of
from chain_sockets import EchoServers, echo_servers
from envoy_rig import DEADLINE_S, Answer, until
from forebay.control import RenderOptions, install, render
from forebay.lab.demo_sources import Metrics, parse_metrics
from forebay.lab.envoy import EnvoyServer
from forebay.lab.fleet import fleet_in_thread
from forebay.policy import load

_HELD = ("forebay_open_reservations", "forebay_pool_requests", "forebay_pool_reserved_tokens", "forebay_capture_bytes")
NOTHING = dict.fromkeys(_HELD, 0.0)


@dataclass
class Chain:
    """A running chain and its clients."""

    folder: Path
    ports: Ports
    policy: dict[str, Any]
    fleets: dict[str, ScriptedFleet]
    echo: EchoServers
    pool_key: str
    gateway: GatewayProcess
    envoy: EnvoyServer | None = None
    _clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    @property
    def policy_file(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def small(self) -> ScriptedFleet:
        return self.fleets["small-fleet"]

    @property
    def large(self) -> ScriptedFleet:
        return self.fleets["large-fleet"]

    @property
    def scarce(self) -> ScriptedFleet:
        return self.fleets["one-place"]

    # --- clients

    def client(self, key: str = "acme") -> openai.OpenAI:
        """The `openai` client with a key of the policy; it never tries again by itself."""
        if key not in self._clients:
            url = f"http://127.0.0.1:{self.ports.listen}/v1"
            self._clients[key] = openai.OpenAI(base_url=url, api_key=secret_of(key), max_retries=0, timeout=DEADLINE_S)
        return self._clients[key]

    def chat(self, text: str, key: str = "acme", **fields: Any) -> Any:
        """One chat through the `openai` client, without chance; the raw response, which has headers and parses."""
        asked = {"model": "small-chat", "messages": [{"role": "user", "content": text}], "temperature": 0} | fields
        return self.client(key).chat.completions.with_raw_response.create(**asked)

    def refusal(self, body: bytes | dict[str, Any], path: str = CHAT, key: str = "acme", **headers: str) -> Any:
        """One POST through the `openai` client that must be refused; its error, once it has OpenAI's shape."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        with pytest.raises(openai.APIStatusError) as caught:
            self.client(key).post(path.removeprefix("/v1"), cast_to=object, content=content, options={"headers": sent})
        error = caught.value
        assert isinstance(error.body, dict), error
        assert set(error.body) == {"message", "type", "param", "code"}
        assert error.response.headers["content-type"] == "application/json"
        return error

    def ask(self, body: bytes | dict[str, Any], path: str = CHAT, key: str | None = "acme", **headers: str) -> Answer:
        """One POST, byte for byte; header names are written with `_` for `-`."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, key, **headers)

    def send(self, method: str, path: str, body: bytes | None, key: str | None = "acme", **headers: str) -> Answer:
        """One request of any kind."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent = {"content-type": "application/json"} | sent
        if key is not None:
            sent["authorization"] = f"Bearer {secret_of(key)}"
        return _exchange(self.ports.listen, method, path, body, sent)

    def at_once(self, calls: list[Callable[[], Any]]) -> list[Any]:
        """Run the calls in threads, all released together; results in order, an exception being a result."""
        barrier = threading.Barrier(len(calls))
        results: list[Any] = [None] * len(calls)

        def run(index: int) -> None:
            barrier.wait(DEADLINE_S)
            try:
                results[index] = calls[index]()
            except Exception as error:  # noqa: BLE001 - a thread hands its failure on
                results[index] = error

        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE_S)
        return results

    # --- what the gateway says of itself

    def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Ask the admin port."""
        data = None if body is None else json.dumps(body).encode()
        return _exchange(self.ports.admin, method, path, data, {})

    def metrics(self) -> Metrics:
        return parse_metrics(self.admin("GET", "/metrics").body.decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        series = self.metrics().get(name, [])
        return sum(value for had, value in series if all(had.get(k) == v for k, v in labels.items()))

    def record(self, request_id: str) -> dict[str, Any]:
        """The decision record of a request, once it is over."""

        def find() -> dict[str, Any] | None:
            records = self.admin("GET", "/records?limit=500").json
            return next((record for record in records if record["id"] == request_id), None)

        found: dict[str, Any] = until(find, f"the record of {request_id}")
        return found

    def held(self) -> dict[str, float]:
        """What the gateway holds for requests in flight, by the name of its metric."""
        metrics = self.metrics()
        return {name: sum(value for _, value in metrics[name]) for name in _HELD}

    def assert_quiet(self, before: dict[str, float]) -> None:
        """The gateway lives, and holds no more reservations, places, tokens and captured bytes than before."""
        held = before

        def quiet() -> bool:
            nonlocal held
            held = self.held()
            return all(held[name] <= before[name] for name in _HELD)

        try:
            until(quiet, "nothing more is held")
        except AssertionError:
            raise AssertionError(f"held before: {before}, now: {held}\n{self.gateway.said()[-2000:]}") from None
        assert self.admin("GET", "/healthz").status == 200
        assert self.metric("forebay_panics_total") == 0
        assert [fleet.server.errors for fleet in self.fleets.values()] == [[] for _ in self.fleets]

    # --- what a test may change

    def write_policy(self, policy: dict[str, Any] | str) -> None:
        """Replace the policy file by rename."""
        new = self.folder / f"policy.{uuid.uuid4().hex}"
        new.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy, sort_keys=False))
        new.replace(self.policy_file)

    def start_envoy(self) -> None:
        """Start Envoy on what stands in the folder."""
        environment = {POOL_KEY_ENV: self.pool_key}
        self.envoy = EnvoyServer(self.folder / "envoy.yaml", f"127.0.0.1:{self.ports.envoy}", environment=environment)
        self.envoy.__enter__()

    def close(self) -> None:
        """End what runs."""
        for client in self._clients.values():
            client.close()
        if self.envoy is not None:
            self.envoy.stop()


def _exchange(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


Change = Callable[[dict[str, Any]], None]
ChangeYaml = Callable[[Path], None]


@contextmanager
def running_chain(folder: Path, change: Change | None = None, rendered: ChangeYaml | None = None) -> Iterator[Chain]:
    """A whole chain inside the block. `change` alters the policy before, `rendered` Envoy's files."""
    pool_key = secrets.token_urlsafe(16)
    specs = {
        "small-fleet": scripted("small", "small-chat-v2", "small-embed", credential=pool_key),
        "large-fleet": scripted("large", "large-chat", credential=pool_key),
        "one-place": scripted("scarce", "scarce", credential=pool_key),
    }
    with ExitStack() as stack:
        fleets = {name: stack.enter_context(fleet_in_thread(spec, ScriptedFleet)) for name, spec in specs.items()}
        echo = stack.enter_context(echo_servers())
        ports = Ports.free()
        upstreams = {name: fleet.server.port for name, fleet in fleets.items()}
        upstreams |= {"away": free_ports(1)[0], "sockets": echo.websocket_port, "echo": echo.grpc_port}
        policy = chain_policy(ports, upstreams)
        if change is not None:
            change(policy)
        gateway = GatewayProcess(folder / "policy.yaml", folder)
        chain = Chain(folder, ports, policy, fleets, echo, pool_key, gateway)
        stack.callback(chain.close)
        chain.write_policy(policy)
        install(render(load(chain.policy_file).message(), RenderOptions(directory=str(folder))), folder)
        gateway.start()
        stack.callback(gateway.end)
        if rendered is not None:
            rendered(folder)
        chain.start_envoy()
        yield chain


@pytest.fixture(scope="session")
def session_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One chain for all tests that leave it as it was."""
    with running_chain(tmp_path_factory.mktemp("chain")) as chain:
        yield chain


@pytest.fixture
def chain(session_site: Chain) -> Iterator[Chain]:
    """The shared chain; after the test it must hold nothing of the test's."""
    before = session_site.held()
    yield session_site
    session_site.assert_quiet(before)


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Callable[..., Chain]]:
    """Starts chains of a test's own, for tests that kill or change things; same arguments as `running_chain`."""
    with ExitStack() as stack:

        def start(change: Change | None = None, rendered: ChangeYaml | None = None) -> Chain:
            return stack.enter_context(running_chain(tmp_path, change, rendered))

        yield start
