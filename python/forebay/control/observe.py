"""What Envoy says that it has: clusters, their healthy endpoints, the versions of its files, the log's losses.

Owns: reading Envoy's admin port. Must not know: policies and files.
On failure: ObserveError; the caller keeps what it knew, since an admin port that is away says nothing about pools.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from forebay.control.settings import Address
from forebay.errors import ObserveError, RenderError

__all__ = ["ClusterState", "Versions", "logs_dropped", "observe", "versions"]

# About 100,000 endpoints; an admin port that answers more is no Envoy of ours.
_MAX_ANSWER_BYTES = 64 * 1024 * 1024

# One counter for all gRPC access logs of an Envoy; ours is the only one.
_LOGS_DROPPED = "access_logs.grpc_access_log.logs_dropped"


@dataclass(frozen=True, slots=True)
class ClusterState:
    """How many endpoints a cluster has, and how many of them Envoy would send to."""

    hosts: int
    healthy: int


@dataclass(frozen=True, slots=True)
class Versions:
    """`version_info` of what Envoy has in force; empty before the first."""

    clusters: str
    routes: str


def observe(address: str, timeout_s: float = 1.0) -> dict[str, ClusterState]:
    """Ask Envoy which clusters it has.

    Shape: `address` is the `host:port` of Envoy's admin port.
    Returns: cluster name to its state. An endpoint is healthy when no check of Envoy's failed on it (active health
    check, outlier detection, pending DNS); a cluster that is still warming is absent.
    Raises: ObserveError.
    Cost: one HTTP request; Envoy's answer grows with the endpoints (about 1 KB each).
    """
    answer = _get(address, "/clusters?format=json", timeout_s)
    try:
        clusters = answer.get("cluster_statuses", [])
        return {cluster["name"]: _state(cluster) for cluster in clusters}
    except (AttributeError, KeyError, TypeError) as error:
        raise ObserveError(f"`{address}` does not answer as Envoy's `/clusters` does") from error


def versions(address: str, route_table: str, timeout_s: float = 1.0) -> Versions:
    """Ask Envoy which versions of clusters and of a route table are in force.

    Raises: ObserveError.
    """
    answer = _get(address, "/config_dump", timeout_s)
    clusters = routes = ""
    try:
        for part in answer["configs"]:
            kind = part["@type"].rpartition(".")[2]
            if kind == "ClustersConfigDump":
                clusters = part.get("version_info", "")
            elif kind == "RoutesConfigDump":
                for route in part.get("dynamic_route_configs", []):
                    if route.get("route_config", {}).get("name") == route_table:
                        routes = route.get("version_info", "")
    except (AttributeError, KeyError, TypeError) as error:
        raise ObserveError(f"`{address}` does not answer as Envoy's `/config_dump` does") from error
    return Versions(clusters, routes)


def logs_dropped(address: str, timeout_s: float = 1.0) -> int:
    """Ask Envoy how many entries of the access log it has thrown away since it started.

    An entry is dropped when the buffer is full because the gateway reads slowly. Entries that Envoy sent while the
    gateway was away are not in this count, because Envoy does not know that they are lost; their reservations expire.
    Raises: ObserveError.
    Source: Envoy's docs, "gRPC access log", statistics.
    """
    answer = _get(address, f"/stats?format=json&filter=^{_LOGS_DROPPED}$", timeout_s)
    try:
        found = [stat["value"] for stat in answer["stats"] if stat.get("name") == _LOGS_DROPPED]
        return int(found[0]) if found else 0
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ObserveError(f"`{address}` does not answer as Envoy's `/stats` does") from error


def _state(cluster: dict[str, Any]) -> ClusterState:
    hosts = cluster.get("host_statuses", [])
    return ClusterState(len(hosts), sum(_is_healthy(host.get("health_status", {})) for host in hosts))


def _is_healthy(status: dict[str, Any]) -> bool:
    failed = any(value is True for key, value in status.items() if key.startswith(("failed_", "pending_")))
    return not failed and status.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN")


def _get(address: str, path: str, timeout_s: float) -> dict[str, Any]:
    try:
        where = Address.parse(address).reachable()
    except RenderError as error:
        raise ObserveError(str(error)) from error
    connection = http.client.HTTPConnection(where.host, where.port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise ObserveError(f"Envoy's admin port `{address}` did not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK or len(body) > _MAX_ANSWER_BYTES:
        raise ObserveError(f"Envoy's admin port `{address}` answered `{path}` with {response.status}")
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise ObserveError(f"Envoy's admin port `{address}` answered `{path}` without JSON") from error
    if not isinstance(answer, dict):
        raise ObserveError(f"Envoy's admin port `{address}` answered `{path}` without a JSON object")
    return answer
