"""Token counting beside `tiktoken`, interleaved in one run, in CPU time of one thread.

Owns: the comparison, first of counts, then of times.
Must not know: how either side counts.
On failure: a count that differs ends the run; no time is reported for a wrong answer.

Both sides count the same texts with the same vocabulary: ours, whose SHA-256 in the published form must be the
one that `tiktoken` expects of its download. The value is our rate, the control is `tiktoken`'s, the ratio is the
median over rounds of control time by our time. The texts are what every Python has: the language reference,
the standard library's docstrings and its source; and Chinese sentences in random order. More files may be named.
"""
# Chinese is written with Chinese punctuation:
# ruff: noqa: RUF001

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import gc
import hashlib
import json
import pydoc_data.topics
import random
import statistics
import sys
import sysconfig
import time
import warnings
from pathlib import Path

import tiktoken
import tiktoken_ext.openai_public  # type: ignore[import-untyped]

from forebay import _core

ENCODINGS = ("o200k_base", "cl100k_base")
SEED = 20_261_121
TEXT_BYTES = 3_000_000
PATHOLOGY_BYTES = 1_000_000
# A code point in the places where its class decides: after and before letters of both cases, before a
# contraction, alone, in a run, and beside a digit.
FRAME = "a{0}B {0}'s {0} {0}{0} 1{0}"

CHINESE = [
    "网关站在团队已经运行的模型集群前面，在请求产生任何费用之前就决定它的去向。",
    "令牌先预留，后结算，所以即使请求中途失败，余额也不会出错。",
    "今天下午三点我们在会议室讨论新版本的发布计划，请大家提前准备材料。",
    "如果缓存里已经有答案，系统会直接返回，不再调用上游模型。",
    "这家餐厅的牛肉面很有名，周末常常要排队一个小时。",
    "请把下面这段话翻译成英文，并保持原来的语气和格式。",
    "昨天晚上下了一场大雨，河水涨了很多，学校通知今天停课。",
    "数据库连接池满了以后，新的请求会等待，超过时间就会报错。",
    "她从小喜欢画画，大学毕业以后成了一名插画师。",
    "机器学习的效果取决于数据的质量，而不仅仅是模型的大小。",
    "我想知道怎样修改收货地址，订单还没有发货。",
    "春天到了，公园里的樱花开得正好，很多人带着孩子来拍照。",
    "根据合同第三条，供应商应当在十个工作日内交付全部货物。",
    "为什么我的银行卡在国外不能取现？手续费是怎么计算的？",
    "科学家发现，这种植物在高温下依然可以进行光合作用。",
    "函数返回一个列表，其中每个元素都是一个字典，键是用户的编号。",
]


def reference(name: str) -> tiktoken.Encoding:
    """`tiktoken`'s own encoding over our vocabulary, after its own check of the vocabulary's digest."""

    def ranks(_url: str, expected_hash: str | None = None) -> dict[bytes, int]:
        table = dict(_core.TokenCounter(name).ranks())
        text = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in table.items())
        if hashlib.sha256(text).hexdigest() != expected_hash:
            raise SystemExit(f"the vocabulary of {name} is not the published one")
        return table

    download = tiktoken_ext.openai_public.load_tiktoken_bpe
    tiktoken_ext.openai_public.load_tiktoken_bpe = ranks
    try:
        arguments = getattr(tiktoken_ext.openai_public, name)()
    finally:
        tiktoken_ext.openai_public.load_tiktoken_bpe = download
    return tiktoken.Encoding(**{**arguments, "special_tokens": {}})


def texts(files: list[Path]) -> dict[str, str]:
    """The texts by name, each too long for either side to live on a core's cache."""
    random_order = random.Random(SEED)
    library = Path(sysconfig.get_path("stdlib"))
    sources = [
        path.read_text("utf-8", "replace") for path in sorted(library.glob("**/*.py")) if "test" not in path.parts
    ]
    english = "\n".join(pydoc_data.topics.topics.values())
    documentation = "\n".join(docstrings(sources))[:TEXT_BYTES]
    chinese = "\n".join("".join(random_order.sample(CHINESE, 4)) for _ in range(3_000))
    code = "".join(sources)[:TEXT_BYTES]
    named = {"english": english, "docstrings": documentation, "code": code, "chinese": chinese}
    return named | {path.name: path.read_text("utf-8") for path in files}


