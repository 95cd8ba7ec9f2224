"""What a simulated model says: plausible text that depends on the request alone.

Owns sentences and the fleet's own notion of a token. Must not know HTTP, time or failures.
It cannot fail: any input gives a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from random import Random

_PIECE = re.compile(r"\s?\w{1,7}|\s?[^\w\s]|\s+")
_WORD = re.compile(r"[^\W\d_][\w'-]{3,}")

_COMMON_TEXT = (
    "about after again also because been before being between both could does doing down each every from have having "
    "here into just like make more most much need only other over please same should some such than that their them "
    "then there these they this those through under until using very want were what when where which while with "
    "would your yours tell explain give write know help think could can't don't"
)
_COMMON = frozenset(_COMMON_TEXT.split())

_OPENINGS = (
    "Here is the short answer about {a}.",
    "Good question: with {a}, the details of {b} decide most of it.",
    "There are two things to look at, {a} and {b}.",
    "Yes, and the part about {a} is simpler than it looks.",
    "In most cases {a} works as you expect, with one exception around {b}.",
    "Let me take {a} first, then {b}.",
    "It depends on {b}, but the usual way is this.",
)
_BODIES = (
    "Start with {a}, because everything that follows relies on it.",
    "Check {b} before you change anything else; it is the most common cause of surprises.",
    "If {a} and {b} disagree, trust the one that was updated last.",
    "As a rule of thumb, allow about {number} minutes for {a} and a little longer for {b}.",
    "Keep a note of {b}, so that you can go back if the result is not what you wanted.",
    "The second step is to compare {b} with what you had before.",
    "People often overlook {c} here, and it costs them more time than {a} itself.",
    "A small test with {c} tells you quickly whether the approach holds.",
    "For {a} that means roughly {number} percent of the effort goes into {c}.",
    "When {c} is involved, ask for it in writing and keep the date.",
    "Try it once with the simplest form of {a} and only then add {b}.",
    "None of this changes {c}, which stays as it is.",
    "If you are short of time, leave {b} for later and finish {a}.",
    "The numbers for {b} vary, yet {number} is a reasonable figure to begin with.",
    "You can do both in one go, provided that {c} is settled first.",
    "Compare at least {number} examples of {b} before you decide.",
)
_CLOSINGS = (
    "If anything about {b} is still unclear, send me the details and I will look again.",
    "That should be enough to get {a} done today.",
    "Once {a} is settled, {b} usually takes care of itself.",
    "Let me know how {c} turns out.",
)


def pieces(text: str) -> list[str]:
    """The text in tokens, as this fleet counts them; joined they are the text again.

    >>> pieces("Refund it, please.")
    ['Refund', ' it', ',', ' please', '.']
    """
    return _PIECE.findall(text)


def token_count(text: str) -> int:
    """How many tokens this fleet counts in a text.

    >>> token_count("Refund it, please.")
    5
    """
    return len(pieces(text))


def random_for(*parts: str) -> Random:
    """A random source that depends only on the given strings, also across processes and runs."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part.encode())
    return Random(int.from_bytes(digest.digest(), "big"))


def topics(question: str) -> list[str]:
    """The words that an answer talks about: long, uncommon, in order, at most six."""
    seen: dict[str, None] = {}
    for match in _WORD.finditer(question[:4000]):
        word = match.group().lower()
        if word not in _COMMON:
            seen.setdefault(word)
            if len(seen) == 6:
                break
    return list(seen)


def sentences(question: str, random: Random) -> Iterator[str]:
    """An endless run of sentences about the question's topics, an opening first."""
    words = topics(question) or ["this", "the rest"]

    def fill(template: str) -> str:
        a, b, c = (words[random.randrange(len(words))] for _ in range(3))
        return template.format(a=a, b=b, c=c, number=random.choice((3, 5, 10, 12, 15, 20, 25, 30, 40)))

    yield fill(random.choice(_OPENINGS))
    while True:
        order = random.sample(_BODIES, len(_BODIES))
        yield from (fill(template) for template in order)
        yield fill(random.choice(_CLOSINGS))


def answer(question: str, wanted_tokens: int, random: Random) -> str:
    """A text of whole sentences with at least `wanted_tokens` tokens."""
    written: list[str] = []
    count = 0
    for sentence in sentences(question, random):
        written.append(sentence)
        count += token_count(sentence) + 1
        if count >= wanted_tokens:
            break
    return " ".join(written)
