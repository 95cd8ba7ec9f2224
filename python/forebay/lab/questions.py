"""The lab's questions: read from the package, checked, with the tools that some of them may call.

Owns the form of `questions.jsonl`. Must not know who asks or when.
A file that is not in order raises ValueError with the line; a question is never skipped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

Json = dict[str, Any]

KINDS = ("plain", "tools", "json", "long", "smalltalk")


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation up to the user's last turn.

    `weight` 6: asked six times as often as one of weight 1. `tools`: names in TOOLS.
    """

    id: str
    domain: str
    kind: str
    messages: tuple[Json, ...]
    weight: int
    tools: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The user's last turn."""
        return str(self.messages[-1]["content"])

    def request(self) -> Json:
        """The fields of a chat completion that this question decides."""
        fields: Json = {"messages": list(self.messages)}
        if self.tools:
            fields["tools"] = [TOOLS[name] for name in self.tools]
        if self.kind == "json":
            fields["response_format"] = {"type": "json_object"}
        return fields


def load_questions() -> tuple[Question, ...]:
    """All questions of the package. Raises ValueError."""
    text = resources.files("forebay.lab").joinpath("questions.jsonl").read_text(encoding="utf-8")
    found = tuple(_question(number, line) for number, line in enumerate(text.splitlines(), 1))
    if len({question.id for question in found}) != len(found):
        raise ValueError("questions.jsonl: two questions have the same id")
    return found


def _question(number: int, line: str) -> Question:
    try:
        value = json.loads(line)
        tools = tuple(value.pop("tools", ()))
        question = Question(**{**value, "messages": tuple(value["messages"]), "tools": tools})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"questions.jsonl, line {number}: {error}") from None
    if question.kind not in KINDS or question.weight < 1 or question.messages[-1]["role"] != "user":
        raise ValueError(f"questions.jsonl, line {number}: `{question.id}` has a wrong kind, weight or last turn")
    if not set(tools) <= set(TOOLS):
        raise ValueError(f"questions.jsonl, line {number}: `{question.id}` names an unknown tool")
    return question


def _tool(name: str, description: str, properties: Json, required: list[str]) -> Json:
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_TEXT: Json = {"type": "string"}
_DATE: Json = {"type": "string", "format": "date"}
_COUNT: Json = {"type": "integer", "minimum": 1, "maximum": 9}

TOOLS: dict[str, Json] = {
    "get_weather": _tool(
        "get_weather",
        "Weather forecast for a city and a day",
        {"city": _TEXT, "day": _DATE, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        ["city"],
    ),
    "search_flights": _tool(
        "search_flights",
        "Searches flights between two airports",
        {"origin": _TEXT, "destination": _TEXT, "departure": _DATE, "return": _DATE, "adults": _COUNT},
        ["origin", "destination", "departure"],
    ),
    "get_order_status": _tool(
        "get_order_status", "Looks up the status of an order by its number", {"order_number": _TEXT}, ["order_number"]
    ),
    "convert_currency": _tool(
        "convert_currency",
        "Converts an amount between currencies, pounds, euro, yen and others, at the rate of today",
        {"amount": {"type": "number", "minimum": 0}, "from": _TEXT, "to": _TEXT},
        ["amount", "from", "to"],
    ),
    "create_event": _tool(
        "create_event",
        "Creates or moves an event in the calendar",
        {"title": _TEXT, "date": _DATE, "start": _TEXT, "minutes": {"type": "integer", "minimum": 15, "maximum": 480}},
        ["title", "date", "start"],
    ),
    "query_sales": _tool(
        "query_sales",
        "Queries sales and revenue by product, store, country and period",
        {
            "group_by": {"type": "string", "enum": ["product", "store", "country", "week"]},
            "from": _DATE,
            "to": _DATE,
            "filters": {"type": "array", "items": _TEXT},
        },
        ["group_by", "from", "to"],
    ),
    "find_recipe": _tool(
        "find_recipe",
        "Finds a recipe by ingredients and diet",
        {"ingredients": {"type": "array", "items": _TEXT}, "max_minutes": {"type": "integer"}, "diet": _TEXT},
        ["ingredients"],
    ),
    "open_ticket": _tool(
        "open_ticket",
        "Opens a support ticket",
        {"subject": _TEXT, "priority": {"type": "string", "enum": ["low", "normal", "high"]}},
        ["subject", "priority"],
    ),
}
