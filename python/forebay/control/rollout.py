"""The order in which Envoy gets a new configuration, so that no route ever names a cluster that is not there.

Owns: clusters before routes when pools come, routes before clusters when they go. Must not know: what the files say.
On failure: it stops where it is. Every state on the way is whole: what is routed exists.
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

    Shape: `routable` are the pools that Envoy has and routes to; `missing` those it did not take by the deadline;
    `reason` says why the rollout stopped, and is empty when it is complete.
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

    Returns: what is routable. When Envoy does not take the clusters by the deadline (it is away, or a host name of a
    new pool does not resolve), the old routes stay in force and the new pools are `missing`.
    Raises: RolloutError when a file cannot be written.
    Cost: blocks up to twice `deadline_s`; call it from a thread of its own.
    """
    folder, admin = Path(directory), f"{rendered.admin.host}:{rendered.admin.port}"
    replace(folder / "envoy.yaml", rendered.bootstrap)
    for name, content in rendered.secrets.items():
        replace(folder / "secrets" / name, content)

    wanted = frozenset(rendered.cluster_parts)
    old_parts = split_clusters(read(folder / "clusters.yaml") or "")
    both = join_clusters(old_parts | rendered.cluster_parts)
    replace(folder / "clusters.yaml", both)
    wait = _Wait(admin, clock, deadline_s)
    if not wait.until(lambda seen: seen.clusters == version_of(both)):
        return Rollout(frozenset(), wanted, f"envoy did not take the clusters: {wait.said}")
    present = wait.clusters(wanted)
    if wanted - present:
        return Rollout(frozenset(), wanted - present, "envoy is still warming a new cluster; the old routes stay")

    replace(folder / "routes.yaml", rendered.routes)
    if not wait.until(lambda seen: seen.routes == version_of(rendered.routes)):
        return Rollout(frozenset(), wanted, f"envoy did not take the routes: {wait.said}")
    replace(folder / "clusters.yaml", rendered.clusters)
    for path in _stale_secrets(folder, rendered):
        path.unlink(missing_ok=True)
    return Rollout(wanted, frozenset())


class _Wait:
    """Asks Envoy until something holds or the time is up; each wait has the whole deadline."""

    def __init__(self, admin: str, clock: Callable[[], float], deadline_s: float) -> None:
        self.said = ""
        self._admin = admin
        self._clock = clock
        self._deadline_s = deadline_s

    def until(self, holds: Callable[[Versions], bool]) -> bool:
        """Wait until the versions that Envoy has are the ones asked for; `said` tells why they are not."""
        end = self._clock() + self._deadline_s
        while True:
            try:
                seen = versions(self._admin, ROUTE_TABLE)
                if holds(seen):
                    return True
                self.said = f"it has clusters `{seen.clusters}` and routes `{seen.routes}`; its log tells why"
            except ObserveError as error:
                self.said = str(error)
            if self._clock() >= end:
                return False
            time.sleep(_POLL_S)

    def clusters(self, wanted: frozenset[str]) -> frozenset[str]:
        """Wait until Envoy has all the clusters, and give those that it has."""
        end = self._clock() + self._deadline_s
        present: frozenset[str] = frozenset()
        while True:
            try:
                present = wanted & observe(self._admin).keys()
            except ObserveError as error:
                self.said = str(error)
            if present == wanted or self._clock() >= end:
                return present
            time.sleep(_POLL_S)


def _stale_secrets(folder: Path, rendered: RenderedEnvoy) -> list[Path]:
    return [path for path in (folder / "secrets").glob("*.yaml") if path.name not in rendered.secrets]
