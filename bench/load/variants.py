"""Owns what is compared: each variant is one Envoy with one worker and, for some, one service beside it; the controls.

Must not know how load is sent, what is made of the numbers, or the gateway, whose variants `gateways.py` starts.
On failure: a variant that does not get ready stops the run; `Variant.stop` ends what it started.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.load.chains import POOL, Ports, direct_chain, echo_chain, logged_chain, none_chain
from bench.load.policy import policy_workers
from bench.load.process import Child, fetch, free_port, wait_http
from bench.load.tools import Tools


@dataclass(frozen=True)
class Variant:
    """A running Envoy, with the processes whose CPU it costs."""

    name: str
    port: int
    envoy_admin: int
    children: dict[str, Child] = field(default_factory=dict)
    # Port of the gateway's own admin server; 0 where there is none.
    gateway_admin: int = 0
    # Processes beside it whose CPU does not count.
    unpaid: dict[str, Child] = field(default_factory=dict)
    # The rendered chain of a gateway's own Envoy, and the folder of its ledger.
    rendered: Path | None = None
    books: Path | None = None

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by role: `envoy`, `service`."""
        return {role: child.pid for role, child in self.children.items()}

    def envoy_stats(self, pattern: str) -> dict[str, int]:
        """Envoy's counters whose name matches `pattern`."""
        page = fetch(f"http://127.0.0.1:{self.envoy_admin}/stats?format=json&filter={pattern}")
        stats: list[dict[str, Any]] = json.loads(page)["stats"]
        return {stat["name"]: int(stat["value"]) for stat in stats if "value" in stat}

    def ext_proc_messages(self) -> int:
        """Messages that Envoy has sent to its processor, over every ext_proc filter."""
        return sum(self.envoy_stats("ext_proc.*stream_msgs_sent").values())

    def gateway_metrics(self) -> str:
        """The gateway's metrics page."""
        return fetch(f"http://127.0.0.1:{self.gateway_admin}/metrics")

    def gateway_metric(self, name: str) -> int:
        """One counter of the gateway that has no labels; 0 where it is not there."""
        found = re.search(rf"^{name} (\d+)$", self.gateway_metrics(), re.MULTILINE)
        return int(found.group(1)) if found else 0

    def stop(self) -> None:
        """Ends its processes, Envoy first."""
        for child in [*self.children.values(), *self.unpaid.values()]:
            child.stop()


@dataclass(frozen=True)
class Site:
    """Where variants are started, and the upstream that they share."""

    tools: Tools
    workdir: Path
    upstream_port: int


def start_upstream(tools: Tools, workdir: Path) -> tuple[Child, Site]:
    """The simulated fleet that every variant shares."""
    child = Child("upstream", [str(tools.bench), "upstream"], workdir)
    return child, Site(tools, workdir, int(child.ready_line()["port"]))


def start_none(site: Site) -> Variant:
    """Envoy alone."""
    return _start_bare("none", site, none_chain)


def start_direct(site: Site) -> Variant:
    """Envoy that answers by itself."""
    return _start_bare("direct", site, direct_chain)


def start_echo(site: Site) -> Variant:
    """Envoy with the bare processor."""
    return _start_served("echo", site, echo_chain)


def start_logged(site: Site) -> Variant:
    """Envoy with the gRPC access log, to a sink."""
    return _start_served("logged", site, logged_chain)


def _start_bare(name: str, site: Site, chain: Callable[[Ports], dict[str, Any]]) -> Variant:
    ports = Ports(free_port(), free_port(), site.upstream_port)
    return _start_control(name, site, chain(ports), ports)


def _start_served(name: str, site: Site, chain: Callable[[Ports], dict[str, Any]]) -> Variant:
    command = [str(site.tools.bench), "echo", "--pool", POOL, "--threads", str(policy_workers())]
    service = Child(name, command, site.workdir)
    ports = Ports(free_port(), free_port(), site.upstream_port, int(service.ready_line()["port"]))
    bare = _start_control(name, site, chain(ports), ports)
    return replace(bare, children={**bare.children, "service": service})


def _start_control(name: str, site: Site, chain: dict[str, Any], ports: Ports) -> Variant:
    bootstrap = site.workdir / f"{name}.json"
    bootstrap.write_text(json.dumps(chain, indent=1))
    envoy = start_envoy(name, site, bootstrap, ports.admin)
    return Variant(name, ports.listener, ports.admin, {"envoy": envoy})


def start_envoy(name: str, site: Site, bootstrap: Path, admin_port: int) -> Child:
    """One Envoy with one worker."""
    command = [str(site.tools.envoy), "-c", str(bootstrap), "--concurrency", "1", "--disable-hot-restart"]
    child = Child(f"envoy-{name}", [*command, "--log-level", "warning"], site.workdir)
    wait_http(child, f"http://127.0.0.1:{admin_port}/ready")
    return child
