"""What a simulated fleet is like: models, latency distributions, faults, accounting, credential.

Owns the frozen description and its JSON form. Must not know sockets or clocks.
An unknown or wrong field is refused with its path; nothing is guessed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from random import Random
from typing import Any, Literal, get_args, get_origin, get_type_hints


class FleetSpecError(ValueError):
    """A fleet description that cannot be used; the message gives the field's path."""


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal distribution by its median and the sigma of its logarithm.

    With `sigma` 0.4 the 95th percentile is 1.93 times the median; with 0.0 every draw is the median.
    """

    median: float
    sigma: float = 0.0

    def draw(self, random: Random) -> float:
        """One value; consumes exactly one normal draw, so that sequences stay aligned."""
        return self.median * math.exp(self.sigma * random.gauss(0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, each as a ratio of requests, drawn in this order.

    `failure_ratio` 0.02: 2 % are answered with one of `failure_statuses`.
    `reset_ratio` 0.01: 1 % are cut by a TCP reset, in mid-stream where the answer is streamed.
    `slow_ratio` 0.05 with `slow_factor` 10: 5 % take ten times as long.
    `reset_after_tokens` 12: the cut comes once 12 tokens were streamed; 0: half way.
    `hang_ratio` 0.01: 1 % are never answered; they end when the other side has waited enough.
    """

    failure_ratio: float = 0.0
    failure_statuses: tuple[int, ...] = (500, 503)
    reset_ratio: float = 0.0
    slow_ratio: float = 0.0
    slow_factor: float = 10.0
    reset_after_tokens: int = 0
    hang_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Accounting:
    """What a fleet counts, and how it tells.

    `usage`: in streams `ask` tells it where the client asks, `always` also where it does not, `every_chunk` so far in
    each event, `last_choice` in the event of the last finish reason; `never` not even in plain answers.
    `cached_ratio` 0.25: a quarter of each prompt counts as read from a cache. `cache_write_ratio` 0.1: a tenth as
    written into one, where the API can say so. `reasoning_ratio` 0.5: half as many tokens are thought as are said.
    `quote_ratio` 0.1: a tenth of the answers quote a usage object in their text, which is none.
    """

    usage: Literal["ask", "always", "every_chunk", "last_choice", "never"] = "ask"
    cached_ratio: float = 0.0
    cache_write_ratio: float = 0.0
    reasoning_ratio: float = 0.0
    quote_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Wire:
    """How answers look on the wire.

    `encoding`: compresses where the request accepts it. `line_end`: of server-sent events. `comment_ratio` 0.1: every
    tenth event has a comment before it. `cut_ratio` 0.3: 30 % of the writes are cut in two at a random byte.
    """

    encoding: Literal["identity", "gzip", "br"] = "identity"
    line_end: Literal["lf", "crlf"] = "lf"
    comment_ratio: float = 0.0
    cut_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an answer takes.

    `ttft_ms`: time to the first token. `gap_ms`: between tokens; a plain answer takes ttft + tokens x gap.
    `output_tokens`: natural length of an answer, before `max_tokens` cuts it.
    `tokens_per_event` 4: a streamed event carries four tokens, as speculative decoding sends them.
    `time_scale` 0.1: everything ten times as fast; 0 sleeps not at all.
    """

    ttft_ms: LogNormal = LogNormal(60.0, 0.35)
    gap_ms: LogNormal = LogNormal(2.0, 0.25)
    output_tokens: LogNormal = LogNormal(129.0, 0.8)
    tokens_per_event: int = 2
    time_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """One simulated fleet.

    `credential`: bearer or `x-api-key` that every /v1 request must carry; None asks for none. `seed` fixes delays and
    faults, by the request's `x-trial-id` where it has one; what is said depends on the request alone, so that replicas
    agree.
    `embedding_dims` 384: length of the vectors. `headers_kept` 64: request heads that /lab/headers shows.
    """

    name: str = "fleet"
    models: tuple[str, ...] = ("small-chat",)
    seed: int = 1
    latency: Latency = field(default_factory=Latency)
    faults: Faults = field(default_factory=Faults)
    accounting: Accounting = field(default_factory=Accounting)
    wire: Wire = field(default_factory=Wire)
    credential: str | None = field(default=None, repr=False)
    embedding_dims: int = 384
    headers_kept: int = 64

    @classmethod
    def from_json(cls, text: str) -> FleetSpec:
        """Reads the JSON form. Raises FleetSpecError with the path of the first wrong field."""
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise FleetSpecError(f"the fleet spec is not JSON: {error}") from None
        spec: FleetSpec = _build(cls, value, "spec")
        return spec

    def to_json(self) -> str:
        """The JSON form that `from_json` reads."""
        return json.dumps(asdict(self))


def faults_from(value: object) -> Faults:
    """Reads the JSON form of `Faults`. Raises FleetSpecError."""
    faults: Faults = _build(Faults, value, "faults")
    return faults


def _build(kind: Any, value: object, path: str) -> Any:
    if not isinstance(value, dict):
        raise FleetSpecError(f"`{path}` must be an object, not {type(value).__name__}")
    hints = get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    built: dict[str, Any] = {}
    for key, item in value.items():
        where = f"{path}.{key}"
        if key not in known:
            raise FleetSpecError(f"`{where}` is not a field; known are {', '.join(sorted(known))}")
        built[key] = _build(hints[key], item, where) if is_dataclass(hints[key]) else _scalar(hints[key], item, where)
    try:
        return kind(**built)
    except TypeError as error:
        raise FleetSpecError(f"`{path}`: {error}") from None


def _scalar(hint: Any, value: object, path: str) -> object:
    wanted: dict[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float), str | None: (str, type(None))}
    if hint in wanted:
        if not isinstance(value, wanted[hint]) or isinstance(value, bool):
            raise FleetSpecError(f"`{path}` must be {hint}, not {value!r}")
        if isinstance(value, (int, float)) and value < 0:
            raise FleetSpecError(f"`{path}` must not be negative, not {value!r}")
        return value
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise FleetSpecError(f"`{path}` must be one of {', '.join(get_args(hint))}, not {value!r}")
        return value
    element = str if hint == tuple[str, ...] else int
    if not isinstance(value, list) or not value or not all(isinstance(item, element) for item in value):
        raise FleetSpecError(f"`{path}` must be a list of {element.__name__} with at least one item")
    return tuple(value)
