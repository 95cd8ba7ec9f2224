"""The demo's fleets: the first thing that a person tries is answered, and faults come all the same."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace

from forebay.lab.demo_fleets import demo_fleets
from forebay.lab.fleet import fleet_in_thread
from forebay.lab.fleet_spec import Latency

REQUESTS = 150
BODY = {"model": "small-chat", "temperature": 0, "messages": [{"role": "user", "content": "What is a forebay?"}]}


def test_the_first_requests_to_the_small_fleet_are_answered_and_some_later_ones_fail() -> None:
    spec = replace(demo_fleets("k")["small-fleet"], latency=Latency(time_scale=0.0))
    headers = {"authorization": "Bearer k", "content-type": "application/json"}
    statuses = []
    with fleet_in_thread(spec) as fleet:
        client = http.client.HTTPConnection(fleet.base_url.removeprefix("http://"))
        for _ in range(REQUESTS):
            client.request("POST", "/v1/chat/completions", json.dumps(BODY), headers)
            answer = client.getresponse()
            answer.read()
            statuses.append(answer.status)
        client.close()
    assert statuses[:20] == [200] * 20
    assert set(statuses) > {200}
