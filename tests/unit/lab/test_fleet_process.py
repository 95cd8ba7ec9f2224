"""Fleets as processes: they say where they listen, answer, end with the block, and say why they did not start."""

from __future__ import annotations

import json
import os
import urllib.request

import pytest

from forebay.lab.demo_fleets import demo_fleets
from forebay.lab.fleet_process import FleetProcessError, fleet_process
from forebay.lab.fleet_spec import FleetSpec


def test_the_demo_fleets_run_and_end_with_the_block() -> None:
    spec = demo_fleets("pool-credential")["small-fleet"]
    with fleet_process(spec) as fleet:
        with urllib.request.urlopen(f"{fleet.base_url}/health", timeout=10) as answer:
            assert json.load(answer) == {"status": "ok", "name": "small-fleet"}
        os.kill(fleet.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(fleet.pid, 0)


def test_a_fleet_that_cannot_listen_says_why() -> None:
    taken = FleetSpec(name="second")
    with (
        fleet_process(FleetSpec(name="first")) as first,
        pytest.raises(FleetProcessError, match=r"`second` did not start(?s:.*)address already in use"),
        fleet_process(taken, first.port),
    ):
        pass
