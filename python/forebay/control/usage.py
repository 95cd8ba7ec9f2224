"""The usage filter: token counts out of an answer, found by Envoy itself.

Owns: the filter's place in the configuration and its program, `usage.lua`. Must not know: what the counts mean.
On failure: an answer passes on untouched, and its cost is estimated.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from forebay.control.annotated import Script, typed

__all__ = ["USAGE_FILTER", "usage_filter", "usage_on_route"]

# The name of the filter, by which a route gives it its program.
USAGE_FILTER = "forebay.usage"
_PROGRAM = "usage"
_LUA = "envoy.extensions.filters.http.lua.v3"


def usage_filter() -> dict[str, Any]:
    """Give the filter of the listener; without a route that names the program it does nothing."""
    source = resources.files("forebay.control").joinpath("usage.lua").read_text(encoding="utf-8")
    return {
        "# name": "reads `usage` in streams and JSON answers into dynamic metadata. Only routes of model pools name\n"
        "the program, so an answer of the gateway, and any other pool's, runs nothing",
        "name": USAGE_FILTER,
        "typed_config": typed(
            f"{_LUA}.Lua", stat_prefix="usage", source_codes={_PROGRAM: {"inline_string": Script(source)}}
        ),
    }


def usage_on_route() -> dict[str, Any]:
    """Give what a route says of the filter to have it run."""
    return {USAGE_FILTER: typed(f"{_LUA}.LuaPerRoute", name=_PROGRAM)}
