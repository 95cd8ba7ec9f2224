"""The listener for clients: what every request passes before it is routed.

Owns: the connection manager and its filters in their order: decide, response headers, usage, capture, decompression,
router. Must not know: pools. On failure: closed; without an answer of decide a request ends in an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forebay.control.annotated import typed
from forebay.control.encodings import decompressors
from forebay.control.local_replies import local_reply_config
from forebay.control.names import (
    CAPTURE_HEADER,
    FILTER_METADATA,
    GATEWAY_CLUSTER,
    ID_HEADER,
    INTERNAL_PREFIX,
    NAMESPACE,
    RESPONSE_HEADERS,
    USAGE_NAMESPACE,
)
from forebay.control.routes import DECIDE_FILTER, ROUTE_TABLE
from forebay.control.settings import Settings, seconds
from forebay.control.usage import usage_filter

if TYPE_CHECKING:
    from forebay.control.options import RenderOptions
    from forebay.policy._pb.policy_pb2 import Policy

__all__ = ["LISTENER_SECRET", "listener"]

# The file that tells Envoy where the listener's certificate is.
LISTENER_SECRET = "listener.yaml"  # noqa: S105 - a file's name

# HTTP/2's own default, and Envoy's least.
_LEAST_WINDOW = 65_535
_EXT_PROC = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"


def listener(policy: Policy, settings: Settings, options: RenderOptions) -> dict[str, Any]:
    """Give the listener of a policy."""
    chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(policy, settings, options),
            }
        ]
    }
    if policy.envoy.HasField("tls"):
        chain["transport_socket"] = _tls(policy, options)
    return {
        "name": "ingress",
        "address": settings.listen.socket(),
        "# per_connection_buffer_limit_bytes": "a buffered body above this gets 413",
        "per_connection_buffer_limit_bytes": settings.max_body_bytes,
        "filter_chains": [chain],
    }


def _connection_manager(policy: Policy, settings: Settings, options: RenderOptions) -> dict[str, Any]:
    # Idle before the decision: a stalled upload, or a hold that we announced. The route's own takes over after it.
    undecided_idle_ms = max(settings.max_message_timeout_ms, settings.message_timeout_ms) + 15_000
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        **{
            "stat_prefix": "ingress",
            "codec_type": "AUTO",
            "use_remote_address": True,
            "normalize_path": True,
            "merge_slashes": True,
            "# path_with_escaped_slashes_action": "`%2F` must not mean one path here and another one upstream",
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "max_request_headers_kb": 64,
            "common_http_protocol_options": {
                "idle_timeout": "3600s",
                "max_headers_count": 128,
                "# headers_with_underscores_action": "`x_forebay` and `x-forebay` are one header to some upstreams",
                "headers_with_underscores_action": "REJECT_REQUEST",
                "# max_stream_duration": "reservations expire later than this, so none ends before its stream",
                "max_stream_duration": seconds(settings.max_stream_duration_ms),
            },
            "# http2_protocol_options": "over HTTP/2 the stream's window is also the most that is buffered of a body;\n"
            "a smaller one stalls a larger body until the idle timeout (seen with 1.40)",
            "http2_protocol_options": {
                "max_concurrent_streams": 1024,
                "initial_stream_window_size": max(settings.max_body_bytes, _LEAST_WINDOW),
                "initial_connection_window_size": max(2 * settings.max_body_bytes, _LEAST_WINDOW),
                "allow_connect": True,
            },
            "# early_header_mutation_extensions": "a client's copy of an internal header goes before any filter:\n"
            "a processor that ends its stream without an answer lets the request go on undecided,\n"
            "also with failure_mode_allow false (seen with 1.40)",
            "early_header_mutation_extensions": [_strip()],
            "request_headers_timeout": "10s",
            "# stream_idle_timeout": "before the decision; a stalled upload ends here, an announced hold does not",
            "stream_idle_timeout": seconds(undecided_idle_ms),
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "access_log": [_access_log(settings)],
            "# local_reply_config": "Envoy's own failures in the API's shape; the gateway's own answers match no rule",
            "local_reply_config": local_reply_config(policy),
            "http_filters": [
                _decide(settings),
                _response_headers(),
                usage_filter(),
                _capture(),
                decompressors(),
                _router(),
            ],
            "rds": {"route_config_name": ROUTE_TABLE, "config_source": options_source(options, "routes.yaml")},
        },
    )


def options_source(options: RenderOptions, name: str) -> dict[str, Any]:
    """Give the source of a file that is replaced by rename."""
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": options.path(name), "watched_directory": {"path": options.directory}},
    }


def _strip() -> dict[str, Any]:
    return {
        "name": "forebay.strip",
        "typed_config": typed(
            "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[
                {"remove_on_match": {"key_matcher": {"prefix": INTERNAL_PREFIX}}},
                {"remove": "x-gateway-destination-endpoint"},
            ],
        ),
    }


def _access_log(settings: Settings) -> dict[str, Any]:
    return {
        "name": "forebay.account",
        "typed_config": typed(
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config={
                "log_name": "forebay",
                "transport_api_version": "V3",
                "# buffer_flush_interval": "entries end reservations; the default is 1 s",
                "buffer_flush_interval": seconds(settings.log_flush_ms),
                "# buffer_size_bytes": "kept while the gateway reads slowly; the default, 16 KiB, is a dozen entries.\n"
                "What is sent while the gateway is away is lost, whatever stands here (seen with 1.40)",
                "buffer_size_bytes": 1_048_576,
                "grpc_service": {"envoy_grpc": {"cluster_name": GATEWAY_CLUSTER}},
            },
        ),
    }


def _decide(settings: Settings) -> dict[str, Any]:
    modes = {"request_header_mode": "SEND", "response_header_mode": "SKIP", "request_body_mode": "BUFFERED"}
    return {
        "name": DECIDE_FILTER,
        "typed_config": typed(
            _EXT_PROC,
            **{
                "grpc_service": _service("decide"),
                "# processing_mode": "headers first: gRPC, upgrades and refused callers are never buffered; the\n"
                "answer to the headers overrides to BUFFERED for what is read",
                "processing_mode": modes | {"request_body_mode": "NONE"},
                "allow_mode_override": True,
                "# allowed_override_modes": "this one override and no other; responses never come to decide",
                "allowed_override_modes": [modes],
                "# message_timeout": "a hung gateway: 504. The default, 200 ms, is short",
                "message_timeout": seconds(settings.message_timeout_ms),
                "# max_message_timeout": "a follower of an equal request in flight may be held so long, once announced",
                "max_message_timeout": seconds(settings.max_message_timeout_ms),
                "# failure_mode_allow": "open would drop keys and limits without a word",
                "failure_mode_allow": False,
                "# status_on_error": "the default is 500, which clients do not try again",
                "status_on_error": {"code": "ServiceUnavailable"},
                "# metadata_options": "dynamic metadata is dropped unless its namespace stands here",
                "metadata_options": {"receiving_namespaces": {"untyped": [NAMESPACE, USAGE_NAMESPACE]}},
                "# mutation_rules": "a refused header change is an error, not a silence",
                "mutation_rules": {"disallow_is_error": True},
            },
        ),
    }


def _response_headers() -> dict[str, Any]:
    # From metadata, so that the response itself never comes to us.
    mutations = [
        {
            "append": {
                "header": {"key": header, "value": f"%DYNAMIC_METADATA({NAMESPACE}:{key})%"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                "keep_empty_value": False,
            }
        }
        for header, key in RESPONSE_HEADERS.items()
    ]
    return {
        "name": "forebay.response_headers",
        "typed_config": typed(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={"response_mutations": mutations},
        ),
    }


def _capture() -> dict[str, Any]:
    capture = typed(
        _EXT_PROC,
        **{
            "# grpc_service": "the id opens the stream, so that not every chunk has to carry the metadata with it",
            "grpc_service": _service("capture", **{ID_HEADER: f"%DYNAMIC_METADATA({NAMESPACE}:id)%"}),
            "observability_mode": True,
            "# deferred_close_timeout": "how long a copy's stream outlives its request, so that the last bytes still\n"
            "leave. A client that goes away ends its copy only then, and those who follow it wait for that;\n"
            "the default is 5 s",
            "deferred_close_timeout": "0.25s",
            "# processing_mode": "the response alone: the request came to decide",
            "processing_mode": {
                "request_header_mode": "SKIP",
                "request_body_mode": "NONE",
                "response_header_mode": "SEND",
                "response_body_mode": "STREAMED",
            },
        },
    )
    action = typed(
        "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction",
        typed_config={"name": "capture", "typed_config": capture},
    )
    matched = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=CAPTURE_HEADER)
    return {
        "# name": "a copy, so the client waits for nothing. Composite: without the mark there is no filter;\n"
        "a plain matched filter would also see local replies",
        "name": "forebay.capture",
        "typed_config": typed(
            "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            extension_config={
                "name": "composite",
                "typed_config": typed("envoy.extensions.filters.http.composite.v3.Composite"),
            },
            xds_matcher={
                "matcher_tree": {
                    "input": {"name": "mark", "typed_config": matched},
                    "exact_match_map": {"map": {"1": {"action": {"name": "run", "typed_config": action}}}},
                }
            },
        ),
    }


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True),
    }


def _service(filter_name: str, **more: str) -> dict[str, Any]:
    metadata = {FILTER_METADATA: filter_name} | more
    return {
        "envoy_grpc": {"cluster_name": GATEWAY_CLUSTER},
        "initial_metadata": [{"key": key, "value": value} for key, value in metadata.items()],
    }


def _tls(policy: Policy, options: RenderOptions) -> dict[str, Any]:
    watched = policy.envoy.tls.certificate_file.rpartition("/")[0] or "."
    source = {
        "path_config_source": {"path": options.path("secrets", LISTENER_SECRET), "watched_directory": {"path": watched}}
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [{"name": "listener", "sds_config": source}],
            },
        ),
    }
