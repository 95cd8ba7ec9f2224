"""Owns what is compared: each variant is one Envoy with one worker and, for some, one service beside it.

Must not know how load is sent or what is made of the numbers.
On failure: a variant that does not get ready stops the run; `Variant.stop` ends what it started.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.load.chains import POOL, Ports, direct_chain, echo_chain, logged_chain, none_chain
from bench.load.policy import bench_key, policy_workers, write_policy
from bench.load.process import Child, fetch, free_port, wait_http
from bench.load.tools import Tools, require_release_core

# A policy of 100,000 keys takes a while to read.
_RENDER_S = 300


@dataclass(frozen=True)
class Variant:
    """A running Envoy, with the processes whose CPU it costs."""

    name: str
    port: int
    envoy_admin: int
    children: dict[str, Child] = field(default_factory=dict)
    # Port of the gateway's own admin server; 0 where there is none.
    gateway_admin: int = 0

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

    def stop(self) -> None:
        """Ends its processes, Envoy first."""
        for child in self.children.values():
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


def start_forebay(site: Site) -> Variant:
    """What ships: the gateway, and Envoy with the chain that `forebay envoy-config` renders from the same policy."""
    require_release_core()
    policy = write_policy(site.upstream_port, site.workdir)
    rendered = site.workdir / "forebay-envoy"
    forebay = [sys.executable, "-m", "forebay.cli"]
    render = Child("envoy-config", [*forebay, "envoy-config", str(policy.path), "--out", str(rendered)], site.workdir)
    if render.process.wait(timeout=_RENDER_S) != 0:
        raise render.failure("failed")
    serve = [*forebay, "serve", "--policy", str(policy.path), "--envoy-dir", str(rendered)]
    gateway = Child("gateway", serve, site.workdir)
    gateway.ready_line()
    envoy = _start_envoy("forebay", site, rendered / "envoy.yaml", policy.envoy_admin_port)
    children = {"envoy": envoy, "service": gateway}
    variant = Variant("forebay", policy.listener_port, policy.envoy_admin_port, children, policy.gateway_admin_port)
    _wait_served(variant)
    return variant


def _wait_served(variant: Variant) -> None:
    """Waits until a request is answered: a pool takes requests only once the gateway has seen that Envoy has it."""
    body = {"model": "bench", "messages": [{"role": "user", "content": "ready?"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{variant.port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {bench_key(0)}"},
    )
    wait_http(variant.children["service"], request)


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
    envoy = _start_envoy(name, site, bootstrap, ports.admin)
    return Variant(name, ports.listener, ports.admin, {"envoy": envoy})


def _start_envoy(name: str, site: Site, bootstrap: Path, admin_port: int) -> Child:
    command = [str(site.tools.envoy), "-c", str(bootstrap), "--concurrency", "1", "--disable-hot-restart"]
    child = Child(f"envoy-{name}", [*command, "--log-level", "warning"], site.workdir)
    wait_http(child, f"http://127.0.0.1:{admin_port}/ready")
    return child
