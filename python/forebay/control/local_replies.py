"""Envoy's own failures in the error shape of the API that was called: OpenAI's, Anthropic's for messages, or KServe's.

Owns: which local reply of Envoy becomes which status, type, code and message.
Must not know: the gateway's own refusals; those are immediate responses, already in that shape, and left alone.
On failure: a reply that no rule knows keeps Envoy's plain text, never a wrong code.

A reply is told by `%RESPONSE_CODE_DETAILS%` (Envoy's docs, "response code details"), read with CEL: response flags
cannot tell a 413 from a bad path. gRPC callers are left out, because Envoy writes their `grpc-status` itself.
Which API was called is told by the path: `/v1/messages`, and wherever the policy has a route of the operation MESSAGES;
KServe's where it has one of KSERVE over HTTP.
The rest of the configuration takes new routes without a restart; a path that is new here waits for Envoy's next start.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forebay.control.annotated import typed
from forebay.policy._pb.policy_pb2 import Route

if TYPE_CHECKING:
    from forebay.policy._pb.policy_pb2 import Policy

__all__ = [
    "RULES",
    "Rule",
    "body_of",
    "is_kserve_http",
    "kserve_error",
    "local_reply_config",
    "messages_body_of",
    "messages_error",
]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of local reply. `when` is CEL over `details` and `code`; `status` replaces Envoy's when it is not 0.

    `kind` is OpenAI's error type, `messages_kind` Anthropic's.
    """

    code: str
    when: str
    status: int
    kind: str
    message: str
    messages_kind: str = ""

    @property
    def anthropic_kind(self) -> str:
        """Give Anthropic's error type."""
        return self.messages_kind or _ANTHROPIC[self.kind]


_INVALID = "invalid_request_error"
_SERVER = "server_error"
_OVERLOADED = "overloaded_error"
_ANTHROPIC = {_INVALID: "invalid_request_error", _SERVER: "api_error"}

# The first rule that matches decides.
RULES = (
    Rule(
        "request_too_large",
        "details == 'request_payload_too_large'",
        413,
        _INVALID,
        "the request body is larger than the gateway accepts",
        "request_too_large",
    ),
    Rule("headers_too_large", "code == 431", 431, _INVALID, "the request headers are larger than the gateway accepts"),
    Rule(
        "gateway_timeout",
        "details.startsWith('ext_proc_error') && code == 504",
        504,
        _SERVER,
        "the gateway did not decide in time; try again",
    ),
    Rule(
        "gateway_unavailable",
        "details.startsWith('ext_proc') && code >= 500",
        503,
        _SERVER,
        "the gateway is not available, so nothing was decided or sent on; try again",
    ),
    Rule(
        "gateway_overloaded",
        "details.startsWith('overload') || details.startsWith('envoy_overload')",
        503,
        _SERVER,
        "the gateway has too many requests open; try again later",
        _OVERLOADED,
    ),
    # 401 would tell the client that its own key is wrong.
    Rule(
        "upstream_credential_missing",
        "details.startsWith('failed_to_inject_credential')",
        503,
        _SERVER,
        "the pool's own credential is missing; the operator must set it",
    ),
    Rule(
        "upstream_unavailable",
        "details == 'cluster_not_found' || details == 'no_healthy_upstream' || details == 'maintenance_mode'"
        " || details.startsWith('upstream_reset_before_response_started{connection_failure')"
        " || details.startsWith('upstream_reset_before_response_started{remote_connection_failure')"
        " || details.startsWith('upstream_reset_before_response_started{local_connection_failure')",
        503,
        _SERVER,
        "no server of the pool can be reached; try again",
    ),
    Rule(
        "upstream_overloaded",
        "details.startsWith('upstream_reset_before_response_started{overflow')",
        503,
        _SERVER,
        "the pool has too many requests open; try again later",
        _OVERLOADED,
    ),
    Rule(
        "upstream_timeout",
        "details.startsWith('upstream_response_timeout') || details.startsWith('upstream_per_try')"
        " || details.startsWith('upstream_max_stream_duration') || details == 'max_duration_timeout'"
        " || (details == 'stream_idle_timeout' && code == 504)"
        " || details.startsWith('upstream_reset_before_response_started{connection_timeout')",
        504,
        _SERVER,
        "the pool did not answer in time",
    ),
    Rule(
        "upstream_failed",
        "details.startsWith('upstream_reset') || details.startsWith('upstream_')",
        502,
        _SERVER,
        "the pool's server broke off before it answered",
    ),
    Rule(
        "request_timeout",
        "code == 408",
        408,
        _INVALID,
        "the request did not arrive in time",
    ),
    # Everything else that Envoy itself refuses at the door: a bad path, a missing host, an unknown encoding.
    Rule(
        "bad_request",
        "code >= 400 && code < 500 && details != '' && details != 'direct_response'"
        " && !details.startsWith('forebay') && !details.startsWith('via_upstream')"
        " && !details.startsWith('ext_proc')",
        0,
        _INVALID,
        "the request is not valid HTTP for this gateway",
    ),
)

