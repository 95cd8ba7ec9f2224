"""Writes Triton model repositories: configuration files and the models' code.

Owns the layout, and what may be chosen about a model; the rest of a configuration is a template beside the code.
Must not know the server's process or the network. An unknown model's name is a ValueError that lists the known ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template

__all__ = ["MODELS", "CostModel", "ModelChoices", "write_repository"]

_HERE = Path(__file__).parent / "models"
_WORDPIECE = Path(__file__).parent / "wordpiece.py"


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where a model's configuration and code come from; `imports` are copied beside its code."""

    config: str
    code: str
    imports: tuple[Path, ...] = ()


_MINILM = _Parts("minilm.pbtxt", "minilm.py", (_HERE / "bert.py",))
_COST = _Parts("cost.pbtxt", "cost.py")
# A name with `queued_` is the same model behind Triton's own dynamic batcher, as the control of a batcher in front.
_PARTS = {
    "minilm": _MINILM,
    "queued_minilm": _MINILM,
    "encoder": _Parts("encoder.pbtxt", "encoder.py", (_HERE / "bert.py", _WORDPIECE)),
    "identity": _Parts("identity.pbtxt", "identity.py"),
    "cost": _COST,
    "queued_cost": _COST,
    "ragged_cost": _COST,
    "checked": _Parts("checked.pbtxt", "checked.py"),
    "writer": _Parts("writer.pbtxt", "writer.py"),
}
MODELS = tuple(_PARTS)


@dataclass(frozen=True, slots=True)
class CostModel:
    """What `cost`, `queued_cost` and `ragged_cost` pretend to cost.

    `call_us` 4000 and `token_ns` 2000: a call of 8 rows padded to 100 tokens takes 4 ms + 800 x 2 us = 5.6 ms.
    `queue_delay_us` 5000: Triton's own dynamic batching before `cost`, waiting at most 5 ms; None: off.
    `instances` 2: two calls run at once.
    """

    call_us: int = 4000
    token_ns: int = 2000
    queue_delay_us: int | None = None
    instances: int = 1


@dataclass(frozen=True, slots=True)
class ModelChoices:
    """What may be chosen about the models.

    `control_queue_delay_us` 5000: before `queued_minilm`, `queued_cost` and `ragged_cost` Triton's own dynamic batching
    waits at most 5 ms. `checked_call_us` 2000: a call of `checked` takes 2 ms. `token_us` 2000: `writer` writes
    500 words a second. `max_batch_rows` of all but MiniLM and `identity`, which take 64.
    """

    cost: CostModel = CostModel()
    control_queue_delay_us: int = 5000
    checked_call_us: int = 2000
    token_us: int = 2000
    max_batch_rows: int = 64


def write_repository(folder: Path, models: tuple[str, ...], minilm: Path, choices: ModelChoices | None = None) -> None:
    """Writes `folder/<model>/config.pbtxt` and `folder/<model>/1/*.py` for each model.

    `minilm` is the folder that holds `model.safetensors`; the weights are read from there, not copied.
    Raises: ValueError for a name that is not in MODELS.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise ValueError(f"no such model: {', '.join(unknown)}; known are {', '.join(MODELS)}")
    for name in models:
        parts = _PARTS[name]
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_HERE / parts.code, version / "model.py")
        for imported in parts.imports:
            shutil.copyfile(imported, version / imported.name)
        template = Template((_HERE / parts.config).read_text(encoding="utf-8"))
        config = template.substitute(_values(name, minilm.resolve(), choices or ModelChoices()))
        (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")


def _values(name: str, minilm: Path, choices: ModelChoices) -> dict[str, object]:
    cost = choices.cost
    return {
        "name": name,
        "weights": minilm / "model.safetensors",
        "vocabulary": minilm / "vocab.txt",
        "call_us": cost.call_us,
        "token_ns": cost.token_ns,
        "instances": cost.instances,
        "batching": _batching(name, choices),
        "ragged": "allow_ragged_batch: true " if name == "ragged_cost" else "",
        "checked_call_us": choices.checked_call_us,
        "token_us": choices.token_us,
        "max_batch_rows": choices.max_batch_rows,
    }


def _batching(name: str, choices: ModelChoices) -> str:
    """Triton's own dynamic batching, or nothing."""
    if name in ("queued_minilm", "queued_cost", "ragged_cost"):
        delay_us: int | None = choices.control_queue_delay_us
    else:
        delay_us = choices.cost.queue_delay_us if name == "cost" else None
    return "" if delay_us is None else f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}"
