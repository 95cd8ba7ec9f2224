"""Owns forebay's rendered chain with filters taken out and ports of its own, to stand beside the chain that ships.

Must not know what the filters do.
On failure: a filter that is not in the rendered chain stops the run: a control that cuts nothing would measure nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.load.process import BenchError

# By their names in the rendered chain.
USAGE = "forebay.usage"
DECOMPRESS = "forebay.decompress"


def cut_chain(rendered: Path, out: Path, filters: Sequence[str], listener_port: int, admin_port: int) -> Path:
    """Writes the chain of `rendered` without `filters` into `out`; returns Envoy's configuration there."""
    out.mkdir(parents=True, exist_ok=True)
    files = {
        file.name: yaml.safe_load(file.read_text().replace(str(rendered.resolve()), str(out.resolve())))
        for file in rendered.glob("*.yaml")
    }
    bootstrap = files["envoy.yaml"]
    listener = bootstrap["static_resources"]["listeners"][0]
    listener["address"]["socket_address"]["port_value"] = listener_port
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = admin_port
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = _without(manager["http_filters"], filters)
    for table in files["routes.yaml"]["resources"]:
        for host in table["virtual_hosts"]:
            for route in host["routes"]:
                _uncover(route, filters)
    for name, document in files.items():
        (out / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return out / "envoy.yaml"


def _without(chain: list[dict[str, Any]], filters: Sequence[str]) -> list[dict[str, Any]]:
    missing = set(filters) - {entry["name"] for entry in chain}
    if missing:
        raise BenchError(f"the rendered chain has no filter `{min(missing)}`; bench/load/cut.py names it")
    return [entry for entry in chain if entry["name"] not in filters]


def _uncover(route: dict[str, Any], filters: Sequence[str]) -> None:
    own: dict[str, Any] = route.get("typed_per_filter_config", {})
    for name in filters:
        own.pop(name, None)
    if not own:
        route.pop("typed_per_filter_config", None)
