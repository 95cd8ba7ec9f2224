"""The packaged price list: fresh, never another price than its source gives, and filled in once."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices.data import providers
from genai_prices.types import Usage

from forebay.errors import PolicyError
from forebay.policy import load_text, override
from forebay.policy._pb.policy_pb2 import Prices
from forebay.policy.price_lines import price_lines
from forebay.policy.prices import PriceList

BUILD = Path(__file__).parents[3] / "prices" / "build.py"
POOLS = "pools: [{name: hosted, protocol: OPENAI, provider: openai, endpoints: [{address: 'a:1'}]}]\n"
GENAI = {provider.id: provider for provider in providers}


@pytest.fixture(scope="module")
def prices() -> PriceList:
    return PriceList.packaged()


def filled(model: str) -> Prices:
    return load_text(f"{POOLS}models:\n- {model}\n").message().models[0].prices


def test_the_list_is_fresh() -> None:
    done = subprocess.run([sys.executable, BUILD, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def names_like(name: str) -> list[str]:
    """A name as people and providers vary it."""
    ends = ("", "-latest", "-2025-01-31", "-20250131", "-preview", "-mini", "-tts", ":free", "-v1:0", "@20250131")
    return [name + end for end in ends] + [f"ft:{name}", f"eu.{name}", name.upper(), name.rpartition("-")[0]]


def test_no_name_gets_another_price_than_the_source_gives(prices: PriceList) -> None:
    found = wrong = 0
    for provider in providers:
        ids = {model.id for model in provider.models}
        for other in provider.fallback_model_providers or []:
            ids |= {model.id for model in GENAI[other].models}
        for name in {like for model in ids for like in names_like(model)}:
            entry = prices.find(f"{provider.id}/{name}")
            if entry is None:
                continue
            found += 1
            theirs = provider.find_model(name, all_providers=providers)
            # An id is its model, also where no rule of the source says so.
            theirs_id = theirs.id if theirs else name
            wrong += entry.price_id.partition("/")[2].lower() != theirs_id.lower()
    assert wrong == 0
    assert found > 4000


def test_every_price_of_one_time_is_what_the_source_charges(prices: PriceList) -> None:
    """The source's own calculation, where it has one price and no tiers below the prompt."""
    checked = 0
    for provider in providers:
        for model in provider.models:
            entry = prices.find(f"{provider.id}/{model.id}")
            if entry is None or isinstance(model.prices, list) or provider.find_model(model.id) is not model:
                continue
            for prompt in (1_000, 150_000, 300_000, 600_000):
                usage = Usage(input_tokens=prompt, output_tokens=500)
                theirs = model.prices.calc_price(usage)["total_price"]
                assert charged(entry.prices, prompt, 500) == pytest.approx(float(theirs * 10**9), abs=2), entry.price_id
                checked += 1
    assert checked > 4000


def charged(prices: Prices, prompt: int, output: int) -> float:
    rates = prices
    for long in prices.long_prompt:
        rates = long if prompt > long.above_prompt_tokens else rates
    tokens = prompt * rates.prompt_nanousd_per_million_tokens + output * rates.output_nanousd_per_million_tokens
    return float(Decimal(tokens) / 10**6 + prices.request_nanousd)


@pytest.mark.parametrize(
    ("price_id", "means"),
    [
        ("openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/GPT-4o-2024-08-06", "openai/gpt-4o"),
        ("azure/gpt-4o", "openai/gpt-4o"),
        ("anthropic/claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5"),
        ("openai/gpt-5.6-luna-2026-07-09", "openai/gpt-5.6-luna"),
        ("openai/gpt-5.6-luna-20260709", "openai/gpt-5.6-luna"),
        ("openai/gpt-5.6-luna-next", None),
        ("openai/my-own-gpt-4o", None),
        ("openai/gpt-4o-mini-fancy", None),
        ("google/gemini-2.5-flash-image", None),
        ("openai/", None),
        ("openai", None),
        ("own/gpt-4o", None),
        ("", None),
    ],
)
def test_what_an_id_means(prices: PriceList, price_id: str, means: str | None) -> None:
    entry = prices.find(price_id)
    assert (entry.price_id if entry else None) == means


