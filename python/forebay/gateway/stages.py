"""Persons' own stages: finding them, and the thread that runs them on small batches of requests.

Owns: finding a stage by its name, calling it, and handing its answers back. Must not know: what a stage decides.
On failure: a stage that cannot be found, raises or answers nonsense fails its batch; the policy says what follows.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Union

from forebay.gateway.seam import Gateway, StageRequest

__all__ = ["Choice", "Stage", "StageRunner", "Stages"]

_log = logging.getLogger(__name__)
_WAIT_MS = 500

Choice = Union[str, "tuple[str, str]", None]
"""A model, or a model and a reason, or None: the stage does not know."""

Stage = Callable[[Sequence[StageRequest]], Sequence[Choice]]
"""A stage gets requests, oldest first, and gives one choice for each, in the same order."""


class Stages:
    """Stages by their names, each imported when it is first asked. One thread at a time may ask.

    A stage that was not found is not looked for again: code is changed by starting a new process.
    """

    def __init__(self) -> None:
        self._found: dict[str, Stage | None] = {}

    def choose(self, target: str, requests: Sequence[StageRequest]) -> list[tuple[str, str] | None]:
        """Ask the stage `package.module:function`.

        Returns: for each request (model, reason), or None where the stage gives none or failed. It never raises.
        """
        stage = self._stage(target)
        if stage is None:
            return [None] * len(requests)
        try:
            given = list(stage(requests))
            if len(given) != len(requests):
                raise ValueError(f"{len(given)} choices for {len(requests)} requests")
            return [_pair(choice) for choice in given]
        except (Exception, SystemExit):  # noqa: BLE001 - a person's code may raise anything
            _log.exception("the stage `%s` failed", target)
            return [None] * len(requests)

    def _stage(self, target: str) -> Stage | None:
        if target not in self._found:
            try:
                module, _, name = target.partition(":")
                found = getattr(importlib.import_module(module), name)
                if not callable(found):
                    raise TypeError(f"`{target}` is not callable")
                self._found[target] = found
            except (Exception, SystemExit):  # noqa: BLE001 - importing runs a person's code
                _log.exception("the stage `%s` cannot be found", target)
                self._found[target] = None
        return self._found[target]


class StageRunner:
    """Runs the stages of a gateway in one thread, so a stage need not be safe for threads.

    Cost: one thread, asleep until a request waits. The GIL is held only while a stage runs.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stages = Stages()
        self._thread = threading.Thread(target=self._run, name="forebay-stages", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends when the gateway is shut down."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, at most `timeout_s`; a stage that hangs is left behind."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            batch = self._gateway.next_stage_batch(_WAIT_MS)
            if batch is None:
                return
            if len(batch):
                batch.answer(self._stages.choose(batch.target, batch.requests))


def _pair(choice: Choice) -> tuple[str, str] | None:
    """Hold an answer against its type: what a person's code gives may be anything."""
    if choice is None:
        return None
    model, reason = (choice, "") if isinstance(choice, str) else choice
    if not isinstance(model, str) or not isinstance(reason, str):
        raise TypeError(f"a choice is a model, or a model and a reason, not `{choice!r}`")
    return (model, reason)
