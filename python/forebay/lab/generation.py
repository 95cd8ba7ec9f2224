"""From a request to finished choices and their usage, as a model of the fleet would answer.

Owns which kind of answer it is (text, tool call, structured), its length and where it ends. Must not know HTTP or time.
A request that is wrong raises Refusal.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from hashlib import blake2b
from random import Random

import numpy as np

from forebay.lab import openai_shapes as shapes
from forebay.lab.fleet_spec import Accounting, LogNormal
from forebay.lab.openai_shapes import Choice, Generated, Json, Refusal, Usage
from forebay.lab.schema_values import value_for
from forebay.lab.writing import answer, pieces, random_for, token_count, topics

MESSAGE_OVERHEAD_TOKENS = 4
MAX_CHOICES = 16
QUOTED = '{"usage": {"prompt_tokens": 3, "completion_tokens": 999, "input_tokens": 5}} '


def chat(body: Json, lengths: LogNormal) -> Generated:
    """Answers a chat request. The same request gets the same answer, from any fleet. Raises Refusal."""
    turns = shapes.messages(body)
    question = next((shapes.content_text(m.get("content")) for m in reversed(turns) if m.get("role") == "user"), "")
    prompt_tokens = sum(MESSAGE_OVERHEAD_TOKENS + token_count(shapes.content_text(m.get("content"))) for m in turns)
    tools = body.get("tools") or []
    if tools:
        prompt_tokens += token_count(json.dumps(tools))
    default_limit = shapes.integer(body, "max_tokens", 0, 1)
    limit = shapes.integer(body, "max_completion_tokens", default_limit, 1)
    called = _called_tool(body, turns, question, tools)
    identity = json.dumps([body.get("model"), turns, tools, body.get("response_format")], sort_keys=True)
    choices = []
    for index in range(_choice_count(body)):
        random = random_for(identity, str(index))
        if called is not None:
            choices.append(_tool_choice(called, question, random))
        else:
            text = _chat_text(body, question, lengths, random)
            choices.append(_ended(text, limit, shapes.stop_texts(body)))
    return Generated(choices, _usage(prompt_tokens, choices), limit)


def accounted(made: Generated, accounting: Accounting, *, cache_write_ratio: float) -> Generated:
    """The same answer with the tokens that a cache and thinking account for; thinking stays within the token limit."""
    usage = made.usage
    visible = usage.completion_tokens
    thought = int(visible * accounting.reasoning_ratio)
    if made.limit_tokens:
        thought = min(thought, made.limit_tokens * len(made.choices) - visible)
    cached = int(usage.prompt_tokens * accounting.cached_ratio)
    written = min(int(usage.prompt_tokens * cache_write_ratio), usage.prompt_tokens - cached)
    return replace(made, usage=Usage(usage.prompt_tokens, visible + thought, cached, written, thought))


def quoting(made: Generated) -> Generated:
    """The same answer with a usage object in its texts, as a model writes that explains one."""
    choices = []
    for choice in made.choices:
        said = pieces(choice.text if choice.tool_name else QUOTED + choice.text)
        kept = said[: made.limit_tokens or len(said)]
        reason = choice.finish_reason if len(kept) == len(said) else "length"
        choices.append(replace(choice, text="".join(kept), finish_reason=reason))
    return replace(made, choices=choices, usage=_usage(made.usage.prompt_tokens, choices))


def completion(body: Json, lengths: LogNormal) -> Generated:
    """Answers a text completion. Raises Refusal."""
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(item, str) for item in prompts):
        raise Refusal(400, "invalid_value", "`prompt` must be a string or a list of strings", "prompt")
    limit = shapes.integer(body, "max_tokens", 16, 1)
    choices = []
    for text in prompts:
        for index in range(_choice_count(body)):
            random = random_for(str(body.get("model")), text, str(index))
            said = " " + answer(text, round(lengths.draw(random)), random)
            choices.append(_ended(said, limit, shapes.stop_texts(body)))
    return Generated(choices, _usage(sum(map(token_count, prompts)), choices), limit)


def embeddings(body: Json, default_dims: int) -> Json:
    """Answers an embeddings request: unit vectors that depend on model and text alone. Raises Refusal."""
    value = body.get("input")
    inputs = [value] if isinstance(value, str) else value
    if isinstance(inputs, list) and inputs and all(isinstance(item, int) for item in inputs):
        inputs = [inputs]
    if not isinstance(inputs, list) or not inputs or not all(isinstance(item, (str, list)) and item for item in inputs):
        raise Refusal(400, "invalid_value", "`input` must be a string, a list of strings or of token lists", "input")
    dims = shapes.integer(body, "dimensions", default_dims, 1)
    data = []
    for index, item in enumerate(inputs):
        vector = _vector(f"{body.get('model')}\0{json.dumps(item)}", dims)
        packed = body.get("encoding_format") == "base64"
        shown = base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    count = sum(token_count(item) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "model": body.get("model"), "data": data, "usage": usage}


def _vector(text: str, dims: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(dims)
    unit: np.ndarray[tuple[int], np.dtype[np.float32]] = (vector / np.linalg.norm(vector)).astype("<f4")
    return unit


def _choice_count(body: Json) -> int:
    count = shapes.integer(body, "n", 1, 1)
    if count > MAX_CHOICES:
        raise Refusal(400, "invalid_value", f"`n` must be at most {MAX_CHOICES}, not {count}", "n")
    return count


def _chat_text(body: Json, question: str, lengths: LogNormal, random: Random) -> str:
    wanted_tokens = max(4, round(lengths.draw(random)))
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        schema = form.get("json_schema", {}).get("schema") if isinstance(form, dict) else None
        return json.dumps(value_for(schema, topics(question), random))
    if kind == "json_object":
        summary = answer(question, min(wanted_tokens, 40), random)
        return json.dumps({"summary": summary, "topics": topics(question), "confidence": round(random.random(), 2)})
    return answer(question, wanted_tokens, random)


def _called_tool(body: Json, turns: list[Json], question: str, tools: object) -> Json | None:
    """The function to call: forced by `tool_choice`, or because the question names what the tool is for."""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Refusal(400, "invalid_value", "`tools` must be a list of objects", "tools")
    functions: list[Json] = [tool["function"] for tool in tools if isinstance(tool.get("function"), dict)]
    choice = body.get("tool_choice", "auto")
    if not functions or choice == "none" or turns[-1].get("role") == "tool":
        return None
    if isinstance(choice, dict):
        wanted = choice.get("function", {}).get("name")
        found = next((function for function in functions if function.get("name") == wanted), None)
        if found is None:
            raise Refusal(400, "invalid_value", f"`tool_choice` names `{wanted}`, which is not among `tools`")
        return found
    asked = set(topics(question))
    for function in functions:
        described = str(function.get("name", "")).replace("_", " ") + " " + str(function.get("description", ""))
        if asked & set(topics(described)):
            return function
    return functions[0] if choice == "required" else None


def _tool_choice(function: Json, question: str, random: Random) -> Choice:
    arguments = json.dumps(value_for(function.get("parameters"), topics(question), random))
    return Choice(arguments, "tool_calls", str(function.get("name")), f"call_{random.getrandbits(96):024x}")


def _ended(text: str, limit_tokens: int, stops: tuple[str, ...]) -> Choice:
    """Cuts at the first stop text, then at the token limit (0: none)."""
    cuts = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    if cuts:
        text = text[: min(cuts)]
    if limit_tokens:
        tokens = pieces(text)
        if len(tokens) > limit_tokens:
            return Choice("".join(tokens[:limit_tokens]), "length")
    return Choice(text, "stop")


def _usage(prompt_tokens: int, choices: list[Choice]) -> Usage:
    return Usage(prompt_tokens, sum(token_count(choice.text) for choice in choices))
