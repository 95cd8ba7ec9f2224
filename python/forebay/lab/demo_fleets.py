"""The two fleets of the demo: a small, quick model and a large, slow one, each with a few faults.

Owns their descriptions. Must not know ports or the policy; the model names are those of demo-policy.yaml beside it.
It cannot fail: it is data.
"""

from __future__ import annotations

from forebay.lab.fleet_spec import Faults, FleetSpec, Latency, LogNormal

# Four times as fast as the stated latencies, so that the whole demo takes seconds; the ratios stay.
TIME_SCALE = 0.25
# All request heads of a demo are kept, so that the search for leaked keys sees every one.
HEADERS_KEPT = 5000


def demo_fleets(credential: str) -> dict[str, FleetSpec]:
    """Specs by the name of the pool that each stands for.

    Answers have a median of 129 tokens and a 95th percentile of 480, as in published traces of conversations.
    """
    answers = LogNormal(129, 0.8)
    small = Latency(LogNormal(60, 0.35), LogNormal(2.0, 0.25), answers, tokens_per_event=4, time_scale=TIME_SCALE)
    large = Latency(LogNormal(180, 0.45), LogNormal(6.0, 0.25), answers, tokens_per_event=4, time_scale=TIME_SCALE)
    return {
        "small-fleet": FleetSpec(
            name="small-fleet",
            models=("small-chat", "small-embed"),
            seed=5,  # its first faults come late, so that the first thing that a person tries is answered
            latency=small,
            faults=Faults(failure_ratio=0.02),
            credential=credential,
            headers_kept=HEADERS_KEPT,
        ),
        "large-fleet": FleetSpec(
            name="large-fleet",
            models=("large-chat",),
            seed=12,
            latency=large,
            faults=Faults(failure_ratio=0.02, slow_ratio=0.05, slow_factor=4.0),
            credential=credential,
            headers_kept=HEADERS_KEPT,
        ),
    }
