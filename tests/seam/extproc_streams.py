"""Recorded `ext_proc` streams: sending what Envoy sent, and writing down what comes back.

Owns: the transcripts' form, and the gRPC client that plays them. Must not know: which server answers.
On failure: what came instead stands in the place of what was expected, so that a comparison shows it.

A transcript is a list of steps, played in order:

    {"open": "a", "filter": "decide"}       open a stream (or `capture`)
    {"send": "a", "message": {...}}         a ProcessingRequest; `$ID:a` stands for the id that stream `a` was given
    {"expect": "a", "frame": {...}}         the next ProcessingResponse
    {"half_close": "a"}                     Envoy has nothing more to say
    {"reset": "a"}                          Envoy resets the stream
    {"end": "a", "code": "OK"}              no further frame, and this status
    {"is_open": "a"}                        the server has not ended it
    {"log": {...}}                          one entry of the access log
    {"state": {...}}                        open reservations, and requests in flight of each pool, once they are so

Bytes are written as text. Ids, ages and the seconds of a retry are written as words, since they differ each time.
"""

from __future__ import annotations

import base64
import json
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.json_format import MessageToDict, ParseDict

if TYPE_CHECKING:
    from extproc_servers import Target

DEADLINE_S = 20.0
_BYTES = ("raw_value", "body")
_PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_LOG = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"


class Stream:
    """One stream as Envoy opens it."""

    def __init__(self, channel: grpc.Channel, name: str, service: str | None) -> None:
        self.name = name
        self.id = ""
        self._outbound: queue.SimpleQueue[Any] = queue.SimpleQueue()
        process = channel.stream_stream(
            _PROCESS,
            request_serializer=ext_proc.ProcessingRequest.SerializeToString,
            response_deserializer=ext_proc.ProcessingResponse.FromString,
        )
        metadata = () if service is None else (("x-forebay-filter", service),)
        self.call = process(iter(self._outbound.get, None), metadata=metadata, timeout=DEADLINE_S)

    def send(self, message: dict[str, Any]) -> None:
        self._outbound.put(ParseDict(_to_json(message), ext_proc.ProcessingRequest()))

    def half_close(self) -> None:
        self._outbound.put(None)

    def receive(self) -> dict[str, Any]:
        """The next frame, or how the stream ended."""
        try:
            frame = next(self.call, None)
        except grpc.RpcError as error:
            return {"ended": error.code().name}
        return {"ended": "OK"} if frame is None else self._readable(frame)

    def end(self) -> tuple[str, dict[str, Any] | None]:
        """The status that ends the stream, and a frame that came instead."""
        received = self.receive()
        if set(received) == {"ended"}:
            return str(received["ended"]), None
        return "", received

    def _readable(self, frame: Any) -> dict[str, Any]:
        tree = _to_text(MessageToDict(frame, preserving_proto_field_name=True))
        metadata = tree.get("dynamic_metadata", {}).get("forebay", {})
        if metadata:
            tree["dynamic_metadata"]["forebay"] = dict(sorted(metadata.items()))
        headers = tree.get("immediate_response", {}).get("headers", {}).get("set_headers", [])
        named = {h["header"]["key"]: h["header"]["raw_value"] for h in headers}
        self.id = metadata.get("id") or named.get("x-forebay-request-id") or self.id
        for header in headers:
            key = header["header"]["key"]
            if key in ("retry-after", "age") or key.startswith("x-ratelimit-reset-"):
                header["header"]["raw_value"] = "$SECONDS"
        for name in metadata:
            if name.startswith("reset_"):
                tree["dynamic_metadata"]["forebay"][name] = "$SECONDS"
        if "override_message_timeout" in tree:
            tree["override_message_timeout"] = f"{float(tree['override_message_timeout'][:-1]):.1f}s"
        text = json.dumps(tree, ensure_ascii=False)
        if self.id:
            text = text.replace(self.id, f"$ID:{self.name}")
        text = re.sub(r"retry after \d+ s", "retry after $SECONDS s", text)
        return dict(json.loads(text))


class Player:
    """Plays one transcript against one server."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: dict[str, Stream] = {}
        self._channel = grpc.insecure_channel(target.address)

    def play(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The steps with what was observed in place of what was recorded."""
        try:
            return [self._step(step) for step in steps]
        finally:
            for stream in self._streams.values():
                stream.call.cancel()
                stream.half_close()
            self._channel.close()

    def _step(self, step: dict[str, Any]) -> dict[str, Any]:
        if "open" in step:
            self._streams[step["open"]] = Stream(self._channel, step["open"], step.get("filter"))
        elif "send" in step:
            self._streams[step["send"]].send(self._with_ids(step["message"]))
        elif "expect" in step:
            return {"expect": step["expect"], "frame": self._streams[step["expect"]].receive()}
        elif "half_close" in step:
            self._streams[step["half_close"]].half_close()
        elif "reset" in step:
            self._streams[step["reset"]].call.cancel()
        elif "is_open" in step:
            return {"is_open": step["is_open"]} if self._streams[step["is_open"]].call.is_active() else {"is_open": ""}
        elif "end" in step:
            code, instead = self._streams[step["end"]].end()
            return {"end": step["end"], "code": code} if instead is None else {"end": step["end"], "frame": instead}
        elif "log" in step:
            self._log(self._with_ids(step["log"]))
        elif "state" in step:
            return {"state": self._state(step["state"])}
        else:
            raise AssertionError(f"no such step: {step}")
        return step

    def _with_ids(self, tree: Any) -> Any:
        text = json.dumps(tree)
        for name, stream in self._streams.items():
            text = text.replace(f"$ID:{name}", stream.id)
        return json.loads(text)

    def _log(self, entry: dict[str, Any]) -> None:
        send = self._channel.stream_unary(
            _LOG,
            request_serializer=als_pb2.StreamAccessLogsMessage.SerializeToString,
            response_deserializer=als_pb2.StreamAccessLogsResponse.FromString,
        )
        message = ParseDict({"http_logs": {"log_entry": [entry]}}, als_pb2.StreamAccessLogsMessage())
        send(iter([message]), timeout=DEADLINE_S)

    def _state(self, wanted: dict[str, int]) -> dict[str, int]:
        """What the engine holds, given time to become what is wanted: a stream's end is noticed a moment later."""
        until, pause = time.monotonic() + DEADLINE_S / 4, threading.Event()
        while True:
            pools = {name: requests for name, requests, *_ in self._target.engine.pools()}
            state = {"open_reservations": self._target.engine.open_reservations, **pools}
            seen = {name: state.get(name, -1) for name in wanted} if wanted else {k: v for k, v in state.items() if v}
            if seen == wanted or time.monotonic() > until:
                return seen
            pause.wait(0.01)


def _to_json(tree: Any) -> Any:
    """Text in the place of bytes becomes base64, as proto-JSON has it."""
    if isinstance(tree, dict):
        return {
            key: base64.b64encode(value.encode()).decode()
            if key in _BYTES and isinstance(value, str)
            else value["base64"]
            if key in _BYTES and isinstance(value, dict) and "base64" in value
            else _to_json(value)
            for key, value in tree.items()
        }
    return [_to_json(value) for value in tree] if isinstance(tree, list) else tree


def _to_text(tree: Any) -> Any:
    """Base64 in the place of bytes becomes text; our answers are UTF-8 throughout."""
    if isinstance(tree, dict):
        return {
            key: base64.b64decode(value).decode() if key in _BYTES and isinstance(value, str) else _to_text(value)
            for key, value in tree.items()
        }
    return [_to_text(value) for value in tree] if isinstance(tree, list) else tree
