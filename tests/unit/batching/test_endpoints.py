"""Which servers there are, and which one is asked about a model."""

from __future__ import annotations

from forebay.batching.endpoints import Endpoint, EndpointTable

LANE = ("echo", "")


class Table(EndpointTable[str]):
    """A table of servers whose links are their names, at a time that stands still."""

    def __init__(self, *names: str) -> None:
        self.closed: list[str] = []
        super().__init__(lambda: 10, self.closed.append)
        self.servers = tuple(Endpoint(name, name) for name in names)
        self.replace({"pool": self.servers})


def test_a_server_that_is_away_is_passed_over_unless_all_are() -> None:
    table = Table("a", "b")
    first, second = table.servers
    assert table.best("pool", LANE) is first
    first.health.failed(5)
    assert table.best("pool", LANE) is second
    second.health.failed(5)
    assert table.best("pool", LANE) is first


def test_a_pool_without_servers_gives_none() -> None:
    assert Table().best("pool", LANE) is None
    assert Table("a").best("nowhere", LANE) is None


def test_a_server_that_goes_is_closed_and_one_that_stays_in_any_pool_is_not() -> None:
    table = Table("a", "b")
    first, _ = table.servers
    table.replace({"pool": (Endpoint("c", "c"),), "other": (first, first)})
    assert table.closed == ["b"]
    assert [each.link for each in table.all()] == ["c", "a"]


def test_what_is_noted_changes_the_standing() -> None:
    table = Table("a", "b")
    first, _ = table.servers
    table.note(lambda: first.health.model_away(LANE))
    assert [how.usable for _, how in table.standings("pool", LANE)] == [False, True]
    assert all(how.usable for _, how in table.standings("pool", ("other", "")))
