"""Values that fit a JSON schema, for tool arguments and structured answers.

Owns a small subset of JSON Schema: objects, arrays, enums, scalars, local references. Must not know what they are for.
A schema that it does not understand gives a string; it never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

_MAX_DEPTH = 8


def value_for(schema: object, words: list[str], random: Random) -> Any:
    """A value of the schema's type, its strings taken from `words`."""
    return _value(schema, schema, words or ["value"], random, 0)


def _value(schema: object, root: object, words: list[str], random: Random, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return random.choice(words)
    if "$ref" in schema:
        return _value(_resolve(str(schema["$ref"]), root), root, words, random, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return random.choice(schema["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(union), list) and schema[union]:
            return _value(schema[union][0], root, words, random, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        items = properties.items() if isinstance(properties, Mapping) else ()
        return {str(name): _value(item, root, words, random, depth + 1) for name, item in items}
    if kind == "array":
        count = max(int(schema.get("minItems", 0)), random.randint(1, 3))
        return [_value(schema.get("items"), root, words, random, depth + 1) for _ in range(count)]
    if kind == "integer":
        return random.randint(int(schema.get("minimum", 1)), int(schema.get("maximum", 100)))
    if kind == "number":
        return round(random.uniform(float(schema.get("minimum", 0)), float(schema.get("maximum", 100))), 2)
    if kind == "boolean":
        return random.random() < 0.5
    if kind == "null":
        return None
    return "2026-05-14" if schema.get("format") == "date" else random.choice(words)


def _resolve(reference: str, root: object) -> object:
    node = root
    for step in reference.removeprefix("#/").split("/"):
        node = node.get(step) if isinstance(node, Mapping) else None
    return node