def test_long_prompts_and_writes_into_the_cache_have_their_prices(prices: PriceList) -> None:
    entry = prices.find("anthropic/claude-sonnet-4-5")
    assert entry is not None
    assert entry.context_window_tokens > 0
    assert entry.prices.cache_write_nanousd_per_million_tokens == 3_750_000_000
    assert [long.above_prompt_tokens for long in entry.prices.long_prompt] == [200_000]
    assert entry.prices.long_prompt[0].cached_prompt_nanousd_per_million_tokens == 600_000_000


def test_a_model_gets_the_prices_of_its_provider_and_upstream_name() -> None:
    given = filled("{name: large, upstream_name: gpt-4o-2024-08-06, pools: [hosted]}")
    assert given.output_nanousd_per_million_tokens == 10_000_000_000
    assert given.revision.startswith("genai-prices ")
    assert filled("{name: gpt-4o, pools: [hosted]}") == given
    assert filled("{name: large, price_id: openai/gpt-4o, pools: []}") == given


def test_what_is_not_known_stays_unknown() -> None:
    for model in ("{name: gpt-4o, price_id: none, pools: [hosted]}", "{name: mine, pools: [hosted]}", "{name: gpt-4o}"):
        assert not load_text(f"{POOLS}models:\n- {model}\n").message().models[0].HasField("prices")


def test_the_policy_has_the_last_word() -> None:
    own = filled("{name: gpt-4o, pools: [hosted], prices: {prompt_nanousd_per_million_tokens: 7}}")
    assert own == Prices(prompt_nanousd_per_million_tokens=7)


def test_an_id_that_is_not_there_is_said_with_its_line() -> None:
    with pytest.raises(PolicyError) as refused:
        filled("{name: a, price_id: none}\n- name: b\n  price_id: openai/gpt-4o-mimi")
    (finding,) = refused.value.findings
    assert (finding.slug, finding.path, finding.line) == ("unknown_price", "models[1].price_id", 5)
    assert "`openai/gpt-4o-mini`" in finding.message


def test_a_setting_may_name_another_price_and_nothing_is_filled_twice() -> None:
    loaded = load_text(f"{POOLS}models: [{{name: gpt-4o, pools: [hosted]}}]")
    smaller = override(loaded, ["models[0].price_id=openai/gpt-4o-mini"]).message().models[0]
    assert smaller.prices.prompt_nanousd_per_million_tokens == 150_000_000
    assert not override(loaded, ["models[0].price_id=none"]).message().models[0].HasField("prices")
    assert override(loaded, []) == loaded
    with pytest.raises(PolicyError, match="unknown_price"):
        override(loaded, ["models[0].price_id=openai/none"])


def test_prices_are_said_in_usd_with_their_source() -> None:
    models = [
        "{name: gpt-4o, pools: [hosted]}",
        "{name: long, price_id: anthropic/claude-sonnet-4-5, pools: [hosted]}",
        "{name: own, pools: [hosted]}",
        "{name: flat, pools: [hosted], prices: {request_nanousd: 5000000}}",
    ]
    message = load_text(POOLS + "models:\n" + "".join(f"- {model}\n" for model in models)).message()
    revision = PriceList.packaged().revision
    assert price_lines(message) == [
        f"gpt-4o: 2.5 in, 10 out, 1.25 cached USD per million tokens ({revision})",
        f"long: 3 in, 15 out, 0.3 cached, 3.75 cache write USD per million tokens ({revision})",
        "long: 6 in, 22.5 out, 0.6 cached, 7.5 cache write above 200000 prompt tokens",
        "own: no price, so its cost is unknown",
        "flat: 0 in, 0 out USD per million tokens, 0.005 USD a request",
    ]
