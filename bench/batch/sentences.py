"""Owns the measure with a real model: MiniLM on the CPU and real sentences.

Must not know how processes are started.
On failure: a vector that differs from plain Triton's by more than 1e-4 stops the run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.batch.bench import Bench, p99_ms, per_second, told
from bench.batch.messages import Array, decode
from bench.batch.rounds import interleaved
from bench.batch.slices import Slice, Taken, closed
from bench.batch.traffic import Rows, Traffic
from bench.batch.variants import Variant, forebay, plain, pow2
from bench.load.process import BenchError
from bench.load.rows import Row, compare
from forebay.lab.tensor_traffic import sentences
from forebay.lab.wordpiece import WordPiece

_SAME = 1e-4
# A sentence takes tens of milliseconds of a core: more clients would only wait longer.
_CLIENTS = 16


def real_sentences(bench: Bench) -> list[Row]:
    """Throughput, latency and padding, whatever they are; no bar."""
    site, scale = bench.site, bench.scale
    ways = [plain(site, "minilm"), pow2(site, "minilm"), forebay(site, "minilm")]
    requests = _requests(bench)
    traffics = {way.name: Traffic.of(way.model, requests, way.padding) for way in ways}
    vectors: dict[str, dict[int, Array]] = {way.name: {} for way in ways}

    def slice_of(way: Variant) -> Callable[[int], Slice]:
        def take(number: int) -> Slice:
            taken = closed(site, way, traffics[way.name], _CLIENTS, bench.window(scale.sentence_s, number))
            vectors[way.name] |= _vectors(taken)
            return taken.slice

        return take

    results = interleaved({way.name: slice_of(way) for way in ways}, scale.rounds)
    bench.seen(*results.values())
    differences = {name: _difference(vectors[name], vectors["plain"]) for name in ("pow2", "forebay")}
    if max(differences.values()) > _SAME:
        raise BenchError(f"vectors differ from plain Triton's by {differences}")
    tokens = traffics["plain"].tokens
    detail = told(results) | {
        "max_abs_difference": differences,
        "tokens": {"mean": round(float(tokens.mean()), 1), "least": int(tokens.min()), "most": int(tokens.max())},
    }
    rate = {name: [per_second(part) for part in slices] for name, slices in results.items()}
    late = {name: [p99_ms(part) for part in slices] for name, slices in results.items()}
    return [
        compare("minilm_per_s", "requests/s", rate["forebay"], "plain", rate["plain"], detail=detail),
        compare("minilm_of_pow2", "requests/s", rate["forebay"], "pow2", rate["pow2"]),
        compare("minilm_p99_ms", "ms", late["forebay"], "plain", late["plain"]),
    ]


def _requests(bench: Bench) -> list[Rows]:
    tokenizer = WordPiece(bench.site.vocabulary)
    batches = [tokenizer.batch([text]) for text in sentences(bench.scale.sentences)]
    return [{"input_ids": batch.input_ids, "attention_mask": batch.attention_mask} for batch in batches]


def _vectors(taken: Taken) -> dict[int, Array]:
    calls = zip(taken.sent.calls["message"].tolist(), taken.sent.calls["code"].tolist(), strict=True)
    pairs = zip(calls, taken.sent.answers, strict=True)
    return {message: decode(answer)["embedding"] for (message, code), answer in pairs if code == 0}


def _difference(ours: dict[int, Array], theirs: dict[int, Array]) -> float:
    """The largest difference of any element, over the requests that both answered."""
    return max(
        (float(np.abs(ours[number] - theirs[number]).max()) for number in ours.keys() & theirs.keys()), default=0.0
    )
