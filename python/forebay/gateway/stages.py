"""Persons' own stages: the thread that runs them on small batches of requests.

Owns: finding a stage by its name, calling it, and handing its answers back. Must not know: what a stage decides.
On failure: a stage that cannot be found or that raises fails its batch; the policy says what happens to the requests.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Union

from forebay.gateway.seam import Gateway, StageBatch, StageRequest

__all__ = ["Stage", "StageRunner"]

_log = logging.getLogger(__name__)
_WAIT_MS = 500

Choice = Union[str, "tuple[str, str]", None]
"""A model, or a model and a reason, or None: the stage does not know."""

Stage = Callable[[Sequence[StageRequest]], Sequence[Choice]]
"""A stage gets requests, oldest first, and gives one choice for each, in the same order."""


class StageRunner:
    """Runs the stages of a gateway in one thread, so a stage need not be safe for threads.

    Cost: one thread, asleep until a request waits. The GIL is held only while a stage runs.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._found: dict[str, Stage | None] = {}
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
                self._answer(batch)

    def _answer(self, batch: StageBatch) -> None:
        stage = self._stage(batch.target)
        count = len(batch)
        choices: list[tuple[str, str] | None] = [None] * count
        if stage is not None:
            try:
                given = list(stage(batch.requests))
                if len(given) != count:
                    raise ValueError(f"{len(given)} choices for {count} requests")
                choices = [_pair(choice) for choice in given]
            except Exception:
                _log.exception("the stage `%s` failed", batch.target)
                choices = [None] * count
        batch.answer(choices)

    def _stage(self, target: str) -> Stage | None:
        if target not in self._found:
            try:
                module, _, name = target.partition(":")
                found = getattr(importlib.import_module(module), name)
                if not callable(found):
                    raise TypeError(f"`{target}` is not callable")
                self._found[target] = found
            except Exception:
                _log.exception("the stage `%s` cannot be found", target)
                self._found[target] = None
        return self._found[target]


def _pair(choice: Choice) -> tuple[str, str] | None:
    if choice is None or isinstance(choice, tuple):
        return choice
    return (choice, "")
