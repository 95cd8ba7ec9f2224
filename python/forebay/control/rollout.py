"""The order in which Envoy gets a new configuration, so that no route ever names a cluster that is not there.

Owns: clusters before routes when pools come, routes before clusters when they go. Must not know: what the files say.
On failure: every state on the way is whole, and what Envoy did not take is said, not routed to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forebay.control.files import read, replace
from forebay.control.observe import Versions, observe, versions
from forebay.control.render import join_clusters, split_clusters, version_of
from forebay.control.routes import ROUTE_TABLE
from forebay.errors import ObserveError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from forebay.control.render import RenderedEnvoy

__all__ = ["Rollout", "apply", "install"]

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a rollout came to.

    Shape: `routable` are the pools that Envoy has and routes to; `missing` those that it did not take by the deadline;
    `reason` says what Envoy did not take, and is empty when it has everything.
    """

    routable: frozenset[str]
    missing: frozenset[str]
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Whether Envoy has everything that was rendered."""
        return not self.reason and not self.missing


def install(rendered: RenderedEnvoy, directory: str | os.PathLike[str]) -> None:
    """Write all files for an Envoy that is not running yet; it reads them together when it starts.

    Raises: RolloutError when a file cannot be written.
    """
    for name, content in rendered.files().items():
        replace(Path(directory) / name, content)


def apply(
    rendered: RenderedEnvoy,
    directory: str | os.PathLike[str],
    *,
    deadline_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Rollout:
    """Bring a running Envoy to a new configuration without a restart.

    1. secrets, which new clusters read; 2. clusters, the new beside the old that are still routed; 3. wait until
    Envoy has them; 4. routes; 5. wait until Envoy has those; 6. clusters without the old.
    The bootstrap is written for the next start; Envoy does not read it again.

    Returns: what is routable. A cluster that Envoy refuses, or cannot resolve by the deadline, is `missing` and holds
    nobody else up; when Envoy is away the files are complete for its next start, and nothing is routable until then.
    Raises: RolloutError when a file cannot be written.
    Cost: blocks up to twice `deadline_s`; call it from a thread of its own.
    """
    folder, admin = Path(directory), f"{rendered.admin.host}:{rendered.admin.port}"
    wanted = frozenset(rendered.cluster_parts)
    replace(folder / "envoy.yaml", rendered.bootstrap)
    for name, content in rendered.secrets.items():
        replace(folder / "secrets" / name, content)

    both = join_clusters(split_clusters(read(folder / "clusters.yaml") or "") | rendered.cluster_parts)
    replace(folder / "clusters.yaml", both)
    clusters = _Wait(admin, clock, deadline_s)
    clusters.until(lambda has: has.versions.clusters == version_of(both) and wanted <= has.clusters)

    replace(folder / "routes.yaml", rendered.routes)
    routes = _Wait(admin, clock, deadline_s if clusters.has else 0.0)
    routes.until(lambda has: has.versions.routes == version_of(rendered.routes))
    replace(folder / "clusters.yaml", rendered.clusters)
    for path in _stale_secrets(folder, rendered):
        path.unlink(missing_ok=True)
    return _outcome(wanted, clusters, routes)


@dataclass(frozen=True, slots=True)
class _Has:
    versions: Versions
    clusters: frozenset[str]


class _Wait:
    """Asks Envoy until something holds or the time is up. `has` is what Envoy had last, None when it never answered."""

    def __init__(self, admin: str, clock: Callable[[], float], deadline_s: float) -> None:
        self.has: _Has | None = None
        self.held = False
        self.said = ""
        self._admin = admin
        self._clock = clock
        self._deadline_s = deadline_s

    def until(self, holds: Callable[[_Has], bool]) -> None:
        """Set `held` once it holds; after the deadline `said` tells why it does not."""
        end = self._clock() + self._deadline_s
        while True:
            try:
                self.has = _Has(versions(self._admin, ROUTE_TABLE), frozenset(observe(self._admin)))
                self.held = holds(self.has)
                self.said = "" if self.held else "it refused them or is still warming them; its log tells why"
            except ObserveError as error:
                self.said = str(error)
            if self.held or self._clock() >= end:
                return
            time.sleep(_POLL_S)


def _outcome(wanted: frozenset[str], clusters: _Wait, routes: _Wait) -> Rollout:
    present = wanted & clusters.has.clusters if clusters.has else frozenset()
    if not routes.held:
        return Rollout(frozenset(), wanted, f"envoy did not take the routes: {routes.said}")
    reason = "" if clusters.held else f"envoy did not take the clusters: {clusters.said}"
    return Rollout(present, wanted - present, reason)


def _stale_secrets(folder: Path, rendered: RenderedEnvoy) -> list[Path]:
    return [path for path in (folder / "secrets").glob("*.yaml") if path.name not in rendered.secrets]
