"""The simulated fleet over real loopback HTTP, through the `openai` client and raw sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from forebay.lab.fleet import Fleet, fleet_in_thread, running_fleet
from forebay.lab.fleet_spec import Faults, FleetSpec, FleetSpecError, Latency, LogNormal

AT_ONCE = Latency(time_scale=0.0)
SPEC = FleetSpec(name="small", models=("small-chat", "small-embed"), latency=AT_ONCE, credential="pool-credential")
QUESTION = [{"role": "user", "content": "How do I dispute a card payment that I do not recognise?"}]
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_in_thread(SPEC) as running:
        yield running
        assert running.server.errors == []


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[Any]:
    with client_of(fleet) as opened:
        yield opened


def client_of(fleet: Fleet) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fleet.base_url}/v1", api_key="pool-credential", max_retries=0)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def chat(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "small-chat", "messages": QUESTION, **fields})


def fails(client: Any) -> bool:
    try:
        chat(client)
    except openai.InternalServerError as error:
        return error.status_code in (500, 503)
    return False


def test_the_same_request_gets_the_same_answer_and_another_gets_another(client: Any) -> None:
    first, second = chat(client), chat(client)
    other = chat(client, messages=[{"role": "user", "content": "How do I freeze my card?"}])
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.usage == second.usage
    assert other.choices[0].message.content != first.choices[0].message.content
    assert first.choices[0].finish_reason == "stop"
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens


def test_a_stream_says_what_the_plain_answer_says(client: Any) -> None:
    plain = chat(client, n=2)
    events = list(chat(client, n=2, stream=True, stream_options={"include_usage": True}))
    for index in (0, 1):
        parts = [entry.delta.content or "" for event in events for entry in event.choices if entry.index == index]
        assert "".join(parts) == plain.choices[index].message.content
    assert events[-1].usage == plain.usage
    assert events[-1].choices == []
    reasons = [entry.finish_reason for event in events for entry in event.choices if entry.finish_reason]
    assert reasons == ["stop", "stop"]


def test_without_the_option_no_event_carries_usage(client: Any) -> None:
    assert all(event.usage is None for event in chat(client, stream=True))


def test_max_tokens_cuts_and_says_so(client: Any) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = chat(client, **{name: 7})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 7


def test_stop_cuts_before_the_text(client: Any) -> None:
    whole = chat(client).choices[0].message.content
    word = whole.split()[5]
    cut = chat(client, stop=[word]).choices[0]
    assert cut.message.content == whole[: whole.index(word)]
    assert cut.finish_reason == "stop"


def test_a_matching_question_calls_the_tool_and_its_result_gets_a_text(client: Any) -> None:
    asked = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    choice = chat(client, messages=asked, tools=[WEATHER_TOOL]).choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "19 degrees"}
    after = [*asked, choice.message.model_dump(exclude_none=True), result]
    assert chat(client, messages=after, tools=[WEATHER_TOOL]).choices[0].finish_reason == "stop"
    assert chat(client, tools=[WEATHER_TOOL]).choices[0].finish_reason == "stop"
    assert chat(client, tools=[WEATHER_TOOL], tool_choice="required").choices[0].finish_reason == "tool_calls"


def test_a_streamed_tool_call_joins_to_the_same_arguments(client: Any) -> None:
    asked = {"messages": [{"role": "user", "content": "What is the weather in Lisbon?"}], "tools": [WEATHER_TOOL]}
    plain = chat(client, **asked).choices[0].message.tool_calls[0]
    deltas = [event.choices[0].delta for event in chat(client, stream=True, **asked)]
    calls = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert calls[0].id == plain.id
    assert calls[0].function.name == "get_weather"
    assert "".join(call.function.arguments for call in calls) == plain.function.arguments


def test_a_json_schema_is_met(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"amount": {"type": "number"}, "lines": {"type": "array", "items": {"type": "string"}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": schema}}
    value = json.loads(chat(client, response_format=form).choices[0].message.content)
    assert isinstance(value["amount"], (int, float))
    assert all(isinstance(line, str) for line in value["lines"])
    assert isinstance(
        json.loads(chat(client, response_format={"type": "json_object"}).choices[0].message.content), dict
    )


def test_text_completions_plain_and_streamed(client: Any) -> None:
    plain = client.completions.create(model="small-chat", prompt=["Once upon", "A time"], max_tokens=9)
    assert [len(choice.text) > 0 for choice in plain.choices] == [True, True]
    assert plain.usage.completion_tokens == 18
    events = client.completions.create(model="small-chat", prompt="Once upon", max_tokens=9, stream=True)
    assert "".join(entry.text for event in events for entry in event.choices) == plain.choices[0].text


def test_embeddings_are_unit_vectors_that_depend_on_the_text(client: Any) -> None:
    packed = client.embeddings.create(model="small-embed", input=["a card", "a boat", "a card"])
    first, second, third = (item.embedding for item in packed.data)
    assert first == third
    assert first != second
    assert sum(value * value for value in first) == pytest.approx(1.0, abs=1e-5)
    plain = client.embeddings.create(model="small-embed", input="a card", encoding_format="float", dimensions=8)
    assert len(plain.data[0].embedding) == 8
    assert plain.usage.prompt_tokens == 2


def test_models_and_health(client: Any, fleet: Fleet) -> None:
    assert [card.id for card in client.models.list()] == ["small-chat", "small-embed"]
    assert get(f"{fleet.base_url}/health") == {"status": "ok", "name": "small"}


def test_errors_are_of_openai_types(client: Any, fleet: Fleet) -> None:
    with pytest.raises(openai.NotFoundError, match="large-chat") as refused:
        chat(client, model="large-chat")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="messages"):
        chat(client, messages=[])
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        chat(client, max_tokens=0)
    with pytest.raises(openai.AuthenticationError):
        chat(client.with_options(api_key="somebody-else"))
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="small-chat", prompt="hello")


def test_stats_count_what_was_served_and_headers_show_what_was_told() -> None:
    with fleet_in_thread(SPEC) as fleet:
        url = f"{fleet.base_url}/v1"
        with openai.OpenAI(base_url=url, api_key="pool-credential", default_headers={"x-seen": "yes"}) as client:
            plain = chat(client)
            list(chat(client, stream=True))
        stats = get(f"{fleet.base_url}/lab/stats")
        assert (stats["requests"], stats["completed"], stats["streamed"], stats["in_flight"]) == (2, 2, 1, 0)
        assert stats["prompt_tokens"] == 2 * plain.usage.prompt_tokens
        assert stats["completion_tokens"] == 2 * plain.usage.completion_tokens
        seen = get(f"{fleet.base_url}/lab/headers")
        assert len(seen) == 2
        assert ["x-seen", "yes"] in seen[0]["headers"]
        assert ["authorization", "Bearer pool-credential"] in seen[0]["headers"]


def test_failures_are_drawn_and_can_be_switched_at_run_time() -> None:
    spec = FleetSpec(models=("small-chat",), latency=AT_ONCE, faults=Faults(failure_ratio=0.5), seed=3)
    with fleet_in_thread(spec) as fleet, client_of(fleet) as client:
        failed = sum(fails(client) for _ in range(40))
        assert failed == fleet.stats.failures
        assert 10 <= failed <= 30
        body = json.dumps({"failure_ratio": 1.0, "failure_statuses": [429]}).encode()
        change = urllib.request.Request(f"{fleet.base_url}/lab/faults", body, method="PUT")
        urllib.request.urlopen(change, timeout=10).close()
        with pytest.raises(openai.RateLimitError):
            chat(client)


def test_a_reset_cuts_a_stream_in_its_middle() -> None:
    spec = FleetSpec(models=("small-chat",), latency=AT_ONCE, faults=Faults(reset_ratio=1.0))
    with fleet_in_thread(spec) as fleet, client_of(fleet) as client:
        seen: list[Any] = []
        stream = chat(client, stream=True)
        with pytest.raises(Exception, match=r"peer closed|reset|incomplete|Connection"):
            seen.extend(stream)
        assert all(entry.finish_reason is None for event in seen for entry in event.choices)
        with pytest.raises(openai.APIConnectionError):
            chat(client)
        assert fleet.stats.resets == 2
        assert fleet.server.errors == []


def test_a_client_that_leaves_is_counted_and_stops_the_work() -> None:
    latency = Latency(ttft_ms=LogNormal(0.0), gap_ms=LogNormal(3_600_000.0))

    async def scenario() -> Fleet:
        async with running_fleet(FleetSpec(models=("small-chat",), latency=latency)) as fleet:
            body = json.dumps({"model": "small-chat", "messages": QUESTION, "stream": True}).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", fleet.server.port)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await reader.readuntil(b"data: ")
            writer.close()
            await writer.wait_closed()
            while fleet.stats.aborted == 0:
                await asyncio.sleep(0)
            return fleet

    fleet = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert (fleet.stats.aborted, fleet.stats.completed, fleet.stats.in_flight) == (1, 0, 0)


def test_pipelined_and_split_requests_are_answered_in_order(fleet: Fleet) -> None:
    whole = (
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 2
        + b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", fleet.server.port), timeout=10) as raw:
        for offset in range(0, len(whole), 7):
            raw.sendall(whole[offset : offset + 7])
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.index(b"HTTP/1.1 404") > received.rindex(b"HTTP/1.1 200")


def test_what_is_not_http_is_refused(fleet: Fleet) -> None:
    with socket.create_connection(("127.0.0.1", fleet.server.port), timeout=10) as raw:
        raw.sendall(b"hello?\r\n\r\n")
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 400")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(
            urllib.request.Request(f"{fleet.base_url}/lab/faults", b'{"chaos": 1}', method="PUT"), timeout=10
        )


def test_a_spec_survives_json_and_a_wrong_one_names_the_field() -> None:
    spec = FleetSpec(models=("a", "b"), latency=Latency(ttft_ms=LogNormal(180, 0.5)), faults=Faults(slow_ratio=0.1))
    assert FleetSpec.from_json(spec.to_json()) == spec
    for wrong, path in (
        ('{"modles": ["a"]}', "spec.modles"),
        ('{"latency": {"ttft_ms": {"median": "soon"}}}', "spec.latency.ttft_ms.median"),
        ('{"models": []}', "spec.models"),
        ('{"faults": {"failure_ratio": -1}}', "spec.faults.failure_ratio"),
        ('{"latency": 3}', "spec.latency"),
    ):
        with pytest.raises(FleetSpecError, match=path):
            FleetSpec.from_json(wrong)
    assert "secret" not in repr(FleetSpec(credential="secret"))
