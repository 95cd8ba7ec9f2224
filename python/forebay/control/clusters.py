"""Pools to Envoy's clusters.

Owns: one cluster a pool, with its endpoints, TLS, health checks and injected credential; and the gateway's own.
Must not know: routes and filters of the listener. On failure: RenderError; a checked policy never fails here.

A secret never stands in a cluster: it is named, and Envoy reads it from a file or from its own environment.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from forebay.control.annotated import typed
from forebay.control.names import GATEWAY_CLUSTER
from forebay.control.settings import Address, Settings, seconds
from forebay.policy._pb.policy_pb2 import Pool

if TYPE_CHECKING:
    from forebay.control.options import RenderOptions

__all__ = ["gateway_cluster", "pool_cluster", "secret_file"]

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Far above any load that one Envoy carries; what bounds a pool is `max_concurrency`, kept by the gateway.
_UNBOUNDED = 1_000_000


def gateway_cluster(settings: Settings) -> dict[str, Any]:
    """Give the cluster of the gateway's own gRPC server: decide, capture and the access log."""
    return {
        "name": GATEWAY_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "# circuit_breakers": "one open stream is one request here; the default, 1,024, answers 500 above it",
        "circuit_breakers": _circuit_breakers(),
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                explicit_http_config={"http2_protocol_options": _http2()},
            )
        },
        "upstream_connection_options": _keepalive(),
        "load_assignment": _assignment(GATEWAY_CLUSTER, [settings.ext_proc]),
    }


def pool_cluster(pool: Pool, settings: Settings, options: RenderOptions) -> dict[str, Any]:
    """Give the cluster of a pool; its name is the pool's."""
    if pool.protocol == Pool.KSERVE_GRPC:
        addresses = [settings.batch]
    else:
        addresses = [Address.parse(endpoint.address) for endpoint in pool.endpoints]
    cluster: dict[str, Any] = typed("envoy.config.cluster.v3.Cluster", name=pool.name)
    if all(address.is_ip for address in addresses):
        cluster["type"] = "STATIC"
    else:
        cluster |= {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED", "respect_dns_ttl": True}
    cluster |= {
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "# circuit_breakers": "the gateway keeps `max_concurrency`; Envoy's default, 1,024, would answer 503 before it",
        "circuit_breakers": _circuit_breakers(),
        "# common_lb_config": "with every endpoint unhealthy it is 503 at once, not a try at all of them",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "# outlier_detection": "only failures to connect eject an endpoint; a model's own 5xx are its answers",
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "upstream_connection_options": _keepalive(),
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http_options(pool, options)},
    }
    if pool.HasField("health"):
        cluster["health_checks"] = [_health_check(pool)]
    if pool.HasField("tls") and pool.protocol != Pool.KSERVE_GRPC:
        cluster["transport_socket"] = _tls(pool, addresses, options)
    cluster["load_assignment"] = _assignment(pool.name, addresses)
    return cluster


def secret_file(pool: Pool) -> str:
    """Give the name of the file that tells Envoy where a pool's credential is."""
    return f"pool-{pool.name}.yaml"


def _http_options(pool: Pool, options: RenderOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if pool.protocol in (Pool.GRPC, Pool.KSERVE_GRPC):
        fields["explicit_http_config"] = {"http2_protocol_options": _http2()}
    elif pool.HasField("tls"):
        fields["auto_config"] = {"http_protocol_options": {}, "http2_protocol_options": _http2()}
    else:
        fields |= {
            "# common_http_protocol_options": "below the 5 s after which uvicorn (vLLM) closes an idle connection:\n"
            "a request written into that moment would fail",
            "common_http_protocol_options": {"idle_timeout": "4s"},
            "explicit_http_config": {"http_protocol_options": {}},
        }
    if pool.HasField("credential"):
        fields["# http_filters"] = "behind every decision and log: nothing before this filter ever sees the secret"
        fields["http_filters"] = [
            _credential_filter(pool, options),
            {
                "name": "envoy.filters.http.upstream_codec",
                "typed_config": typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"),
            },
        ]
    return typed(_HTTP_OPTIONS, **fields)


def _credential_filter(pool: Pool, options: RenderOptions) -> dict[str, Any]:
    credential = pool.credential
    header = credential.header or ("x-api-key" if pool.protocol == Pool.ANTHROPIC else "authorization")
    prefix = credential.prefix or ("Bearer " if header == "authorization" else "")
    # A rename in this directory makes Envoy read the secret again.
    watched = str(PurePosixPath(credential.file).parent) if credential.file else options.path("secrets")
    generic = {
        "header": header,
        "credential": {
            "name": f"pool-{pool.name}",
            "sds_config": {
                "path_config_source": {
                    "path": options.path("secrets", secret_file(pool)),
                    "watched_directory": {"path": watched},
                }
            },
        },
    }
    if prefix:
        generic["header_value_prefix"] = prefix
    return {
        "name": "forebay.credential",
        "typed_config": typed(
            "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
            overwrite=True,
            credential={
                "name": "generic",
                "typed_config": typed("envoy.extensions.http.injected_credentials.generic.v3.Generic", **generic),
            },
        ),
    }


def _tls(pool: Pool, addresses: list[Address], options: RenderOptions) -> dict[str, Any]:
    roots = pool.tls.ca_file or options.system_ca_file
    context: dict[str, Any] = {
        "sni": pool.tls.sni or addresses[0].host,
        "# auto_sni_san_validation": "the certificate must be for the name that was asked for",
        "auto_sni_san_validation": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "validation_context": {"trusted_ca": {"filename": roots}},
        },
    }
    if not pool.tls.sni:
        context["auto_host_sni"] = True
    if pool.protocol == Pool.GRPC:
        context["common_tls_context"]["alpn_protocols"] = ["h2"]
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", **context),
    }


def _health_check(pool: Pool) -> dict[str, Any]:
    interval = seconds(pool.health.interval_ms or 5_000)
    check: dict[str, Any] = {"path": pool.health.path}
    if pool.tls.sni:
        check["host"] = pool.tls.sni
    if pool.protocol == Pool.GRPC:
        check["codec_client_type"] = "HTTP2"
    return {
        "timeout": seconds(pool.health.timeout_ms or 1_000),
        "interval": interval,
        "# no_traffic_interval": "the default, 60 s, would leave an idle pool unknown for a minute",
        "no_traffic_interval": interval,
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": check,
    }


def _assignment(name: str, addresses: list[Address]) -> dict[str, Any]:
    endpoints = [_endpoint(address) for address in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def _endpoint(address: Address) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"address": address.socket()}
    if not address.is_ip:
        endpoint["hostname"] = address.host
    return {"endpoint": endpoint}


def _circuit_breakers() -> dict[str, Any]:
    bounds = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [dict.fromkeys(bounds, _UNBOUNDED)]}


def _http2() -> dict[str, Any]:
    return {
        "max_concurrent_streams": 65_536,
        "initial_stream_window_size": 1_048_576,
        "initial_connection_window_size": 67_108_864,
        "connection_keepalive": {"interval": "30s", "timeout": "10s"},
    }


def _keepalive() -> dict[str, Any]:
    return {"tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 5}}
