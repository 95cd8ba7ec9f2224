"""The route table: a request goes where decide's mark says, and nowhere without it.

Owns: one route a pool on the exact internal header, the routes that fail open, and the last one, 503 `undecided`.
Must not know: clusters' insides and the listener. On failure: closed; what is not marked is not served.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from forebay.control.annotated import typed
from forebay.control.encodings import decompressors_on_route
from forebay.control.local_replies import is_kserve_http, kserve_error, messages_error
from forebay.control.names import (
    CAPTURE_HEADER,
    CREDENTIAL_HEADERS,
    FAIL_OPEN_HEADER,
    ID_HEADER,
    POOL_HEADER,
    RESPONSE_HEADERS,
)
from forebay.control.settings import Address, Settings, seconds
from forebay.control.usage import usage_on_route
from forebay.policy._pb.policy_pb2 import Pool, Route

if TYPE_CHECKING:
    from forebay.policy._pb.policy_pb2 import Policy

__all__ = ["DECIDE_FILTER", "ROUTE_TABLE", "route_table"]

ROUTE_TABLE = "forebay"
# The name of the decide filter, by which a route overrides it.
DECIDE_FILTER = "forebay.decide"

# Their answers say what they used.
_MODEL_PROTOCOLS = (Pool.OPENAI, Pool.ANTHROPIC)
# What a model needs for a tensor pool to answer OpenAI's requests.
_MAPPED = ("embeddings", "generation")

# What Anthropic tells about the account that asked, which is the pool's.
_ANTHROPIC_ACCOUNT = [
    "anthropic-organization-id",
    *(
        f"anthropic-ratelimit-{unit}-{what}"
        for unit in ("requests", "tokens", "input-tokens", "output-tokens")
        for what in ("limit", "remaining", "reset")
    ),
]

_SAID = "no decision was made for this request, so it was not sent on; try again"
_UNDECIDED = json.dumps(
    {"error": {"message": _SAID, "type": "server_error", "param": None, "code": "undecided"}}, separators=(",", ":")
)
_UNDECIDED_MESSAGES = messages_error("api_error", _SAID)
_UNDECIDED_KSERVE = kserve_error(_SAID)


def route_table(policy: Policy, settings: Settings) -> dict[str, Any]:
    """Give the RouteConfiguration of a policy."""
    pools = {pool.name: pool for pool in policy.pools}
    told = _pools_that_tell_usage(policy)
    routes: list[dict[str, Any]] = [_pool_route(pool, settings, told) for pool in policy.pools]
    if any(route.fail_open_pool for route in policy.routes):
        # In the policy's order, so that a route that fails closed is not caught by a later, wider one that does not.
        routes += [
            _fail_open_route(route, pools[route.fail_open_pool], settings)
            if route.fail_open_pool
            else {"name": f"closed.{route.name}", "match": _path_match(route)} | _refusal(_body_of(route))
            for route in policy.routes
        ]
    else:
        routes += [
            {"name": f"undecided.{route.name}", "match": _path_match(route)} | _refusal(_body_of(route))
            for route in policy.routes
            if _body_of(route) != _UNDECIDED
        ]
    routes.append(
        {
            "# name": "no route serves a request without decide's mark: a stream that ends without an answer lets the\n"
            "request go on, and it must end here",
            "name": "undecided",
            "match": {"prefix": "/"},
            **_refusal(_UNDECIDED),
        }
    )
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=ROUTE_TABLE,
        virtual_hosts=[
            {
                "name": "all",
                "domains": ["*"],
                "routes": routes,
            }
        ],
    )


def _pools_that_tell_usage(policy: Policy) -> frozenset[str]:
    told = {pool.name for pool in policy.pools if pool.protocol in _MODEL_PROTOCOLS}
    for model in policy.models:
        if any(model.tensors.HasField(name) for name in _MAPPED):
            told.update(model.pools)
    return frozenset(told)


def _pool_route(pool: Pool, settings: Settings, told: frozenset[str]) -> dict[str, Any]:
    route: dict[str, Any] = {
        "name": f"pool.{pool.name}",
        "match": {
            "prefix": "/",
            "headers": [{"name": POOL_HEADER, "string_match": {"exact": pool.name}}],
        },
        "route": _action(pool, settings),
        "request_headers_to_remove": _removed_from_request(pool),
        "response_headers_to_remove": _removed_from_response(pool),
    }
    if pool.protocol in _MODEL_PROTOCOLS:
        route["typed_per_filter_config"] = usage_on_route() | decompressors_on_route()
    elif pool.protocol == Pool.KSERVE_GRPC and pool.name in told:
        # The batch service is ours: an answer of it that tells usage is never compressed.
        route["typed_per_filter_config"] = usage_on_route()
    return route


def _fail_open_route(route: Route, pool: Pool, settings: Settings) -> dict[str, Any]:
    return {
        "# name": f"FAILS OPEN to `{pool.name}`: no key, no limit, no record while the gateway is away.\n"
        f"Alarm on `vhost.all.route.fail_open.{route.name}.upstream_rq_*`, which counts only such requests",
        "name": f"fail_open.{route.name}",
        "stat_prefix": f"fail_open.{route.name}",
        "match": _path_match(route),
        "route": _action(pool, settings),
        "typed_per_filter_config": {
            DECIDE_FILTER: typed(
                "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                overrides={"failure_mode_allow": True},
            )
        },
        "request_headers_to_remove": _removed_from_request(pool),
        "response_headers_to_remove": _removed_from_response(pool),
        "response_headers_to_add": [_header(FAIL_OPEN_HEADER, route.name)],
    }


def _path_match(route: Route) -> dict[str, Any]:
    match: dict[str, Any] = {"path": route.path} if route.WhichOneof("match") == "path" else {}
    if not match:
        match = {"prefix": route.path_prefix}
    if route.methods:
        pattern = "|".join(route.methods)
        match["headers"] = [{"name": ":method", "string_match": {"safe_regex": {"regex": pattern}}}]
    return match


def _action(pool: Pool, settings: Settings) -> dict[str, Any]:
    longest = seconds(settings.max_stream_duration_ms)
    action: dict[str, Any] = {
        "cluster": pool.name,
        "# timeout": "no bound on the response itself (the default, 15 s, cuts generations); the stream's is below",
        "timeout": "0s",
        "# idle_timeout": "a long prefill sends nothing; the listener's shorter idle timeout ends with the decision",
        "idle_timeout": longest,
        "max_stream_duration": {"max_stream_duration": longest},
    }
    if pool.protocol in (Pool.GRPC, Pool.KSERVE_GRPC):
        action["# max_stream_duration"] = "a caller's `grpc-timeout` is kept, up to the same bound"
        action["max_stream_duration"]["grpc_timeout_header_max"] = longest
    else:
        # Only failures before a byte was sent, so that nothing is done twice.
        previous = typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
        action["retry_policy"] = {
            "retry_on": "connect-failure,refused-stream",
            "num_retries": 1,
            "# retry_host_predicate": "another endpoint, where there is one",
            "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": previous}],
            "host_selection_retry_max_attempts": 3,
        }
    if pool.path_prefix:
        action["regex_rewrite"] = {"pattern": {"regex": "^/"}, "substitution": f"{pool.path_prefix}/"}
    if pool.protocol == Pool.KSERVE_GRPC:
        return action
    if pool.tls.sni:
        action["host_rewrite_literal"] = pool.tls.sni
    elif not all(Address.parse(endpoint.address).is_ip for endpoint in pool.endpoints):
        action["auto_host_rewrite"] = True
    return action


def _removed_from_request(pool: Pool) -> list[str]:
    internal = [POOL_HEADER, CAPTURE_HEADER]
    if pool.protocol != Pool.KSERVE_GRPC:
        internal.append(ID_HEADER)  # the batch service is ours, and ends the reservation by it
    # decide takes the client's credential out as well; this holds also where a route fails open.
    private = [*CREDENTIAL_HEADERS, "proxy-authorization", "x-envoy-external-address"]
    if pool.protocol in _MODEL_PROTOCOLS:
        # A model's host, often somebody else's, has no use for who the end user is. Asked for no encoding, it sends
        # none, and usage is read without undoing one.
        private += ["cookie", "x-forwarded-for", "accept-encoding"]
    return internal + private


def _removed_from_response(pool: Pool) -> list[str]:
    # An upstream's own rate headers tell about our account there, and would read as the client's.
    names = [name for name in RESPONSE_HEADERS if pool.protocol != Pool.HTTP or name.startswith("x-forebay-")]
    if pool.protocol == Pool.ANTHROPIC:
        names += _ANTHROPIC_ACCOUNT
    return [*names, FAIL_OPEN_HEADER]


def _body_of(route: Route) -> str:
    if is_kserve_http(route):
        return _UNDECIDED_KSERVE
    return _UNDECIDED_MESSAGES if route.operation == Route.MESSAGES else _UNDECIDED


def _refusal(body: str) -> dict[str, Any]:
    return {
        "direct_response": {"status": 503, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
