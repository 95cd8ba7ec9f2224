"""Owns the Envoy chains of the controls: none, logged, echo, direct_response.

Must not know forebay's own chain, which is rendered by `forebay envoy-config` and used as it ships.
On failure: Envoy refuses a chain it cannot load, and the bench stops with its log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ACCESS_LOG = "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
_COMPOSITE = "type.googleapis.com/envoy.extensions.filters.http.composite.v3"
_MANY = 100_000
POOL = "bench"

DIRECT_BODY = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,"model":"bench","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"The invoice is due on the first working day of the month, and the '
    'reminder goes out a week before."},"logprobs":null,"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":210,"completion_tokens":21,"total_tokens":231}}'
)


@dataclass(frozen=True)
class Ports:
    """Where a chain listens and whom it calls."""

    listener: int
    admin: int
    upstream: int
    service: int = 0


def none_chain(ports: Ports) -> dict[str, Any]:
    """Listener, router, upstream: Envoy's own part of two hops."""
    return _bootstrap(ports, [], [{"match": {"prefix": "/"}, "route": {"cluster": POOL, "timeout": "0s"}}])


def direct_chain(ports: Ports) -> dict[str, Any]:
    """Envoy reads the request and answers from its configuration: the floor of an exact hit.

    Without the buffer filter Envoy answers at the headers and then closes the connection, since the body is still to
    come: the control would time reconnections.
    """
    answer = {"status": 200, "body": {"inline_string": DIRECT_BODY}}
    content_type = {"key": "content-type", "value": "application/json"}
    route = {
        "match": {"prefix": "/"},
        "direct_response": answer,
        "response_headers_to_add": [{"header": content_type, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }
    buffer = {
        "name": "envoy.filters.http.buffer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
            "max_request_bytes": 33_554_432,
        },
    }
    return _bootstrap(ports, [buffer], [route])


def echo_chain(ports: Ports) -> dict[str, Any]:
    """`none_chain` with decide, and capture on marked requests; no access log, no usage filter."""
    decide = {
        "name": "decide",
        "typed_config": {
            "@type": _EXT_PROC,
            "stat_prefix": "decide",
            "grpc_service": _service("decide"),
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "NONE",
                "response_header_mode": "SKIP",
            },
            "allow_mode_override": True,
            "message_timeout": "5s",
        },
    }
    route = {
        "match": {"prefix": "/", "headers": [{"name": "x-forebay-internal-pool", "present_match": True}]},
        "route": {"cluster_header": "x-forebay-internal-pool", "timeout": "0s"},
        "request_headers_to_remove": ["x-forebay-internal-pool", "x-forebay-internal-capture"],
    }
    undecided = {"match": {"prefix": "/"}, "direct_response": {"status": 503}}
    chain = _bootstrap(ports, [decide, _capture()], [route, undecided])
    chain["static_resources"]["clusters"].append(_service_cluster(ports.service))
    return chain


def logged_chain(ports: Ports) -> dict[str, Any]:
    """`none_chain` with the gRPC access log as it ships, to a sink: what the log alone costs."""
    chain = none_chain(ports)
    manager = chain["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    common = {
        "log_name": "bench",
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.2s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "service"}},
    }
    log = {"@type": _ACCESS_LOG, "common_config": common}
    manager["access_log"] = [{"name": "account", "typed_config": log}]
    chain["static_resources"]["clusters"].append(_service_cluster(ports.service))
    return chain


def _capture() -> dict[str, Any]:
    filter_config = {
        "@type": _EXT_PROC,
        "stat_prefix": "capture",
        "grpc_service": _service("capture"),
        "observability_mode": True,
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": "NONE",
            "response_header_mode": "SEND",
            "response_body_mode": "STREAMED",
        },
    }
    action = {
        "@type": f"{_COMPOSITE}.ExecuteFilterAction",
        "typed_config": {"name": "capture", "typed_config": filter_config},
    }
    header_input = {
        "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        "header_name": "x-forebay-internal-capture",
    }
    return {
        "name": "capture",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": "composite", "typed_config": {"@type": f"{_COMPOSITE}.Composite"}},
            "xds_matcher": {
                "matcher_tree": {
                    "input": {"name": "capture", "typed_config": header_input},
                    "exact_match_map": {"map": {"1": {"action": {"name": "run", "typed_config": action}}}},
                }
            },
        },
    }


def _service(name: str) -> dict[str, Any]:
    return {"envoy_grpc": {"cluster_name": "service"}, "initial_metadata": [{"key": "x-forebay-filter", "value": name}]}


def _service_cluster(port: int) -> dict[str, Any]:
    options = {"@type": _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
    return _cluster("service", port) | {"typed_extension_protocol_options": {_HTTP_OPTIONS.rpartition("/")[2]: options}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    threshold = {"max_requests": _MANY, "max_connections": _MANY, "max_pending_requests": _MANY}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [threshold]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _bootstrap(ports: Ports, filters: list[dict[str, Any]], routes: list[dict[str, Any]]) -> dict[str, Any]:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    manager = {
        "@type": (
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "ingress",
        "use_remote_address": True,
        "stream_idle_timeout": "600s",
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    listener = {
        "name": "ingress",
        "per_connection_buffer_limit_bytes": 33_554_432,
        "tcp_backlog_size": 4096,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": ports.listener}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ports.admin}}},
        "static_resources": {"listeners": [listener], "clusters": [_cluster(POOL, ports.upstream)]},
    }
