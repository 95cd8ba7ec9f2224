"""Envoy's `ext_proc` messages, made from decisions, and what a decision needs, read from them.

Owns: the reference server's frames; they are those of the Rust server, and a test compares the two.
Must not know: the order in which they are sent, or why a decision is what it is.
On failure: closed; a message that lacks something reads as empty, and a decision on nothing is a refusal.

It needs the package `xds-protos`, so nothing imports it but the reference server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.duration_pb2 import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forebay.gateway.seam import Decision

__all__ = [
    "answer",
    "forward_at_body",
    "forward_at_headers",
    "hold",
    "internal_error",
    "is_grpc",
    "pairs",
    "reservation_id",
    "send_body",
    "usage",
]

_POOL = "x-forebay-internal-pool"
_CAPTURE = "x-forebay-internal-capture"
_ID = "x-forebay-internal-id"
_REQUEST_ID = "x-forebay-request-id"
_TRACEPARENT = "traceparent"
_NAMESPACE = "forebay"
_USAGE_NAMESPACE = "forebay.usage"
_CREDENTIALS = ("authorization", "x-api-key", "api-key")
_ID_DIGITS = 32
_INTERNAL = (
    '{"error":{"message":"an internal error; the request was not passed on","type":"server_error","param":null,'
    '"code":"internal_error"}}'
)


def pairs(headers: Any) -> list[tuple[str, bytes]]:
    """The headers of an `HttpHeaders` as names and bytes, wherever Envoy put the value."""
    return [(h.key, h.raw_value or h.value.encode()) for h in headers.headers.headers]


def is_grpc(headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether the content type is gRPC's."""
    types = [value for name, value in headers if name == "content-type"]
    return bool(types) and types[-1].strip().startswith(b"application/grpc")


def reservation_id(filter_metadata: Mapping[str, Any]) -> str | None:
    """The id that decide wrote into the dynamic metadata, if it did."""
    if _NAMESPACE not in filter_metadata or "id" not in filter_metadata[_NAMESPACE].fields:
        return None
    return hex_id(filter_metadata[_NAMESPACE].fields["id"].string_value)


def usage(filter_metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """What Envoy found of the answer's usage, by its key."""
    if _USAGE_NAMESPACE not in filter_metadata:
        return {}
    return {name: value.string_value.encode() for name, value in filter_metadata[_USAGE_NAMESPACE].fields.items()}


def hex_id(text: str) -> str | None:
    """An id as it is written, 32 hex digits, or nothing."""
    digits = "0123456789abcdefABCDEF"
    return text if len(text) == _ID_DIGITS and all(digit in digits for digit in text) else None


def send_body() -> Any:
    """Ask for the whole body."""
    mode = processing_mode_pb2.ProcessingMode
    override = mode(
        request_header_mode=mode.SEND,
        response_header_mode=mode.SKIP,
        request_body_mode=mode.BUFFERED,
        response_body_mode=mode.NONE,
        # Trailers are left at the default, which is not to send them: the rendered filter allows no other override.
    )
    headers = ext_proc.HeadersResponse(response=ext_proc.CommonResponse())
    return ext_proc.ProcessingResponse(request_headers=headers, mode_override=override)


def hold(wait_ns: int) -> Any:
    """Announce that the answer to the present message may take this long."""
    wait = Duration(seconds=wait_ns // 10**9, nanos=wait_ns % 10**9)
    return ext_proc.ProcessingResponse(override_message_timeout=wait)


def forward_at_headers(decision: Decision) -> Any:
    """The request goes on, decided by its headers alone."""
    response = _frame(decision)
    response.request_headers.response.CopyFrom(_common(decision))
    return response


def forward_at_body(decision: Decision) -> Any:
    """The request goes on, decided by its body."""
    response = _frame(decision)
    response.request_body.response.CopyFrom(_common(decision))
    return response


def answer(decision: Decision, grpc: tuple[int, str] | None) -> Any:
    """Forebay answers itself; nothing may be sent on the stream afterwards. `grpc`: as a gRPC caller reads it."""
    headers = [(name, value) for name, value in decision.headers if grpc is None or name != "content-type"]
    response = ext_proc.ImmediateResponse(
        headers=ext_proc.HeaderMutation(set_headers=[_header(name, value.encode()) for name, value in headers]),
        body=(decision.body or b"") if grpc is None else grpc[1].encode(),
        details=f"forebay_{decision.code or 'answer'}",
    )
    response.status.code = decision.status
    if grpc is not None:
        response.grpc_status.status = grpc[0]
    return ext_proc.ProcessingResponse(immediate_response=response)


def internal_error(request_id: str) -> Any:
    """Something broke before a decision: 500, and the request is not passed on."""
    response = ext_proc.ImmediateResponse(body=_INTERNAL.encode(), details="forebay_internal_error")
    response.status.code = 500
    for name, value in (("content-type", "application/json"), (_REQUEST_ID, request_id)):
        response.headers.set_headers.append(_header(name, value.encode()))
    return ext_proc.ProcessingResponse(immediate_response=response)


def _frame(decision: Decision) -> Any:
    response = ext_proc.ProcessingResponse()
    inner = response.dynamic_metadata.get_or_create_struct(_NAMESPACE)
    inner.update(decision.metadata)
    if decision.drop_usage:
        response.dynamic_metadata.get_or_create_struct(_USAGE_NAMESPACE).update({"drop": "1"})
    return response


def _common(decision: Decision) -> Any:
    body = decision.body
    common = ext_proc.CommonResponse(clear_route_cache=True)
    set_headers = [(_POOL, decision.pool)]
    if decision.capture:
        set_headers.append((_CAPTURE, "1"))
    if decision.batch:
        set_headers.append((_ID, decision.id))
    if decision.traceparent is not None:
        set_headers.append((_TRACEPARENT, decision.traceparent))
    if body is not None:
        set_headers.append(("content-length", str(len(body))))
        common.body_mutation.body = body
    common.header_mutation.set_headers.extend(_header(name, value.encode()) for name, value in set_headers)
    common.header_mutation.remove_headers.extend(_CREDENTIALS)
    return common


def _header(name: str, value: bytes) -> Any:
    header = base_pb2.HeaderValue(key=name, raw_value=value)
    return base_pb2.HeaderValueOption(
        header=header, append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    )
