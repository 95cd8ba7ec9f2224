"""The packaged price list: what a model's tokens cost where the policy does not say it.

Owns: reading `prices.json` (`prices/build.py` writes it), finding an entry, filling a policy message.
Must not know: YAML, the network. On failure: a price that is not certain stays unknown; never a near one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from typing import Any

from forebay.policy._pb.policy_pb2 import LongPromptPrices, Model, Policy, Prices
from forebay.policy.finding import Finding

__all__ = ["NO_PRICE_ID", "PackagedPrices", "PriceEntry", "PriceList", "fill_prices"]

# A model with this `price_id` is not looked up.
NO_PRICE_ID = "none"
_DATES = {"#": re.compile(r"-\d{8}", re.ASCII), "%": re.compile(r"-\d{4}-\d{2}-\d{2}", re.ASCII)}
_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class PriceEntry:
    """One entry of the list.

    Units: `prices` as in the policy; `context_window_tokens` 0: the list does not know it.
    """

    price_id: str
    prices: Prices
    context_window_tokens: int


class PriceList:
    """A list of prices by provider and model.

    >>> PriceList.packaged().find("openai/gpt-4o-mini").prices.prompt_nanousd_per_million_tokens
    150000000

    Cost: `packaged` reads about 220 kB of JSON, some milliseconds; `find` is a look-up, then the provider's rules.
    """

    def __init__(self, value: dict[str, Any]) -> None:
        self.revision = str(value["revision"])
        self._providers = {name: _Provider(name, listed) for name, listed in value["providers"].items()}

    @classmethod
    def packaged(cls) -> PriceList:
        """Read the list that this version carries."""
        text = resources.files("forebay.policy").joinpath("prices.json").read_text(encoding="utf-8")
        return cls(json.loads(text))

    def find(self, price_id: str) -> PriceEntry | None:
        """Find `provider/model`: by its exact name, then by the list's own rules if they agree on one model.

        A compact date (`-20251211`) is also tried with dashes. Case does not count.
        """
        name, slash, model = price_id.lower().partition("/")
        provider = self._providers.get(name)
        if provider is None or not slash:
            return None
        sources = [provider, *(self._providers[other] for other in provider.fallback if other in self._providers)]
        for wanted in dict.fromkeys([model, _COMPACT_DATE.sub(r"-\1-\2-\3", model)]):
            for source in sources:
                found = source.find(wanted)
                if found is not None:
                    return self._entry(source, found)
                if source.knows(wanted):
                    return None
        return None

    def near(self, price_id: str) -> list[str]:
        """Give up to three ids that are written alike."""
        name, _, model = price_id.lower().partition("/")
        provider = self._providers.get(name)
        if provider is None:
            return [f"{other}/..." for other in get_close_matches(name, self._providers, 3)]
        priced = [other for other, numbers in provider.models.items() if len(numbers) > 1]
        return [f"{name}/{other}" for other in get_close_matches(model, priced, 3)]

    def _entry(self, provider: _Provider, model: str) -> PriceEntry | None:
        if len(provider.models[model]) == 1:
            return None
        prompt, output, cached, cache_write, request, long, context, _ = provider.models[model]
        prices = Prices(
            prompt_nanousd_per_million_tokens=prompt,
            output_nanousd_per_million_tokens=output,
            cached_prompt_nanousd_per_million_tokens=cached,
            cache_write_nanousd_per_million_tokens=cache_write,
            request_nanousd=request,
            revision=self.revision,
            long_prompt=[_long_prompt(*numbers) for numbers in long],
        )
        return PriceEntry(f"{provider.name}/{model}", prices, context)


# A policy seldom needs the list; it is read when the first model does.
PackagedPrices = Callable[[], PriceList]


def fill_prices(
    message: Policy, line_of: Callable[[str], int], packaged: PackagedPrices = PriceList.packaged
) -> list[Finding]:
    """Give every model without prices those of its entry, in place; what has prices is left alone.

    Returns: an error for each `price_id` that the policy names and the list does not have. An id that only follows from
    provider and name is no error: such a model has no price, and is counted as such.
    """
    providers = {pool.name: pool.provider for pool in message.pools}
    findings: list[Finding] = []
    prices: PriceList | None = None
    for index, model in enumerate(message.models):
        price_id = model.price_id or _default_id(model, providers)
        if model.HasField("prices") or not price_id or price_id == NO_PRICE_ID:
            continue
        if prices is None:
            prices = packaged()
        entry = prices.find(price_id)
        if entry is not None:
            model.prices.CopyFrom(entry.prices)
            model.price_id = price_id
        elif model.price_id:
            path = f"models[{index}].price_id"
            findings.append(Finding("error", "unknown_price", path, _unknown(price_id, prices), line_of(path)))
    return findings


def _default_id(model: Model, providers: dict[str, str]) -> str:
    provider = providers.get(model.pools[0], "") if model.pools else ""
    return f"{provider}/{model.upstream_name or model.name}" if provider else ""


def _unknown(price_id: str, prices: PriceList) -> str:
    near = prices.near(price_id)
    hint = f"did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else "write `provider/model`"
    return (
        f"`{price_id}` is not in the price list `{prices.revision}`; {hint} Give `prices`, or `{NO_PRICE_ID}` to leave "
        "the cost unknown"
    )


def _long_prompt(above: int, prompt: int, output: int, cached: int, cache_write: int) -> LongPromptPrices:
    return LongPromptPrices(
        above_prompt_tokens=above,
        prompt_nanousd_per_million_tokens=prompt,
        output_nanousd_per_million_tokens=output,
        cached_prompt_nanousd_per_million_tokens=cached,
        cache_write_nanousd_per_million_tokens=cache_write,
    )


class _Provider:
    """One provider's models by their names, and the rules for names that are not written out."""

    def __init__(self, name: str, listed: dict[str, Any]) -> None:
        self.name = name
        self.fallback: list[str] = listed["fallback"]
        self.models: dict[str, list[Any]] = listed["models"]
        self._exact: dict[str, str] = {}
        self._rules: list[tuple[str, str, str]] = []
        for model, numbers in self.models.items():
            for written in numbers[-1]:
                if written[0] in "^$*#%":
                    self._rules.append((written[0], written[1:], model))
                else:
                    self._exact[written] = model
        for model in self.models:
            self._exact.setdefault(model.lower(), model)

    def find(self, wanted: str) -> str | None:
        """The one model that a name means; None where there is none, or where rules disagree."""
        exact = self._exact.get(wanted)
        if exact is not None:
            return exact
        found = self._matching(wanted)
        return found.pop() if len(found) == 1 else None

    def knows(self, wanted: str) -> bool:
        """Whether rules match at all; then a fallback must not answer in their place."""
        return bool(self._matching(wanted))

    def _matching(self, wanted: str) -> set[str]:
        return {model for kind, text, model in self._rules if _fits(kind, text, wanted)}


def _fits(kind: str, text: str, wanted: str) -> bool:
    if kind == "^":
        return wanted.startswith(text)
    if kind == "$":
        return wanted.endswith(text)
    if kind == "*":
        return text in wanted
    return wanted.startswith(text) and _DATES[kind].fullmatch(wanted, len(text)) is not None
