"""What is rendered, as text; what Envoy makes of it is tested in tests/envoy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from forebay.control import RenderOptions, names, render
from forebay.control.local_replies import RULES, body_of, messages_body_of
from forebay.control.render import join_clusters, split_clusters, version_of
from forebay.errors import RenderError
from forebay.policy import load, load_text
from forebay.policy._pb.policy_pb2 import Policy

ROOT = Path(__file__).parents[3]
OPTIONS = RenderOptions(directory="/etc/forebay/envoy")


def example() -> Any:
    return render(load(ROOT / "examples" / "policy.yaml").message(), OPTIONS)


def example_routes() -> Any:
    return yaml.safe_load(example().routes)["resources"][0]["virtual_hosts"][0]["routes"]


def manager(bootstrap: str) -> Any:
    listener = yaml.safe_load(bootstrap)["static_resources"]["listeners"][0]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def test_the_same_policy_gives_the_same_text() -> None:
    assert example() == example()


def test_every_setting_that_the_design_warns_about_is_there() -> None:
    rendered = example()
    http = manager(rendered.bootstrap)
    decide = http["http_filters"][0]["typed_config"]
    assert decide["processing_mode"]["request_body_mode"] == "NONE"
    assert decide["allowed_override_modes"][0]["request_body_mode"] == "BUFFERED"
    assert decide["failure_mode_allow"] is False
    assert decide["message_timeout"] == "1s"
    assert decide["max_message_timeout"] == "60s"
    assert decide["metadata_options"]["receiving_namespaces"]["untyped"] == [
        names.NAMESPACE,
        names.USAGE_NAMESPACE,
    ]
    strip = http["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    assert {"remove_on_match": {"key_matcher": {"prefix": names.INTERNAL_PREFIX}}} in strip
    gateway = yaml.safe_load(rendered.bootstrap)["static_resources"]["clusters"][0]
    assert gateway["circuit_breakers"]["thresholds"][0]["max_requests"] == 1_000_000
    assert [each["name"] for each in http["http_filters"]] == [
        "forebay.decide",
        "forebay.response_headers",
        "forebay.usage",
        "forebay.capture",
        "forebay.decompress",
        "envoy.filters.http.router",
    ]


def test_the_last_route_serves_nothing() -> None:
    routes = example_routes()
    assert routes[-1]["match"] == {"prefix": "/"}
    body = json.loads(routes[-1]["direct_response"]["body"]["inline_string"])
    assert body["error"]["code"] == "undecided"
    served = [route for route in routes if "route" in route]
    refused = {
        route["name"]: json.loads(route["direct_response"]["body"]["inline_string"]) for route in routes[len(served) :]
    }
    assert list(refused) == ["undecided.messages", "undecided.tensors-http", "undecided"]
    assert refused["undecided.messages"]["type"] == "error"
    assert isinstance(refused["undecided.tensors-http"]["error"], str)
    for route in served:
        assert route["match"]["headers"][0]["name"] == names.POOL_HEADER
        assert set(names.CREDENTIAL_HEADERS) <= set(route["request_headers_to_remove"])


def test_the_batch_service_alone_sees_the_reservation() -> None:
    served = [route for route in example_routes() if "route" in route]
    kept = [route["name"] for route in served if names.ID_HEADER not in route["request_headers_to_remove"]]
    assert kept == ["pool.triton"]
    clusters = {cluster["name"]: cluster for cluster in yaml.safe_load(example().clusters)["resources"]}
    endpoint = clusters["triton"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"]["port_value"] == 9302


def test_no_secret_is_ever_rendered() -> None:
    rendered = example()
    assert "environment_variable: OPENAI_API_KEY" in rendered.secrets["pool-hosted.yaml"]
    for content in rendered.files().values():
        assert "fbk_" not in content


def test_names_cannot_add_structure() -> None:
    policy = Policy(name="x`\nadmin: {}\n#")
    pool = policy.pools.add(name='a"\n- b: {c}', protocol="HTTP")  # type: ignore[arg-type]
    pool.endpoints.add(address="127.0.0.1:1")
    policy.routes.add(name="r\nq: 1", path="/x\ny", fail_open_pool=pool.name)
    rendered = render(policy, OPTIONS)
    assert yaml.safe_load(rendered.clusters)["resources"][0]["name"] == pool.name
    routes = yaml.safe_load(rendered.routes)["resources"][0]["virtual_hosts"][0]["routes"]
    assert [route["name"] for route in routes] == [f"pool.{pool.name}", "fail_open.r\nq: 1", "undecided"]
    assert yaml.safe_load(rendered.bootstrap).keys() == yaml.safe_load(example().bootstrap).keys()


def test_a_rollout_can_take_clusters_apart_and_together() -> None:
    rendered = example()
    assert split_clusters(rendered.clusters) == rendered.cluster_parts
    assert join_clusters(rendered.cluster_parts) == rendered.clusters
    assert split_clusters("") == split_clusters(join_clusters({})) == {}
    assert version_of(rendered.clusters) != version_of(join_clusters({}))


def test_a_wildcard_is_listened_on_not_called() -> None:
    rendered = render(load_text('gateway: {ext_proc_address: "0.0.0.0:9300"}').message(), OPTIONS)
    gateway = yaml.safe_load(rendered.bootstrap)["static_resources"]["clusters"][0]
    endpoint = gateway["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"]["address"] == "127.0.0.1"


ONE_OF_EACH = """
pools:
- {name: open, protocol: OPENAI, endpoints: [{address: "127.0.0.1:1"}], credential: {env: A}}
- {name: claude, protocol: ANTHROPIC, endpoints: [{address: "127.0.0.1:1"}], credential: {env: A}}
- {name: named, protocol: ANTHROPIC, endpoints: [{address: "127.0.0.1:1"}], credential: {env: A, header: x-key}}
- {name: http, protocol: HTTP, endpoints: [{address: "127.0.0.1:1"}]}
- {name: grpc, protocol: GRPC, endpoints: [{address: "127.0.0.1:1"}]}
- {name: triton, protocol: KSERVE_GRPC, endpoints: [{address: "127.0.0.1:1"}]}
models:
- {name: m, pools: [claude], capabilities: [MESSAGES], max_output_tokens: 10}
routes:
- {name: talk, path: /claude/talk, operation: MESSAGES}
- {name: all, path_prefix: /anthropic/, operation: MESSAGES}
- {name: chat, path: /v1/chat/completions, operation: CHAT_COMPLETIONS}
"""


def test_usage_is_read_in_answers_of_model_pools_alone() -> None:
    rendered = render(load_text(ONE_OF_EACH).message(), OPTIONS)
    routes = yaml.safe_load(rendered.routes)["resources"][0]["virtual_hosts"][0]["routes"]
    asked = {route["name"]: sorted(route.get("typed_per_filter_config", {})) for route in routes}
    both = ["forebay.decompress", "forebay.usage"]
    assert {name: filters for name, filters in asked.items() if filters} == {
        "pool.open": both,
        "pool.claude": both,
        "pool.named": both,
    }
    for route in routes:
        model = route["name"] in ("pool.open", "pool.claude", "pool.named")
        assert ("accept-encoding" in route.get("request_headers_to_remove", [])) == model
    usage = manager(rendered.bootstrap)["http_filters"][2]["typed_config"]
    # Without a program of its own: where no route names one, nothing runs.
    assert "default_source_code" not in usage
    program = (ROOT / "python" / "forebay" / "control" / "usage.lua").read_text()
    assert usage["source_codes"]["usage"]["inline_string"] == program


def test_the_program_and_python_agree_on_the_namespace() -> None:
    program = (ROOT / "python" / "forebay" / "control" / "usage.lua").read_text()
    assert f'NAMESPACE = "{names.USAGE_NAMESPACE}"' in program


def test_a_pool_of_anthropic_takes_its_key_in_its_own_header() -> None:
    rendered = render(load_text(ONE_OF_EACH).message(), OPTIONS)
    injected = {}
    for cluster in yaml.safe_load(rendered.clusters)["resources"]:
        options = next(iter(cluster["typed_extension_protocol_options"].values()))
        for each in options.get("http_filters", [])[:1]:
            generic = each["typed_config"]["credential"]["typed_config"]
            injected[cluster["name"]] = (generic["header"], generic.get("header_value_prefix", ""))
    assert injected == {"open": ("authorization", "Bearer "), "claude": ("x-api-key", ""), "named": ("x-key", "")}
    routes = yaml.safe_load(rendered.routes)["resources"][0]["virtual_hosts"][0]["routes"]
    claude = next(route for route in routes if route["name"] == "pool.claude")
    assert {"cookie", "x-forwarded-for"} <= set(claude["request_headers_to_remove"])
    assert "anthropic-ratelimit-input-tokens-remaining" in claude["response_headers_to_remove"]
    assert "retry-after" not in claude["response_headers_to_remove"]


def test_which_paths_are_messages_is_told_with_their_queries() -> None:
    rendered = render(load_text(ONE_OF_EACH).message(), OPTIONS)
    mapper = manager(rendered.bootstrap)["local_reply_config"]["mappers"][2]
    told = mapper["filter"]["and_filter"]["filters"][0]["header_filter"]["header"]["string_match"]["safe_regex"]
    for path in ("/v1/messages", "/v1/messages?beta=true", "/claude/talk", "/claude/talk?a", "/anthropic/v1/messages"):
        assert re.fullmatch(told["regex"], path), path
    for path in ("/v1/messagesx", "/v1/messages/batches", "/v1/chat/completions", "/claude/talks", "/anthropic"):
        assert not re.fullmatch(told["regex"], path), path


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(RenderError, match="`nowhere`"):
        render(load_text("envoy: {listen_address: nowhere}").message(), OPTIONS)


ANTHROPIC_TYPES = {
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
}


def test_local_replies_have_the_shape_of_their_api() -> None:
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    for rule in RULES:
        assert set(json.loads(body_of(rule))["error"]) == {"message", "type", "param", "code"}
        said = json.loads(messages_body_of(rule))
        assert (said["type"], said["error"]["message"]) == ("error", rule.message)
        assert said["error"]["type"] in ANTHROPIC_TYPES
        assert not rule.message.endswith(".")
        # The body is one of Envoy's format strings; a percent sign would begin a command.
        assert "%" not in rule.message


def test_the_names_are_those_of_the_rust_side() -> None:
    source = (ROOT / "rust" / "core" / "src" / "names.rs").read_text()
    said = dict(re.findall(r'pub const ([A-Z_]+): &str = "([^"]+)";', source))
    ours = {
        "POOL": names.POOL_HEADER,
        "CAPTURE": names.CAPTURE_HEADER,
        "ID": names.ID_HEADER,
        "INTERNAL_PREFIX": names.INTERNAL_PREFIX,
        "FILTER": names.FILTER_METADATA,
        "NAMESPACE": names.NAMESPACE,
    }
    assert {name: said.get(name) for name in ours} == ours
    credentials = re.search(r"pub const CREDENTIALS: .*?= \[([^\]]+)\]", source)
    assert credentials is not None
    assert tuple(re.findall(r'"([^"]+)"', credentials[1])) == names.CREDENTIAL_HEADERS


TENSORS = """
pools:
- {name: triton, protocol: KSERVE_GRPC, endpoints: [{address: "127.0.0.1:8001"}]}
- {name: plain, protocol: KSERVE_GRPC, endpoints: [{address: "127.0.0.1:8002"}]}
- {name: chat, protocol: OPENAI, endpoints: [{address: "127.0.0.1:8003"}]}
models:
- name: encoder
  capabilities: [EMBEDDINGS]
  pools: [triton]
  tensors: {embeddings: {text_input: text, output: embedding}}
