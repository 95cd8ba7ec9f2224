"""Owns the variants with a gateway: as it ships, with the books kept, and with usage filters taken out of the chain.

Must not know how load is sent or what is made of the numbers.
On failure: a gateway that does not get ready stops the run with the end of its log.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

from bench.load.cut import DECOMPRESS, USAGE, cut_chain
from bench.load.policy import Books, bench_key, write_policy
from bench.load.process import Child, free_port, wait_http
from bench.load.tools import require_release_core
from bench.load.variants import Site, Variant, start_envoy

# A policy of 100,000 keys takes a while to read.
_RENDER_S = 300


def start_forebay(site: Site) -> Variant:
    """What ships, without a ledger."""
    return _start_gateway("forebay", site, None, {})


def start_ledger(site: Site) -> Variant:
    """What ships, with prices, a ledger and two budgets; nothing is sent to a collector."""
    return _start_gateway("ledger", site, Books(site.workdir / "ledger" / "books"), {})


def start_accounted(site: Site) -> Variant:
    """What ships, with prices, a ledger, two budgets, and telemetry to a collector."""
    sink = Child("otlp-sink", [sys.executable, "-m", "bench.load.otlp_sink"], site.workdir)
    books = Books(site.workdir / "accounted" / "books", int(sink.ready_line()["port"]))
    return _start_gateway("accounted", site, books, {"sink": sink})


def start_no_usage(site: Site, forebay: Variant) -> Variant:
    """The gateway of `forebay` behind an Envoy whose chain has no usage filter."""
    return _start_cut("no_usage", site, forebay, [USAGE])


def start_spine(site: Site, forebay: Variant) -> Variant:
    """The gateway of `forebay` behind an Envoy whose chain has neither usage filter nor decompressors."""
    return _start_cut("spine", site, forebay, [USAGE, DECOMPRESS])


def _start_gateway(name: str, site: Site, books: Books | None, unpaid: dict[str, Child]) -> Variant:
    require_release_core()
    policy = write_policy(site.upstream_port, site.workdir / name, books)
    rendered = site.workdir / name / "envoy"
    forebay = [sys.executable, "-m", "forebay.cli"]
    render = Child(
        f"envoy-config-{name}", [*forebay, "envoy-config", str(policy.path), "--out", str(rendered)], site.workdir
    )
    if render.process.wait(timeout=_RENDER_S) != 0:
        raise render.failure("failed")
    serve = [*forebay, "serve", "--policy", str(policy.path), "--envoy-dir", str(rendered)]
    gateway = Child(f"gateway-{name}", serve, site.workdir)
    gateway.ready_line()
    envoy = start_envoy(name, site, rendered / "envoy.yaml", policy.envoy_admin_port)
    variant = Variant(
        name,
        policy.listener_port,
        policy.envoy_admin_port,
        {"envoy": envoy, "service": gateway},
        policy.gateway_admin_port,
        unpaid=unpaid,
        rendered=rendered,
        books=books.directory if books else None,
    )
    _wait_served(variant)
    return variant


def _start_cut(name: str, site: Site, forebay: Variant, filters: list[str]) -> Variant:
    listener_port, admin_port = free_port(), free_port()
    bootstrap = cut_chain(forebay.rendered or Path(), site.workdir / name / "envoy", filters, listener_port, admin_port)
    envoy = start_envoy(name, site, bootstrap, admin_port)
    # The gateway serves one variant at a time, so its CPU in a slice is this variant's.
    children = {"envoy": envoy, "service": forebay.children["service"]}
    variant = Variant(name, listener_port, admin_port, children, forebay.gateway_admin)
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
