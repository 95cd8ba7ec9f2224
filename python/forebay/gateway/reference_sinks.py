"""What the reference server is only told: copies of responses, and entries of Envoy's access log.

Owns: reading both kinds of streams to their end. Must not know: what the engine keeps or settles.
On failure: a copy that is cut or too large is given up, which no client notices; an entry without an id is passed over.

Unlike the Rust server it collects a whole response before the engine sees it, which is why it is no model of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from forebay.gateway import frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from forebay.gateway.seam import Engine

__all__ = ["take_entry", "take_response"]

_MAX_RESPONSE_BYTES = 64 << 20


async def take_response(engine: Engine, named: str, messages: AsyncIterator[Any]) -> None:
    """Read one capture stream to its end, and give what it brought to the engine.

    `named` is the id that opened the stream; without one it stands in the messages' metadata.
    """
    reservation = frames.hex_id(named)
    head: dict[str, str] = {}
    body = bytearray()
    end: Literal["complete", "cut"] = "cut"
    try:
        async for message in messages:
            reservation = reservation or frames.reservation_id(message.metadata_context.filter_metadata)
            kind = message.WhichOneof("request")
            if kind == "response_headers":
                head = {name: value.decode("utf-8", "ignore") for name, value in frames.pairs(message.response_headers)}
                over = message.response_headers.end_of_stream
            elif kind == "response_body":
                if len(body) <= _MAX_RESPONSE_BYTES:
                    body += message.response_body.body
                over = message.response_body.end_of_stream
            else:
                over = False
            if over:
                end = "complete"
                return
    finally:
        if reservation is not None:
            status = head.get(":status", "")
            engine.capture(
                reservation,
                bytes(body) if len(body) <= _MAX_RESPONSE_BYTES else b"",
                status=int(status) if status.isdecimal() else 0,
                content_type=head.get("content-type", ""),
                content_encoding=head.get("content-encoding"),
                end=end,
            )


def take_entry(engine: Engine, entry: Any) -> None:
    """End the request that an entry names, if it names one."""
    common = entry.common_properties
    reservation = frames.reservation_id(common.metadata.filter_metadata)
    if reservation is None:
        # Refused, answered by us, or decided by nobody: nothing is open for it.
        return
    flags = common.response_flags
    aborted = flags.downstream_connection_termination or flags.downstream_remote_reset
    first_byte = common.time_to_first_upstream_rx_byte
    attempted = common.upstream_request_attempt_count > 0
    timed_out = attempted and (
        flags.upstream_request_timeout
        or flags.stream_idle_timeout
        or flags.duration_timeout
        or flags.upstream_max_stream_duration_reached
    )
    answered = entry.response.response_code_details == "via_upstream" or first_byte.seconds + first_byte.nanos > 0
    # An aborted or broken answer may have cost as much as a complete one, once an upstream had the request.
    served = answered or timed_out or (aborted and attempted)
    usage = frames.usage(common.metadata.filter_metadata) if answered else {}
    duration = common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte
    engine.end(
        reservation,
        entry.response.response_code.value,
        duration_ns=duration.seconds * 10**9 + duration.nanos,
        local_reply=not served,
        aborted=aborted,
        unreachable=(
            flags.failed_local_healthcheck
            or flags.no_healthy_upstream
            or flags.upstream_connection_failure
            or flags.upstream_connection_termination
            or flags.upstream_remote_reset
        ),
        timed_out=timed_out,
        reset=flags.upstream_connection_termination or flags.upstream_remote_reset,
        answer_bytes=entry.response.response_body_bytes,
        usage_start=usage.get("start"),
        usage=usage.get("last"),
    )
