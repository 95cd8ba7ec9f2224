"""Compressed answers of model pools, opened so that their usage can be read.

Owns: which content encodings are undone, within which bounds. Must not know: what stands in an answer.
On failure: an encoding that is not known here passes on as it is, and the answer's cost is estimated.

Model pools are asked for no encoding (the route removes `accept-encoding`), so this is for those that compress all the
same. The client then gets the plain answer, without `content-encoding` and `content-length`.
"""

from __future__ import annotations

from typing import Any

from forebay.control.annotated import typed

__all__ = ["DECOMPRESS_FILTER", "decompressors", "decompressors_on_route"]

# The name of the filter, by which a route says which encodings it undoes.
DECOMPRESS_FILTER = "forebay.decompress"

_LIBRARY = "envoy.extensions.compression"
_MATCHING = "envoy.extensions.common.matching.v3"


def decompressors() -> dict[str, Any]:
    """Give the filter of the listener; without a route that says which encodings, it undoes none."""
    skip = typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    return {
        "# name": "only routes of model pools say which encodings; Envoy asks the route that decide chose. Composite:\n"
        "an answer that is not compressed passes no decompressor",
        "name": DECOMPRESS_FILTER,
        "typed_config": typed(
            f"{_MATCHING}.ExtensionWithMatcher",
            extension_config={
                "name": "composite",
                "typed_config": typed("envoy.extensions.filters.http.composite.v3.Composite"),
            },
            xds_matcher=_by_encoding({"identity": {"action": {"name": "skip", "typed_config": skip}}}),
        ),
    }


def decompressors_on_route() -> dict[str, Any]:
    """Give what a route says of the filter to have gzip and Brotli undone."""
    gzip = typed(
        f"{_LIBRARY}.gzip.decompressor.v3.Gzip",
        **{
            "# window_bits": "the largest; the default, 12, refuses what most servers send",
            "window_bits": 15,
            "chunk_size": 16_384,
            "# max_inflate_ratio": "what a few bytes may become; an answer beyond it is cut off. Streams reach 20;\n"
            "the default, 100, is less than a repetitive JSON body",
            "max_inflate_ratio": 1_000,
        },
    )
    brotli = typed(f"{_LIBRARY}.brotli.decompressor.v3.Brotli", chunk_size=16_384)
    matcher = _by_encoding({"gzip": _on("gzip", gzip), "x-gzip": _on("gzip", gzip), "br": _on("brotli", brotli)})
    return {DECOMPRESS_FILTER: typed(f"{_MATCHING}.ExtensionWithMatcherPerRoute", xds_matcher=matcher)}


def _by_encoding(actions: dict[str, Any]) -> dict[str, Any]:
    header = typed("envoy.type.matcher.v3.HttpResponseHeaderMatchInput", header_name="content-encoding")
    tree = {"input": {"name": "encoding", "typed_config": header}, "exact_match_map": {"map": actions}}
    return {"matcher_tree": tree}


def _on(name: str, library: dict[str, Any]) -> dict[str, Any]:
    decompressor = typed(
        "envoy.extensions.filters.http.decompressor.v3.Decompressor",
        **{
            "decompressor_library": {"name": name, "typed_config": library},
            "request_direction_config": {
                "advertise_accept_encoding": False,
                "common_config": {"enabled": {"default_value": False, "runtime_key": "forebay.decompress_requests"}},
            },
            "# response_direction_config": "event streams often say `no-transform`, to keep proxies from compressing",
            "response_direction_config": {"common_config": {"ignore_no_transform_header": True}},
        },
    )
    action = typed(
        "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction",
        typed_config={"name": name, "typed_config": decompressor},
    )
    return {"action": {"name": name, "typed_config": action}}
