"""Usage in event streams, split at any byte: what is noted, and what the client gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envoy_rig import until
from usage_rig import Got, UsageSite, usage_site
from usage_shapes import SHAPES, USAGE, Shape
from usage_upstream import streamed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageSite]:
    with usage_site(tmp_path_factory.mktemp("usage")) as site:
        yield site


def pieces(stream: bytes, cuts: Any) -> list[bytes]:
    return [stream[start:end] for start, end in pairwise([0, *sorted(cuts), len(stream)])]


def ask(site: UsageSite, shape: Shape, cuts: Any, **headers: str) -> Got:
    return site.ask(streamed(pieces(shape.stream, cuts)), **headers)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_read_whole_and_byte_by_byte(site: UsageSite, name: str) -> None:
    shape = SHAPES[name]
    for cuts in ((), range(1, len(shape.stream))):
        kept, dropped = ask(site, shape, cuts), ask(site, shape, cuts, x_drop="1")
        assert kept.body == shape.stream
        assert dropped.body == shape.without_extra
        assert site.noted(kept.name) == site.noted(dropped.name) == shape.noted


def test_a_stream_may_be_split_at_every_byte(site: UsageSite) -> None:
    shapes = [SHAPES["chat"], SHAPES["chat, CRLF"]]
    asked = []
    for shape in shapes:
        for cut in range(1, len(shape.stream)):
            got = ask(site, shape, (cut,), x_drop="1")
            assert got.body == shape.without_extra, cut
            asked.append((got.name, shape, cut))
    for name, shape, cut in asked:
        assert site.noted(name) == shape.noted, cut


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(SHAPES)), drop=st.booleans())
def test_streams_may_be_split_anyhow(site: UsageSite, data: st.DataObject, name: str, drop: bool) -> None:  # noqa: FBT001
    shape = SHAPES[name]
    cuts = data.draw(st.sets(st.integers(1, len(shape.stream) - 1), max_size=12))
    got = ask(site, shape, cuts, **({"x_drop": "1"} if drop else {}))
    assert got.body == (shape.without_extra if drop else shape.stream)
    assert site.noted(got.name) == shape.noted


# Events, whether each is the extra one, and what it leaves.
EVENTS: list[tuple[str, bool, dict[str, str]]] = [
    ('data: {"choices":[{"delta":{"content":"a"}}]}\n\n', False, {}),
    ('data:{"choices":[],"usage":{"a":1}}\n\n', True, {"last": '{"a":1}'}),
    ('data: {"usage":{"b":{"c":2}},"choices":[]}\n\n', True, {"last": '{"b":{"c":2}}'}),
    ('event: x\ndata: {"choices":[{"usage":{}}],"usage":{"d":3}}\n\n', False, {"so_far": '{"d":3}'}),
    ('data: {"type":"message_start","message":{"usage":{"e":4}}}\n\n', False, {"start": '{"e":4}'}),
    ("data: [DONE]\n\n", False, {}),
    (": comment\n\n", False, {}),
    ('data: {"choices":[],"usage":null}\n\n', False, {}),
]


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(["\n", "\r\n", "\r"])), min_size=1, max_size=8),
    splits=st.sets(st.integers(1, 400), max_size=40),
)
def test_any_events_in_any_order_with_any_breaks(site: UsageSite, events: Any, splits: set[int]) -> None:
    stream = rest = ""
    noted: dict[str, str] = {}
    for (text, extra, leaves), breaks in events:
        written = text.replace("\n", breaks)
        stream += written
        rest += "" if extra else written
        noted |= leaves
    cuts = {cut for cut in splits if cut < len(stream)}
    kept = site.ask(streamed(pieces(stream.encode(), cuts)))
    dropped = site.ask(streamed(pieces(stream.encode(), cuts)), x_drop="1")
    assert kept.body == stream.encode()
    assert dropped.body == rest.encode()
    assert site.noted(kept.name) == site.noted(dropped.name) == noted


def test_only_what_may_be_the_extra_event_is_held_back(site: UsageSite) -> None:
    """The client has every other piece before the upstream sends the next."""
    begun = b'data: {"id":"c","choices":[{"delta":{"con'
    held = b'data: {"choices":[],"usage":'
    steps = [
        (begun, begun),
        (b'tent":"a"}}]}\n', b'tent":"a"}}]}\n'),
        (b"\n: comm", b"\n"),
        (b"ent\n\n", b": comment\n\n"),
        (held, b""),
        (USAGE.encode() + b"}\n\ndata: [DO", b"data: [DO"),
        (b"NE]\n\n", b"NE]\n\n"),
    ]
    answering = streamed([piece for piece, _ in steps])
    answering.go_on = threading.Semaphore(0)
    name = site.play(answering)
    site.connection.request("POST", f"/v1/chat/completions?play={name}", b"{}", {"x-drop": "1"})
    response = site.connection.getresponse()
    for _, gets in steps:
        if gets:
            assert response.read(len(gets)) == gets
        answering.go_on.release()
    answering.go_on.release()
    assert response.read() == b""
    assert site.noted(name) == {"last": USAGE}


def test_an_event_that_is_too_long_passes_and_the_next_is_read(site: UsageSite) -> None:
    long = b'data: {"choices":[],"x":"' + b"y" * 100_000 + b'","usage":null}\n\n'
    rest = f'data: {{"choices":[],"usage":{USAGE}}}\n\n'.encode()
    stream = long + rest
    for cuts in (
        range(30_000, len(stream), 30_000),
        (1, 2, len(long) - 1),
        (70_000, len(long) - 2),
        (65_600, len(long)),
    ):
        got = site.ask(streamed(pieces(stream, cuts)), x_drop="1")
        assert got.body == long
        assert site.noted(got.name) == {"last": USAGE}


def test_a_large_chunk_of_many_events_is_read(site: UsageSite) -> None:
    word = f'data: {{"choices":[{{"delta":{{"content":"a"}}}}],"usage":{USAGE}}}\n\n'.encode()
    extra = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    got = site.ask(streamed([word * 2_000 + extra]), x_drop="1")
    assert got.body == word * 2_000
    assert site.noted(got.name) == {"so_far": USAGE, "last": '{"prompt_tokens":1}'}


def test_the_time_of_the_first_event_is_noted(site: UsageSite) -> None:
    """Not that of a comment before it."""
    answering = streamed([b": wait\n\n", b"da", b"ta: {}\n\n"])
    answering.go_on = threading.Semaphore(0)
    name = site.play(answering)
    site.connection.request("POST", f"/v1/chat/completions?play={name}", b"{}")
    response = site.connection.getresponse()
    assert response.read(8) == b": wait\n\n"
    answering.go_on.release(3)
    assert response.read() == b"data: {}\n\n"
    entry = site.entry(name)
    common = entry.common_properties
    begun_us = common.start_time.seconds * 1_000_000 + common.start_time.nanos // 1_000
    first_us = int(site.metadata(name)["first_us"])
    last_us = begun_us + common.time_to_last_upstream_rx_byte.ToMicroseconds()
    assert begun_us + common.time_to_first_upstream_rx_byte.ToMicroseconds() < first_us <= last_us + 1_000_000
    silent = site.ask(streamed([b": only a comment, data: none\n\n"]))
    assert site.metadata(silent.name) == {}


def test_a_client_that_goes_away_leaves_what_was_there(site: UsageSite) -> None:
    shape = SHAPES["messages"]
    answering = streamed([shape.events[0][0], *(event for event, _ in shape.events[1:])])
    answering.go_on = threading.Semaphore(0)
    name = site.play(answering)
    site.connection.request("POST", f"/v1/messages?play={name}", b"{}", {"x-script": "anthropic"})
    response = site.connection.getresponse()
    assert response.read(len(shape.events[0][0])) == shape.events[0][0]
    response.close()
    site.connection.close()
    answering.go_on.release(len(answering.pieces))
    assert site.noted(name) == {"start": shape.noted["start"]}


def test_an_upstream_that_breaks_off_leaves_what_was_there(site: UsageSite) -> None:
    shape = SHAPES["every chunk"]
    begun = shape.events[0][0]
    answering = streamed([begun, b'data: {"choices":[],"usage":{"a"'], end="reset")
    name = site.play(answering)
    site.connection.request("POST", f"/v1/chat/completions?play={name}", b"{}", {"x-drop": "1"})
    response = site.connection.getresponse()
    assert response.read(len(begun)) == begun
    with pytest.raises(Exception, match=r"IncompleteRead|reset"):
        response.read()
    site.connection.close()
    noted = site.noted(name)
    assert noted.keys() == {"so_far"}
    assert noted["so_far"] in begun.decode()
    until(answering.over.is_set, "the upstream is done")