_NOT_GRPC = "!('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc'))"


def body_of(rule: Rule) -> str:
    """Give the body of a rule, as clients of OpenAI's API read it."""
    error = {"message": rule.message, "type": rule.kind, "param": None, "code": rule.code}
    return json.dumps({"error": error}, separators=(",", ":"))


def messages_body_of(rule: Rule) -> str:
    """Give the body of a rule, as clients of Anthropic's API read it."""
    return messages_error(rule.anthropic_kind, rule.message)


def messages_error(kind: str, message: str) -> str:
    """Give an error in Anthropic's shape."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}, separators=(",", ":"))


def kserve_error(message: str) -> str:
    """Give an error in the shape of KServe v2's HTTP protocol."""
    return json.dumps({"error": message}, separators=(",", ":"))


def is_kserve_http(route: Route) -> bool:
    """Tell whether a route is KServe's over HTTP: below `/v2`, where its gRPC form has the service's name."""
    return route.operation == Route.KSERVE and (route.path or route.path_prefix).startswith("/v2")


def local_reply_config(policy: Policy) -> dict[str, Any]:
    """Give `local_reply_config` of the connection manager.

    The gateway's own answers pass first and unchanged, by filters that cost next to nothing: each rule below is an
    expression that Envoy evaluates, and an answer from the cache would pay for all of them. The rules of messages and
    of KServe look at the path before they evaluate anything.
    """
    of_messages = [route for route in policy.routes if route.operation == Route.MESSAGES]
    messages_paths = _paths(of_messages, "/v1/messages")
    mappers = [_mapper(rule, messages_body_of(rule), messages_paths) for rule in RULES]
    of_kserve = [route for route in policy.routes if is_kserve_http(route)]
    if of_kserve:
        kserve_paths = _paths(of_kserve)
        mappers += [_mapper(rule, kserve_error(rule.message), kserve_paths) for rule in RULES]
    mappers += [_mapper(rule, body_of(rule)) for rule in RULES]
    return {"mappers": [_OUR_ANSWERS, _OUR_REFUSALS, *mappers]}


def _paths(routes: list[Route], *always: str) -> dict[str, Any]:
    # Envoy's `:path` has the query with it.
    whole = {*always, *(route.path for route in routes if route.path)}
    begun = {route.path_prefix for route in routes if route.path_prefix}
    parts = [f"{re.escape(path)}(\\?.*)?" for path in sorted(whole)]
    parts += [f"{re.escape(path)}.*" for path in sorted(begun)]
    told = {"name": ":path", "string_match": {"safe_regex": {"regex": "|".join(parts)}}}
    return {"header_filter": {"header": told}}


def _cel(expression: str) -> dict[str, Any]:
    config = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)
    return {"extension_filter": {"name": "cel", "typed_config": config}}


# Envoy itself answers nothing below 400.
_OUR_ANSWERS: dict[str, Any] = {
    "filter": {
        "status_code_filter": {
            "comparison": {"op": "LE", "value": {"default_value": 399, "runtime_key": "forebay.own_answers_up_to"}}
        }
    }
}
_OUR_REFUSALS: dict[str, Any] = {"filter": _cel("response.code_details.startsWith('forebay')")}


def _mapper(rule: Rule, body: str, only: dict[str, Any] | None = None) -> dict[str, Any]:
    when = rule.when.replace("details", "response.code_details").replace("code ", "response.code ")
    told = _cel(f"({when}) && {_NOT_GRPC}")
    mapper: dict[str, Any] = {
        "filter": {"and_filter": {"filters": [only, told]}} if only else told,
        "body_format_override": {
            "text_format_source": {"inline_string": body},
            "content_type": "application/json",
        },
    }
    if rule.status:
        mapper["status_code"] = rule.status
    return mapper
