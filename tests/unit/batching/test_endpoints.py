"""Which server takes the next batch."""

from __future__ import annotations

from forebay.batching.endpoints import REST_NS, Endpoint, EndpointGroup

LANE = ("echo", "")


def group(*addresses: str) -> EndpointGroup:
    return EndpointGroup([Endpoint(address) for address in addresses])


def test_the_server_with_the_fewest_rows_is_picked() -> None:
    pool = group("a:1", "b:1")
    first = pool.pick(LANE, 2, 0)
    assert first is not None
    with first.holding(LANE, 8):
        second = pool.pick(LANE, 2, 0)
        assert second is not None
        assert second is not first
        with second.holding(LANE, 9):
            assert pool.pick(LANE, 2, 0) is first
    assert (first.rows, first.batches) == (0, {})


def test_a_server_with_its_batches_of_one_model_comes_after_those_with_room() -> None:
    pool = group("a:1", "b:1")
    first, second = pool.endpoints
    with first.holding(LANE, 1), first.holding(LANE, 1), second.holding(LANE, 9):
        assert pool.pick(LANE, 2, 0) is second
        assert pool.pick(("other", ""), 2, 0) is first
        assert pool.pick(LANE, None, 0) is first
        with second.holding(LANE, 9):
            assert pool.pick(LANE, 2, 0) is first


def test_a_server_that_was_away_rests_unless_all_do() -> None:
    pool = group("a:1", "b:1")
    first, second = pool.endpoints
    first.rest(now_ns=5)
    with second.holding(LANE, 100):
        assert pool.pick(LANE, 2, 6) is second
        assert pool.pick(LANE, 2, 5 + REST_NS) is first
        second.rest(now_ns=5)
        assert pool.pick(LANE, 2, 6) is first


def test_a_pool_without_servers_picks_none() -> None:
    assert group().pick(LANE, 2, 0) is None


def test_what_was_held_is_given_back_when_the_call_fails() -> None:
    endpoint = Endpoint("a:1")
    try:
        with endpoint.holding(LANE, 3):
            raise OSError
    except OSError:
        pass
    assert endpoint.rows == 0
