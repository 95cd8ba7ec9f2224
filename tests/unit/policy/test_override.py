"""Fields set from outside the file."""

from __future__ import annotations

import pytest

from forebay.errors import PolicyError
from forebay.policy import load_text, override

BASE = """\
name: a
gateway: {max_body_bytes: 1024}
pools:
- {name: p, protocol: HTTP, endpoints: [{address: "a:1"}]}
"""


def test_fields_are_set_and_the_rest_stays() -> None:
    base = load_text(BASE)
    policy = override(base, ["gateway.workers=4", "pools[0].endpoints[0].address=b:2", "pools[0].protocol=GRPC"])
    message = policy.message()
    assert (message.gateway.workers, message.gateway.max_body_bytes) == (4, 1024)
    assert message.pools[0].endpoints[0].address == "b:2"
    assert policy.line_of("pools[0].name") == 4
    assert base.message().gateway.workers == 0


def test_nothing_set_changes_nothing() -> None:
    base = load_text(BASE)
    assert override(base, []).message_bytes == base.message_bytes


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("gateway.workers", "write `path=value`"),
        ("gateway.worker=1", "did you mean `workers`?"),
        ("gateway.workers=many", "must be a whole number"),
        ("pools[1].name=x", "there is no element 1"),
        ("pools.name=x", "not a field of a list"),
        ("name.x=1", "not a field"),
        ("=1", "is no path"),
        ("gateway.workers=[", "bad_setting"),
    ],
)
def test_settings_that_do_not_fit(setting: str, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        override(load_text(BASE), [setting])
    assert said in str(refused.value)
