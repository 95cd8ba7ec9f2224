"""Who asks what, in which order: a session plan drawn from a seed.

Owns the mix of kinds, tenants and repeats. Must not know addresses, keys or time.
It cannot fail for a sensible spec; one that asks for more first questions than exist is a ValueError.

Sizes: the mix gives prompts from a dozen to about 2,500 tokens, a tenth to a fifth of them long, as published chat
traces have (a median near 1,000 tokens, 95 % below 4,100, answers with a median of 129); long ones are rarer here,
so that the demo stays short.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from random import Random

from forebay.lab.questions import Question


class Purpose(Enum):
    """What a request is there to show; the report has one line for each."""

    FIRST = "question"
    REPEAT = "repeated question"
    LONG = "long context"
    TOOLS = "with tools"
    JSON = "as JSON"
    OVER_LIMIT = "tenant over its limit"
    BAD_KEY = "bad key"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the plan. `tenant` is None for the bad key."""

    question: Question
    tenant: str | None
    purpose: Purpose
    streamed: bool


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """How a session looks.

    `requests` 240 are spread over `tenants`; beside them come `over_limit_requests` of `limited_tenant` in one burst,
    and `bad_key_requests`. `repeat_ratio` 0.35: 35 % of a tenant's requests ask what it asked before.
    `zipf_exponent` 1.0: the second most popular question is repeated half as often as the first.
    """

    seed: int = 7
    requests: int = 240
    tenants: tuple[str, ...] = ("acme", "bistro")
    limited_tenant: str = "trial"
    over_limit_requests: int = 24
    bad_key_requests: int = 6
    repeat_ratio: float = 0.35
    stream_ratio: float = 0.5
    zipf_exponent: float = 1.0
    kind_shares: dict[str, float] = field(
        default_factory=lambda: {"plain": 0.52, "long": 0.16, "tools": 0.10, "json": 0.10, "smalltalk": 0.12}
    )


_PURPOSES = {"long": Purpose.LONG, "tools": Purpose.TOOLS, "json": Purpose.JSON}


def plan(questions: tuple[Question, ...], spec: PlanSpec) -> tuple[Ask, ...]:
    """The session in sending order. Equal arguments give equal plans.

    Raises: ValueError when a tenant would have to ask more different questions than there are.
    """
    random = Random(spec.seed)
    desks = {tenant: _Desk(questions, spec, random) for tenant in spec.tenants}
    asks: list[Ask] = []
    for _ in range(spec.requests):
        tenant = random.choice(spec.tenants)
        question, repeated = desks[tenant].next()
        purpose = Purpose.REPEAT if repeated else _PURPOSES.get(question.kind, Purpose.FIRST)
        asks.append(Ask(question, tenant, purpose, random.random() < spec.stream_ratio))
    short = [question for question in questions if question.kind == "plain"]
    for question in random.sample(short, spec.bad_key_requests):
        asks.insert(random.randrange(len(asks)), Ask(question, None, Purpose.BAD_KEY, random.random() < 0.5))
    at = random.randrange(len(asks) // 2, len(asks))  # one burst, as a runaway job sends it
    burst = random.sample(short, spec.over_limit_requests)
    asks[at:at] = [Ask(question, spec.limited_tenant, Purpose.OVER_LIMIT, False) for question in burst]
    return tuple(asks)


class _Desk:
    """What one tenant has asked and may ask next."""

    def __init__(self, questions: tuple[Question, ...], spec: PlanSpec, random: Random) -> None:
        self._spec = spec
        self._random = random
        self._unasked = {kind: [q for q in questions if q.kind == kind] for kind in spec.kind_shares}
        self._asked: list[Question] = []

    def next(self) -> tuple[Question, bool]:
        """A question, and whether this tenant asked it before."""
        if self._asked and self._random.random() < self._spec.repeat_ratio:
            ranked = sorted(self._asked, key=lambda question: (-question.weight, question.id))
            shares = [1 / rank**self._spec.zipf_exponent for rank in range(1, len(ranked) + 1)]
            return self._random.choices(ranked, shares)[0], True
        open_kinds = {kind: share for kind, share in self._spec.kind_shares.items() if self._unasked[kind]}
        if not open_kinds:
            raise ValueError(f"a tenant asked all {len(self._asked)} questions; plan fewer requests")
        kind = self._random.choices(list(open_kinds), list(open_kinds.values()))[0]
        pool = self._unasked[kind]
        question = self._random.choices(pool, [item.weight for item in pool])[0]
        pool.remove(question)
        self._asked.append(question)
        return question, False
