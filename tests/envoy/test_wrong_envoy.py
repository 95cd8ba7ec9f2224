"""An Envoy that is not configured as we render it: nothing passes undecided, and the log says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chain import NOTHING, Chain
from envoy_rig import until

GOOD: dict[str, Any] = {"model": "small-chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


def altered(**fields: Any) -> Callable[[Path], None]:
    """Changes the decide filter in the rendered bootstrap."""

    def change(folder: Path) -> None:
        path = folder / "envoy.yaml"
        config = yaml.safe_load(path.read_text())
        manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        decide = next(f for f in manager["http_filters"] if f["name"] == "forebay.decide")["typed_config"]
        mode = fields.pop("request_body_mode", None)
        if mode is not None:
            decide["processing_mode"]["request_body_mode"] = mode
        decide.update(fields)
        path.write_text(yaml.safe_dump(config))

    return change


def assert_nothing_passes(chain: Chain, status: int, code: str) -> None:
    bodies = (GOOD, GOOD | {"metadata": {"note": "x" * 300_000}}, GOOD | {"stream": True})
    for body in bodies:
        answer = chain.ask(body, **{"x-forebay-internal-pool": "small-fleet", "x-forebay-internal-capture": "1"})
        assert (answer.status, answer.code) == (status, code)
    assert chain.small.bodies == []
    chain.assert_quiet(NOTHING)


@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED_PARTIAL"])
def test_another_body_mode_is_refused_and_said(sites: Callable[..., Chain], mode: str) -> None:
    chain = sites(rendered=altered(request_body_mode=mode, allow_mode_override=False))
    assert_nothing_passes(chain, 500, "internal_error")
    until(lambda: '"event":"wrong_body_mode"' in chain.gateway.said(), "the log says so")
    # What needs no body is decided as ever.
    assert chain.send("GET", "/v1/models", None).status == 200
    assert chain.send("GET", "/v1/models", None, None).status == 401


def test_an_override_that_is_not_allowed_is_refused_and_said(sites: Callable[..., Chain]) -> None:
    chain = sites(rendered=altered(allow_mode_override=False))
    assert_nothing_passes(chain, 503, "undecided")
    until(lambda: '"event":"undecided"' in chain.gateway.said(), "the log says so")
    assert "allow_mode_override" in chain.gateway.said()


def test_a_filter_that_does_not_say_its_name_is_refused_and_said(sites: Callable[..., Chain]) -> None:
    service = {"envoy_grpc": {"cluster_name": "forebay"}}
    chain = sites(rendered=altered(grpc_service=service))
    assert_nothing_passes(chain, 503, "gateway_unavailable")
    until(lambda: '"event":"unknown_filter"' in chain.gateway.said(), "the log says so")
