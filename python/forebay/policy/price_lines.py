"""The prices of a policy as a person reads them: USD for a million tokens, and where they come from.

Owns: these lines. Must not know: the price list. On failure: cannot fail.
"""

from __future__ import annotations

from decimal import Decimal

from forebay.policy._pb.policy_pb2 import LongPromptPrices, Model, Policy, Prices

__all__ = ["price_lines"]

_NANOUSD = 10**9


def price_lines(message: Policy) -> list[str]:
    """Say for each model what it costs.

    Returns: lines such as `gpt-4o: 2.5 in, 10 out, 1.25 cached USD per million tokens (genai-prices 0.2.3)`.
    """
    return [line for model in message.models for line in _lines(model)]


def _lines(model: Model) -> list[str]:
    if not model.HasField("prices"):
        return [f"{model.name}: no price, so its cost is unknown"]
    prices = model.prices
    source = f" ({prices.revision})" if prices.revision else ""
    each = f", {_usd(prices.request_nanousd)} USD a request" if prices.request_nanousd else ""
    lines = [f"{model.name}: {_rates(prices)} USD per million tokens{each}{source}"]
    lines += [
        f"{model.name}: {_rates(long)} above {long.above_prompt_tokens} prompt tokens" for long in prices.long_prompt
    ]
    return lines


def _rates(prices: Prices | LongPromptPrices) -> str:
    shown = [
        f"{_usd(prices.prompt_nanousd_per_million_tokens)} in",
        f"{_usd(prices.output_nanousd_per_million_tokens)} out",
    ]
    if prices.cached_prompt_nanousd_per_million_tokens:
        shown.append(f"{_usd(prices.cached_prompt_nanousd_per_million_tokens)} cached")
    if prices.cache_write_nanousd_per_million_tokens:
        shown.append(f"{_usd(prices.cache_write_nanousd_per_million_tokens)} cache write")
    return ", ".join(shown)


def _usd(nanousd: int) -> str:
    return f"{Decimal(nanousd) / _NANOUSD:f}"