def docstrings(sources: list[str]) -> list[str]:
    """The docstrings of modules, classes and functions: English by many hands."""
    found: list[str] = []
    for source in sources:
        with contextlib.suppress(SyntaxError, ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, documented))
            found.extend(text for node in nodes if (text := ast.get_docstring(node)))
    return found


def check(counter: _core.TokenCounter, control: tiktoken.Encoding, samples: list[str]) -> None:
    """Ends the run at the first text that both sides count differently."""
    for text in samples:
        ours, theirs = counter.count(text), len(control.encode_ordinary(text))
        if ours != theirs:
            raise SystemExit(f"{counter!r} counts {ours}, tiktoken {theirs}: {text[:200]!r}")


def every_character() -> list[str]:
    """Texts that together hold every code point in every place of `FRAME`."""
    characters = [chr(code) for code in range(0x11_0000) if not 0xD800 <= code < 0xE000]
    frames = [FRAME.format(character) for character in characters]
    return ["\n".join(frames[start : start + 64]) for start in range(0, len(frames), 64)]


def slices(text: str, count: int) -> list[str]:
    """Parts of a text of many lengths, cut anywhere."""
    cut = random.Random(SEED)
    starts = [cut.randrange(len(text)) for _ in range(count)]
    return [text[start : start + cut.randrange(1, 600)] for start in starts]


def compare(
    name: str, text: str, counter: _core.TokenCounter, control: tiktoken.Encoding, rounds: int
) -> dict[str, object]:
    """One row: rates in MB/s and the median ratio of the rounds."""
    ours: list[int] = []
    theirs: list[int] = []
    for _ in range(rounds):
        start = time.thread_time_ns()
        counter.count(text)
        middle = time.thread_time_ns()
        control.encode_ordinary(text)
        end = time.thread_time_ns()
        ours.append(middle - start)
        theirs.append(end - middle)
    size = len(text.encode())
    return {
        "name": name,
        "value": round(size * 1_000 / statistics.median(ours), 1),
        "unit": "MB/s",
        "control": round(size * 1_000 / statistics.median(theirs), 1),
        "ratio": round(statistics.median(c / o for o, c in zip(ours, theirs, strict=True)), 2),
    }


def pathology(name: str, text: str, counter: _core.TokenCounter, rounds: int) -> dict[str, object]:
    """One row: time in ms for a megabyte of one character; the control is the 50 ms that are allowed."""
    times: list[int] = []
    for _ in range(rounds):
        start = time.thread_time_ns()
        counter.count(text)
        times.append(time.thread_time_ns() - start)
    value = statistics.median(times) / 1e6
    return {"name": name, "value": round(value, 2), "unit": "ms", "control": 50.0, "ratio": round(50.0 / value, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="*", type=Path, help="more UTF-8 texts to compare on")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="skip the check of every code point")
    options = parser.parse_args()
    if _core.build_info()["profile"] != "release":
        raise SystemExit("a debug build says nothing about speed; build with --release")

    named = texts(options.files)
    rows: list[dict[str, object]] = []
    for encoding in ENCODINGS:
        counter, control = _core.TokenCounter(encoding), reference(encoding)
        for text in named.values():
            check(counter, control, [text, *slices(text, 2_000)])
        if not options.quick:
            check(counter, control, every_character())
        gc.disable()
        for name, text in named.items():
            rows.append(compare(f"tokens.{encoding}.{name}", text, counter, control, options.rounds))
        gc.enable()
        for name, character in (("letters", "a"), ("spaces", " "), ("cjk", "中")):
            text = character * (PATHOLOGY_BYTES // len(character.encode()))
            rows.append(pathology(f"tokens.{encoding}.megabyte_of_{name}", text, counter, options.rounds))
    json.dump(rows, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
