# ruff: noqa: INP001 - a script beside what it writes, no package
"""Writes the packaged price list from `genai-prices`: `python prices/build.py`, or `--check` to compare only.

Owns: `python/forebay/policy/prices.json`. Must not know: policies, or how a price is used.
On failure: nothing is written. What cannot be said in our fields is left out, since an unknown price beats a wrong one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import ROUND_CEILING, Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "python" / "forebay" / "policy" / "prices.json"
PACKAGE = "genai-prices"
# Prices that begin later are not in the list. A new list gets a new date, so that equal sources give equal files.
AS_OF = datetime(2026, 11, 21, tzinfo=timezone.utc)

# Order of the numbers of one model, and of one of its long-prompt prices behind the bound.
TOKEN_KEYS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
# Charged beside the tokens of a text, for what we do not count: tools of the provider, a longer cache, other inputs.
BESIDE = {
    "cache_write_1h_mtok",
    "requests_kcount",
    "web_searches_kcount",
    "storage_searches_kcount",
    "input_audio_mtok",
    "input_image_mtok",
    "input_video_mtok",
    "cache_audio_read_mtok",
    "cache_image_read_mtok",
}
NANOUSD = Decimal(10**9)
DATED = re.compile(r"\^((?:[A-Za-z0-9/_@:-]|\\\.)+)-(\\d\{8\}|\\d\{4\}-\\d\{2\}-\\d\{2\})\$\Z")


def build() -> str:
    """Turn the installed package into the text of the list.

    Shape: `providers` maps an id to `fallback` (providers asked next) and `models`. A model is a list of `prompt`,
    `output`, `cached`, `cache_write` (nano-USD for a million tokens), `request` (nano-USD), `long` (lists of a bound
    and the first four), `context` (tokens, 0: unknown) and `names`. Where we cannot say the price it is `names` alone,
    so that no other model's rule takes them. A name is exact, or a rule by its first character: `^` begins with, `$`
    ends with, `*` contains, `#` goes on with a date such as `-20251211`, `%` with one such as `-2025-12-11`.
    """
    from genai_prices.data import providers  # noqa: PLC0415 - a tool of development

    version = metadata.version(PACKAGE)
    head = {
        "revision": f"{PACKAGE} {version}",
        "as_of": AS_OF.date().isoformat(),
        "licence": _licence(),
    }
    blocks = [_provider(provider) for provider in sorted(providers, key=lambda provider: provider.id)]
    listed = ",\n".join(blocks)
    heading = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    return f'{{\n{heading},\n"providers": {{\n{listed}\n}}\n}}\n'


def _licence() -> str:
    files = metadata.files(PACKAGE) or []
    found = next(file for file in files if file.name == "LICENSE")
    return found.read_text().strip()


def _provider(provider: Any) -> str:
    names: dict[str, list[str]] = {model.id: [] for model in provider.models}
    owner: dict[str, str] = {}
    for model in provider.models:
        for name in [model.id, *_exact(model.match)]:
            # The package's own answer, since an earlier model's rule may take a later one's name.
            found = provider.find_model(name) or model
            if owner.setdefault(name.lower(), found.id) == found.id:
                names[found.id].append(name.lower())
        names[model.id] += _rules(model.match)
    rows = []
    for model in provider.models:
        numbers = _numbers(model)
        listed = sorted(set(names[model.id]) - {model.id})
        row = [listed] if numbers is None else [*numbers, model.context_window or 0, listed]
        rows.append(f"{json.dumps(model.id)}: {json.dumps(row, separators=(',', ':'))}")
    fallback = json.dumps(provider.fallback_model_providers or [])
    return f'{json.dumps(provider.id)}: {{"fallback": {fallback}, "models": {{\n' + ",\n".join(rows) + "\n}}"


def _numbers(model: Any) -> list[Any] | None:
    """Prompt, output, cached, cache write, request, long prompts, in nano-USD; None where we cannot say them."""
    sets = _in_force(model)
    keys = {key for prices in sets for key, value in vars(prices).items() if value is not None}
    if "input_mtok" not in keys or keys - BESIDE - set(TOKEN_KEYS):
        return None
    bounds = {
        tier.start for prices in sets for key in TOKEN_KEYS for tier in getattr(getattr(prices, key), "tiers", ())
    }
    base, *longer = ([_dearest(sets, key, bound) for key in TOKEN_KEYS] for bound in (-1, *sorted(bounds)))
    request = max(_nanousd((getattr(prices, "requests_kcount", None) or Decimal(0)) / 1000) for prices in sets)
    return [*base, request, [[bound, *prices] for bound, prices in zip(sorted(bounds), longer, strict=True)]]


def _in_force(model: Any) -> list[Any]:
    """The price sets of `AS_OF`: one, or one for each time of the day, of which the dearest counts."""
    if not isinstance(model.prices, list):
        return [model.prices]
    started = [
        item for item in model.prices if not hasattr(item.constraint, "start_date") or item.constraint.active(AS_OF)
    ]
    by_date = [item for item in started if not hasattr(item.constraint, "start_time")]
    by_time = [item for item in started if hasattr(item.constraint, "start_time")]
    return [item.prices for item in [by_date[-1], *by_time]]


def _dearest(sets: list[Any], key: str, above: int) -> int:
    given = [price for price in (getattr(prices, key) for prices in sets) if price is not None]
    if not given:
        return 0
    nanousd = max(_nanousd(_at(price, above)) for price in given)
    # 0 means "not given" in a policy, and then a cached token costs what any token does.
    return max(nanousd, 1) if key.startswith("cache_") else nanousd


def _at(price: Any, above: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= above]
    return Decimal(reached[-1] if reached else price.base)


def _nanousd(usd: Decimal) -> int:
    return int((usd * NANOUSD).to_integral_value(ROUND_CEILING))


def _clauses(match: Any) -> Iterator[Any]:
    """The clauses of which any one is enough. One that needs several at once is left out."""
    if hasattr(match, "or_"):
        for clause in match.or_:
            yield from _clauses(clause)
    elif not hasattr(match, "and_"):
        yield match


def _exact(match: Any) -> list[str]:
    return [clause.equals for clause in _clauses(match) if hasattr(clause, "equals")]


def _rules(match: Any) -> list[str]:
    rules = []
    for clause in _clauses(match):
        if hasattr(clause, "starts_with"):
            rules.append("^" + clause.starts_with.lower())
        elif hasattr(clause, "ends_with"):
            rules.append("$" + clause.ends_with.lower())
        elif hasattr(clause, "contains"):
            rules.append("*" + clause.contains.lower())
        elif hasattr(clause, "regex") and (dated := DATED.match(clause.regex)):
            kind = "#" if dated[2] == "\\d{8}" else "%"
            rules.append(kind + dated[1].replace("\\.", ".").lower())
    return rules


def main() -> int:
    """Write the list, or with `--check` say that it is stale (status 1)."""
    parser = argparse.ArgumentParser(description="build the packaged price list")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 when the list is stale")
    arguments = parser.parse_args()
    text = build()
    if arguments.check:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"`{TARGET.name}` is stale: run `python prices/build.py`\n")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
