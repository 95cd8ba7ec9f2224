"""`forebay serve`: a gateway, its policy file, and the files that Envoy reads.

Owns: the order of a policy change over engine and Envoy, and the end on a signal. Must not know: how any part works.
On failure: a policy that is refused leaves the one before in force; a part that cannot be started ends the command.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from forebay.app.logs import configure, default_form
from forebay.control import RenderOptions, apply, install, logs_dropped, observe, render
from forebay.core import ForebayError as CoreError
from forebay.errors import ForebayError, ObserveError, PolicyError
from forebay.gateway import FileWatch, GatewayProcess
from forebay.policy import load, override
from forebay.policy.engine import check

if TYPE_CHECKING:
    import argparse

    from forebay.policy import LoadedPolicy

__all__ = ["ServedGateway", "serve"]

_log = logging.getLogger("forebay")

_OBSERVE_S = 1.0
_ENVOY_ADMIN = "127.0.0.1:9901"


class ServedGateway:
    """A gateway, its policy file and, with `envoy_dir`, the files that Envoy reads.

    A changed policy file takes effect at once: new pools become routable when Envoy has them.
    """

    def __init__(self, policy_file: Path, envoy_dir: Path | None = None, settings: Iterable[str] = ()) -> None:
        self._file = policy_file
        self._settings = tuple(settings)
        self._envoy_dir = envoy_dir
        policy = self._load()
        self.process = GatewayProcess(policy)
        if envoy_dir is not None:
            install(render(policy.message(), self._options()), envoy_dir)
        self._watch = FileWatch(policy_file, self.reload)
        self._stop = threading.Event()
        self._observer = threading.Thread(target=self._observe, name="forebay-observe", daemon=True)

    def start(self) -> None:
        """Serve."""
        self.process.start()
        self._watch.start()
        self._observer.start()

    def stop(self) -> int:
        """Drain and stop; gives the number of requests that were still in flight."""
        self._stop.set()
        self._watch.stop()
        self._observer.join()
        return self.process.stop()

    def reload(self) -> bool:
        """Read the policy file again and put it into force; says and keeps the old one where that is refused."""
        try:
            policy = self._load()
            message = policy.message()
            # Before anything changes: what Envoy cannot be told is refused whole.
            rendered = None if self._envoy_dir is None else render(message, self._options())
            known = {name for name, *_ in self.process.engine.pools()}
            fresh = [pool.name for pool in message.pools if pool.name not in known]
            if rendered is not None:
                # Not before Envoy has them; the observer or the rollout says when.
                for name in fresh:
                    self.process.engine.observe_pool(name, routable=False, healthy=False)
            revision = self.process.swap(policy)
        except (ForebayError, CoreError, OSError) as error:
            self.process.engine.count_refused_policy()
            _log.error("the changed policy is refused, the one before stays in force:\n%s", error)
            return False
        _log.info("policy `%s` is in force, revision %s", message.name, revision)
        if self._envoy_dir is not None and rendered is not None:
            rollout = apply(rendered, self._envoy_dir)
            for name in fresh:
                routable = name in rollout.routable
                self.process.engine.observe_pool(name, routable=routable, healthy=routable)
            if rollout.missing:
                _log.error("envoy does not have these pools yet: %s", ", ".join(sorted(rollout.missing)))
        return True

    def _load(self) -> LoadedPolicy:
        policy = override(load(self._file), self._settings) if self._settings else load(self._file)
        findings = check(policy)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            raise PolicyError(policy.source, errors)
        for finding in findings:
            _log.warning("%s", finding.text(policy.source))
        return policy

    def _options(self) -> RenderOptions:
        return RenderOptions(directory=str(Path(self._envoy_dir or ".").resolve()))

    def _observe(self) -> None:
        """Tell the engine what Envoy has. While Envoy is away nothing is changed: nobody can be routed then."""
        while not self._stop.wait(_OBSERVE_S):
            policy = self.process.policy
            if not policy.HasField("envoy"):
                continue
            address = policy.envoy.admin_address or _ENVOY_ADMIN
            try:
                clusters = observe(address)
                self.process.observe_dropped_logs(logs_dropped(address))
            except ObserveError:
                continue
            for pool in policy.pools:
                state = clusters.get(pool.name)
                self.process.engine.observe_pool(pool.name, state is not None, state is not None and state.healthy > 0)


def serve(arguments: argparse.Namespace) -> int:
    """Run a gateway until SIGTERM or SIGINT. The first line on standard output is JSON and says where it listens."""
    configure(arguments.log_format or default_form())
    stop = _stop_on_signal()
    gateway = ServedGateway(arguments.policy, arguments.envoy_dir, arguments.set)
    gateway.start()
    print(
        json.dumps({"ready": True, **gateway.process.addresses, "revision": gateway.process.engine.revision}),
        flush=True,
    )
    stop.wait()
    left = gateway.stop()
    if left:
        _log.warning("%d requests were still in flight", left)
    return 0


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop
