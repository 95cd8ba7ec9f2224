"""Traffic of tensors, drawn from a seed: lengths, arrivals, rows of token ids, real sentences.

Owns what is sent and when. Must not know addresses, models or how it is sent.
It cannot fail for sensible arguments; others are a ValueError. Equal arguments give equal traffic, on every machine.
"""

from __future__ import annotations

import re
from math import log
from random import Random
from typing import Any

import numpy as np

from forebay.lab.questions import load_questions

__all__ = ["arrivals_s", "lengths", "sentences", "token_ids"]

Ids = np.ndarray[Any, np.dtype[np.int64]]

# Ids of whole words in BERT's uncased vocabulary lie in here, so that MiniLM takes them too.
FIRST_ID, LAST_ID = 1996, 29611
MAX_CHARACTERS = 1600
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# One in so many draws may miss the bounds; a distribution that misses more often is not the one that was meant.
_MOST_MISSES = 100


def lengths(  # noqa: PLR0913, PLR0917 - a distribution has as many
    seed: int, count: int, median: float, sigma: float, low: int = 4, high: int = 512
) -> list[int]:
    """Log-normal lengths in tokens; what falls outside `low` to `high` is drawn again.

    `median` 32 and `sigma` 1.0: half of them are at most 32, a sixth above 87, one in forty above 227.
    Raises: ValueError for bounds that the distribution hardly meets.
    """
    if not (1 <= low <= median <= high and sigma >= 0):
        raise ValueError(f"lengths need 1 <= low <= median <= high, not {low}, {median} and {high}, and sigma >= 0")
    random = Random(f"lengths {seed}")
    drawn: list[int] = []
    for _ in range(count):
        for _ in range(_MOST_MISSES):
            length = round(random.lognormvariate(log(median), sigma))
            if low <= length <= high:
                drawn.append(length)
                break
        else:
            raise ValueError(f"a log-normal length of median {median} and sigma {sigma} misses {low} to {high}")
    return drawn


def arrivals_s(seed: int, count: int, rate_per_s: float) -> list[float]:
    """When each request comes, in seconds from the start: a Poisson process. Raises ValueError for a rate of 0."""
    if rate_per_s <= 0:
        raise ValueError(f"`rate_per_s` is {rate_per_s}; it must be above 0")
    random = Random(f"arrivals {seed}")
    now_s = 0.0
    found = []
    for _ in range(count):
        now_s += random.expovariate(rate_per_s)
        found.append(now_s)
    return found


def token_ids(seed: int, number: int, length: int) -> Ids:
    """The row of the request with this number.

    Shape: int64 (1, length). Rows of different numbers differ, as far as their length allows.
    """
    random = np.random.Generator(np.random.PCG64((seed, number)))
    return random.integers(FIRST_ID, LAST_ID + 1, (1, length), dtype=np.int64)


def sentences(count: int, seed: int = 1) -> list[str]:
    """Real texts of very mixed lengths: what people ask here, and passages of what they paste and are told.

    Of four, two are questions, one is a sentence out of a long text, and one is a passage of two to sixteen.
    No text comes twice, and none has more than 1,600 characters, so that all fit MiniLM's 512 tokens; there are about
    1,500. Raises ValueError when more are asked for.
    """
    random = Random(f"sentences {seed}")
    asked, single, passages = _texts(random)
    sources = (asked, single, asked, passages)
    found: dict[str, None] = {}
    while len(found) < count:
        left = [source for source in sources if source]
        if not left:
            raise ValueError(f"{count} sentences were asked for; there are {len(found)}")
        found.setdefault(left[len(found) % len(left)].pop())
    return list(found)


def _texts(random: Random) -> tuple[list[str], list[str], list[str]]:
    """Questions, sentences and passages, each in an order of its own."""
    questions = load_questions()
    asked = [question.text for question in questions if question.kind != "long"]
    turns = {str(m["content"]): None for q in questions for m in q.messages if q.kind == "long" or m["role"] != "user"}
    single: list[str] = []
    passages: list[str] = []
    for turn in turns:
        parts = [part.strip() for part in _SENTENCE_END.split(turn) if part.strip()]
        single += parts
        at = 0
        while at < len(parts):
            size = random.randint(2, 16)
            passages.append(" ".join(parts[at : at + size]))
            at += size
    found = [[text for text in texts if len(text) <= MAX_CHARACTERS] for texts in (asked, single, passages)]
    for texts in found:
        random.shuffle(texts)
    return found[0], found[1], found[2]
