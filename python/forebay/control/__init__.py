"""Control: what Envoy is told, how its files are replaced, and what Envoy says that it has.

Owns: the rendered configuration, its files, and the reading of Envoy's admin port.
Must not know: requests, decisions, the gateway's servers. On failure: Envoy keeps the configuration that it has.
"""

from forebay.control.observe import ClusterState, logs_dropped, observe
from forebay.control.render import RenderedEnvoy, RenderOptions, render
from forebay.control.rollout import Rollout, apply, install

__all__ = [
    "ClusterState",
    "RenderOptions",
    "RenderedEnvoy",
    "Rollout",
    "apply",
    "install",
    "logs_dropped",
    "observe",
    "render",
]
