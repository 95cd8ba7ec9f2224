"""What must hold after the demo's session, each with the numbers that show it.

Owns the judgement. Must not send or read anything: it sees outcomes, counts and request heads.
What did not hold is a Check that is not `held`, never an exception.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from forebay.lab.demo_chat import Outcome
from forebay.lab.demo_sources import heads_with
from forebay.lab.traffic import Purpose


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold, and the numbers that show it."""

    name: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class FleetSide:
    """What the fleets know: their counts of this run by name, and the last request heads of all of them."""

    stats: dict[str, dict[str, Any]]
    heads: list[dict[str, Any]]


def chat_checks(outcomes: list[Outcome], side: FleetSide, secrets: list[str]) -> list[Check]:
    """What must hold of the chat requests. `secrets`: the clients' keys, which no fleet may have seen."""

    def of(purpose: Purpose) -> list[Outcome]:
        return [outcome for outcome in outcomes if outcome.ask.purpose is purpose]

    strangers, limited, repeats = of(Purpose.BAD_KEY), of(Purpose.OVER_LIMIT), of(Purpose.REPEAT)
    answered = [o for o in outcomes if o.ok]
    turned_away = sum(o.status == 401 for o in strangers)
    served, over = sum(o.ok for o in limited), sum(o.status == 429 for o in limited)
    hits = [o for o in repeats if o.from_cache]
    paid = {(o.ask.tenant, o.ask.question.id) for o in answered if not o.from_cache}
    unpaid = sum((o.ask.tenant, o.ask.question.id) not in paid for o in answered)
    worked = sum(not o.from_cache for o in answered)
    reached = sum(stats["requests"] for stats in side.stats.values())
    broken = [o for o in outcomes if not o.ok and o.status not in (401, 429)]
    injected = sum(stats["failures"] + stats["resets"] for stats in side.stats.values())
    leaks = heads_with(side.heads, secrets)
    named = sum("x-forebay-request-id" in o.headers for o in answered)
    odd = sum(o.ask.purpose not in (Purpose.BAD_KEY, Purpose.OVER_LIMIT) and o.status in (401, 429) for o in outcomes)
    different = _different_answers(answered)
    calls = [o.tool_arguments for o in answered if o.tool_arguments is not None]
    readable = sum(_is_json(arguments) for arguments in calls)
    return [
        Check("a key that was never issued is refused", turned_away == len(strangers) > 0,
              f"{turned_away} of {len(strangers)} answered 401"),
        Check("a tenant over its limit is refused, and only then", served > 0 and over > 0,
              f"{served} answered, {over} refused with 429"),
        Check("nobody else is refused", odd == 0, f"{odd} of the others"),
        Check("repeated questions are answered from the cache", bool(hits), f"{len(hits)} of {len(repeats)}"),
        Check("no tenant gets an answer that it has not paid for", unpaid == 0,
              f"{unpaid} cached answers to questions that no fleet answered for that tenant"),
        Check("a cached answer is the answer that was given before", not different,
              f"{len(different)} differ" + (f": {', '.join(different[:3])}" if different else "")),
        Check("the fleets worked for nothing else", reached == worked + len(broken),
              f"{reached} requests reached them, {worked} answers and {len(broken)} failures came from them"),
        Check("what failed is what the fleets were told to fail", len(broken) <= injected,
              f"{len(broken)} failed, {injected} faults were injected"),
        Check("no fleet ever saw a client's key", leaks == 0 and bool(side.heads),
              f"{leaks} of {len(side.heads)} request heads"),
        Check("every answer names its request", named == len(answered), f"{named} of {len(answered)}"),
        Check("tools are called with arguments that can be read", 0 < readable == len(calls),
              f"{readable} of {len(calls)} calls"),
    ]  # fmt: skip


def count_checks(outcomes: list[Outcome], grown: dict[str, float]) -> list[Check]:
    """The gateway's own counts beside what the clients saw; nothing to check where there are no metrics."""
    counted = {name: value for name, value in grown.items() if name.startswith("forebay_requests_total{")}
    if not counted:
        return []
    checks = []
    for word in ("hit", "follow"):
        seen = sum(outcome.cache == word for outcome in outcomes)
        claimed = round(sum(value for name, value in counted.items() if f"cache={word}," in name))
        detail = f"{claimed} counted, {seen} seen by clients"
        checks.append(Check(f"the gateway counts what clients see ({word})", claimed == seen, detail))
    return checks


def _different_answers(answered: list[Outcome]) -> list[str]:
    """Questions for which one tenant saw two texts, although the fleets say the same each time."""
    first: dict[tuple[str | None, str], tuple[str, str | None]] = {}
    found = []
    for outcome in answered:
        said = (outcome.text, outcome.tool_arguments)
        if first.setdefault((outcome.ask.tenant, outcome.ask.question.id), said) != said:
            found.append(outcome.ask.question.id)
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