- {name: bare, capabilities: [TENSORS], pools: [plain]}
routes:
- {name: grpc, path_prefix: /inference.GRPCInferenceService/, operation: KSERVE, pool: triton}
- {name: http, path_prefix: /v2, operation: KSERVE, pool: plain}
- {name: embeddings, path: /v1/embeddings, operation: EMBEDDING}
"""


def test_a_tensor_pool_tells_usage_where_a_model_maps_openai_s_requests_onto_it() -> None:
    rendered = render(load_text(TENSORS).message(), OPTIONS)
    routes = yaml.safe_load(rendered.routes)["resources"][0]["virtual_hosts"][0]["routes"]
    told = {route["name"]: set(route.get("typed_per_filter_config", {})) for route in routes if "route" in route}
    assert told == {
        "pool.triton": {"forebay.usage"},
        "pool.plain": set(),
        "pool.chat": {"forebay.usage", "forebay.decompress"},
    }


def test_tensors_go_on_once_with_their_id_and_the_client_s_own_headers() -> None:
    rendered = render(load_text(TENSORS).message(), OPTIONS)
    routes = yaml.safe_load(rendered.routes)["resources"][0]["virtual_hosts"][0]["routes"]
    for route in routes[:2]:
        removed = route["request_headers_to_remove"]
        assert names.ID_HEADER not in removed
        assert not {"x-forebay-priority", "accept-encoding", "grpc-timeout"} & set(removed)
        assert "retry_policy" not in route["route"], "nobody decided a second cost"
        assert route["route"]["timeout"] == "0s"
        assert route["route"]["max_stream_duration"]["grpc_timeout_header_max"] == "600s"
        assert "retry-after" not in route["response_headers_to_remove"]


def test_failures_below_v2_have_kserve_s_shape() -> None:
    rendered = render(load_text(TENSORS).message(), OPTIONS)
    routes = yaml.safe_load(rendered.routes)["resources"][0]["virtual_hosts"][0]["routes"]
    undecided = {route["name"]: route["direct_response"]["body"]["inline_string"] for route in routes[3:]}
    assert list(undecided) == ["undecided.http", "undecided"]
    assert list(json.loads(undecided["undecided.http"])) == ["error"]
    assert isinstance(json.loads(undecided["undecided.http"])["error"], str)
    mappers = manager(rendered.bootstrap)["local_reply_config"]["mappers"]
    assert len(mappers) == 2 + 3 * len(RULES)
    for mapper, rule in zip(mappers[2 + len(RULES) :], RULES, strict=False):
        filters = mapper["filter"]["and_filter"]["filters"]
        pattern = filters[0]["header_filter"]["header"]["string_match"]["safe_regex"]["regex"]
        assert re.fullmatch(pattern, "/v2/models/bare/infer?x=1")
        assert not re.fullmatch(pattern, "/v1/embeddings")
        body = json.loads(mapper["body_format_override"]["text_format_source"]["inline_string"])
        assert body == {"error": rule.message}
