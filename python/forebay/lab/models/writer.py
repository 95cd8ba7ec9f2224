"""A text model that writes words which depend on the prompt alone, one response each, as Triton's vLLM backend does.

Owns the words, their pace and the counts. Must not batch: every request has a thread, as many write at once.
A request whose client left stops before its next word and is counted as cancelled.

`sampling_parameters` is one JSON object: `max_tokens` (16, as in vLLM), `stop` (a text or a list of them).
Beside vLLM's own: `fail_after` words the request fails with INTERNAL; `stats: true` answers with the counts as JSON.
Unlike vLLM's, `finish_reason` and `num_output_tokens` come unless they are refused by their `return_` input.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import Counter
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

# Some are more than one byte a letter: whoever cuts a text at a byte is found out.
WORDS = (
    "water", "gathers", "above", "the", "mill", "naïve", "and", "waits", "until", "its", "wheel", "can", "take",
    "déjà", "more", "than", "a", "stream", "would", "give", "水", "so", "every", "turn", "is", "full", "Größe", "of",
    "work", "that", "nobody", "pays", "twice", "for", "🌊",
)  # fmt: skip


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._token_s = int(parameters["token_us"]["string_value"]) / 1e6
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            thread = threading.Thread(target=self._serve, args=(request, request.get_response_sender()))
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def finalize(self) -> None:
        """Waits for what is being written; the sender of a thread must not outlive the model."""
        with self._lock:
            running = list(self._threads)
        for thread in running:
            thread.join()

    def _serve(self, request: Any, sender: Any) -> None:
        try:
            end = self._write(request, sender)
        except (ValueError, TypeError) as error:
            end = "refused"
            _fail(sender, str(error), pb_utils.TritonError.INVALID_ARG)
        if end:
            self._count(end)
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _write(self, request: Any, sender: Any) -> str:
        """Answers one request. Returns the count that it belongs to; empty where it was a question about the counts."""
        prompt = bytes(_one(request, "text_input", b"")).decode()
        asked = json.loads(_one(request, "sampling_parameters", b"{}"))
        if asked.get("stats"):
            with self._lock:
                counts = json.dumps(self._counts)
            _send(sender, {"text_output": counts.encode()}, last=True)
            return ""
        self._count("started")
        streamed = bool(_one(request, "stream", False))
        wanted = {
            name for name in ("finish_reason", "num_output_tokens") if bool(_one(request, f"return_{name}", True))
        }
        echo = "" if streamed or bool(_one(request, "exclude_input_in_output", False)) else prompt
        text, words, reason = "", 0, ""
        while not reason:
            time.sleep(self._token_s)
            if sender.is_cancelled():
                _fail(sender, "the client left", pb_utils.TritonError.CANCELLED)
                return "cancelled"
            if words == asked.get("fail_after"):
                _fail(sender, "the model failed, as it was asked to", pb_utils.TritonError.INTERNAL)
                return "failed"
            word, reason = _next(prompt, text, words, asked)
            text += word
            words += 1
            self._count("words")
            if streamed or reason:
                parts = {
                    "text_output": (word if streamed else echo + text).encode(),
                    "finish_reason": (reason or "None").encode(),  # as vLLM's says it
                    "num_output_tokens": 1 if streamed else words,
                }
                _send(sender, {k: v for k, v in parts.items() if k == "text_output" or k in wanted}, last=bool(reason))
        return "finished"

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1


def _next(prompt: str, text: str, words: int, asked: dict[str, Any]) -> tuple[str, str]:
    """The word behind `text`, and why it is the last one, if it is."""
    most = asked.get("max_tokens", 16)
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"max_tokens must be at least 1, not {most}")
    word = (" " if text else "") + WORDS[(zlib.crc32(prompt.encode()) + words) % len(WORDS)]
    stops = asked.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        at = (text + word).find(stop)
        if at >= 0:
            return (text + word)[len(text) : at], "stop"
    return word, "length" if words + 1 == most else ""


def _one(request: Any, name: str, default: Any) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _send(sender: Any, outputs: dict[str, Any], last: bool) -> None:  # noqa: FBT001 - Triton's own flag
    tensors = [
        pb_utils.Tensor(name, np.array([value], np.uint32 if isinstance(value, int) else np.object_))
        for name, value in outputs.items()
    ]
    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
    sender.send(pb_utils.InferenceResponse(tensors), flags=flags)


def _fail(sender: Any, message: str, code: int) -> None:
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
