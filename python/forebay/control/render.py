"""A policy to everything that Envoy reads, as annotated YAML.

Owns: the set of files and their versions. Must not know: whether Envoy runs, or where its files are now.
On failure: RenderError, and nothing is rendered. Pure: the same policy and options give the same text.

    envoy.yaml        bootstrap: the listener, the gateway's cluster, the admin port. Read once, at Envoy's start
    clusters.yaml     one cluster a pool. Replaced by rename, taken without a restart
    routes.yaml       one route a pool. The same
    secrets/*.yaml    where a credential or certificate is (never the secret itself). The same
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from forebay.control.annotated import text, typed
from forebay.control.clusters import gateway_cluster, pool_cluster, secret_file
from forebay.control.listener import LISTENER_SECRET, listener, options_source
from forebay.control.options import RenderOptions
from forebay.control.routes import route_table
from forebay.control.settings import Address, Settings

if TYPE_CHECKING:
    from forebay.policy._pb.policy_pb2 import Policy, Pool

__all__ = ["RenderOptions", "RenderedEnvoy", "render"]

_CLUSTER_START = '- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster\n'
_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - the name of a message


@dataclass(frozen=True, slots=True)
class RenderedEnvoy:
    """Everything for one Envoy.

    Shape: `bootstrap`, `clusters`, `routes` and the values of `secrets` (file name to text) are YAML. `cluster_parts`
    maps each pool to its own piece of `clusters`, so that a rollout can keep an old one for a while. `admin` is where
    Envoy's admin port will be.
    """

    bootstrap: str
    clusters: str
    routes: str
    admin: Address
    secrets: dict[str, str] = field(default_factory=dict)
    cluster_parts: dict[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, str]:
        """Give every file, by its path within the directory."""
        return {
            "envoy.yaml": self.bootstrap,
            "clusters.yaml": self.clusters,
            "routes.yaml": self.routes,
            **{f"secrets/{name}": content for name, content in self.secrets.items()},
        }


def render(policy: Policy, options: RenderOptions) -> RenderedEnvoy:
    """Render a policy that was checked.

    Returns: the texts; every one of them passes `envoy --mode validate` (a test shows it for many policies).
    Raises: RenderError for an address that is none.
    """
    settings = Settings.of(policy)
    parts = {pool.name: text({"resources": [pool_cluster(pool, settings, options)]}) for pool in policy.pools}
    return RenderedEnvoy(
        bootstrap=_bootstrap(policy, settings, options),
        clusters=join_clusters(parts),
        routes=_resources("routes", "One route a pool.", route_table(policy, settings)),
        admin=settings.admin,
        secrets=_secrets(policy),
        cluster_parts=parts,
    )


def join_clusters(parts: dict[str, str]) -> str:
    """Put the pieces of pools together to one file, in the order of their names."""
    bodies = "".join(parts[name].removeprefix("resources:\n") for name in sorted(parts))
    body = f"resources:\n{bodies}" if bodies else "resources: []\n"
    return _head("clusters", "One cluster a pool.", body)


def split_clusters(content: str) -> dict[str, str]:
    """Take a file that `join_clusters` wrote apart again; what is not such a file gives nothing."""
    _, found, bodies = content.partition("\nresources:\n")
    parts = {}
    for body in bodies.split(_CLUSTER_START)[1:] if found else []:
        name = yaml.safe_load(f"{_CLUSTER_START}{body}")[0]["name"]
        parts[name] = f"resources:\n{_CLUSTER_START}{body}"
    return parts


def version_of(content: str) -> str:
    """Give the version that Envoy reports once it has taken a file of ours; empty when the text is not one."""
    for line in content.splitlines():
        if line.startswith("version_info: "):
            return line.removeprefix("version_info: ").strip('"')
    return ""


def _resources(name: str, about: str, resource: dict[str, Any]) -> str:
    return _head(name, about, text({"resources": [resource]}))


def _head(name: str, about: str, body: str) -> str:
    version = hashlib.sha256(body.encode()).hexdigest()[:16]
    note = f"# Rendered by `forebay envoy-config`: {about} Replace {name}.yaml by rename, never in place.\n"
    return f'{note}version_info: "{version}"\n{body}'


def _bootstrap(policy: Policy, settings: Settings, options: RenderOptions) -> str:
    connections = typed(
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=options.max_connections,
    )
    head = (
        f"# Rendered by `forebay envoy-config` from the policy {_quoted(policy.name)}, for Envoy 1.40 or later.\n"
        "# One gateway process serves one Envoy: limits and cache live in that process.\n"
    )
    return head + text(
        {
            "# node": "file-based secrets ask for it",
            "node": {"id": options.node_id, "cluster": "forebay"},
            "# admin": "anybody who reaches it can stop Envoy; keep it on loopback",
            "admin": {"address": settings.admin.socket()},
            "dynamic_resources": {"cds_config": options_source(options, "clusters.yaml")},
            "static_resources": {
                "listeners": [listener(policy, settings, options)],
                "clusters": [gateway_cluster(settings)],
            },
            "# overload_manager": "without a bound on connections a flood takes all file descriptors",
            "overload_manager": {
                "resource_monitors": [
                    {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections}
                ]
            },
        }
    )


def _secrets(policy: Policy) -> dict[str, str]:
    files = {secret_file(pool): _pool_secret(pool) for pool in policy.pools if pool.HasField("credential")}
    if policy.envoy.HasField("tls"):
        tls = policy.envoy.tls
        certificate = {
            "certificate_chain": {"filename": tls.certificate_file},
            "private_key": {"filename": tls.private_key_file},
        }
        files[LISTENER_SECRET] = text({"resources": [typed(_SECRET, name="listener", tls_certificate=certificate)]})
    return files


def _pool_secret(pool: Pool) -> str:
    credential = pool.credential
    if credential.WhichOneof("source") == "env":
        source: dict[str, Any] = {"environment_variable": credential.env}
    else:
        folder = str(PurePosixPath(credential.file).parent)
        source = {"filename": credential.file, "watched_directory": {"path": folder}}
    return text({"resources": [typed(_SECRET, name=f"pool-{pool.name}", generic_secret={"secret": source})]})


def _quoted(name: str) -> str:
    return "`" + "".join(char if char.isprintable() else "?" for char in name) + "`"
