"""Writes Triton model repositories: configuration files and the models' code.

Owns the layout and the configuration text. Must not know the server's process or the network.
An unknown model's name is a ValueError that lists the known ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

_CODE = Path(__file__).parent / "models"

_MINILM = """\
name: "minilm"
backend: "python"
max_batch_size: 64
input [
  {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }}
]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ 384 ] }} ]
parameters [ {{ key: "weights" value: {{ string_value: "{weights}" }} }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""

_IDENTITY = """\
name: "identity"
backend: "python"
max_batch_size: 64
input [
  { name: "values" data_type: TYPE_FP32 dims: [ -1 ] optional: true },
  { name: "numbers" data_type: TYPE_INT64 dims: [ -1 ] optional: true },
  { name: "texts" data_type: TYPE_STRING dims: [ -1 ] optional: true }
]
output [
  { name: "echo_values" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "echo_numbers" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "echo_texts" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "check" data_type: TYPE_INT64 dims: [ 1 ] },
  { name: "batch_rows" data_type: TYPE_INT64 dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

_COST = """\
name: "cost"
backend: "python"
max_batch_size: 64
input [ {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }} ]
output [
  {{ name: "id_sum" data_type: TYPE_INT64 dims: [ 1 ] }},
  {{ name: "batch_rows" data_type: TYPE_INT64 dims: [ 1 ] }}
]
parameters [
  {{ key: "call_us" value: {{ string_value: "{call_us}" }} }},
  {{ key: "token_ns" value: {{ string_value: "{token_ns}" }} }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
{batching}"""

MODELS = ("minilm", "identity", "cost")


@dataclass(frozen=True, slots=True)
class CostModel:
    """What the `cost` model pretends to cost.

    `call_us` 4000 and `token_ns` 2000: a call of 8 rows padded to 100 tokens takes 4 ms + 800 x 2 us = 5.6 ms.
    `queue_delay_us` 5000: Triton's own dynamic batching, waiting at most 5 ms; None: off.
    """

    call_us: int = 4000
    token_ns: int = 2000
    queue_delay_us: int | None = None


def write_repository(folder: Path, models: tuple[str, ...], minilm: Path, cost: CostModel | None = None) -> None:
    """Writes `folder/<model>/config.pbtxt` and `folder/<model>/1/*.py` for each model.

    `minilm` is the folder that holds `model.safetensors`; the weights are read from there, not copied.
    Raises: ValueError for a name that is not in MODELS.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise ValueError(f"no such model: {', '.join(unknown)}; known are {', '.join(MODELS)}")
    for name in models:
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_CODE / f"{name}.py", version / "model.py")
        if name == "minilm":
            shutil.copyfile(_CODE / "bert.py", version / "bert.py")
        (folder / name / "config.pbtxt").write_text(_config(name, minilm, cost or CostModel()))


def _config(name: str, minilm: Path, cost: CostModel) -> str:
    if name == "minilm":
        return _MINILM.format(weights=minilm.resolve() / "model.safetensors")
    if name == "identity":
        return _IDENTITY
    batching = ""
    if cost.queue_delay_us is not None:
        batching = f"dynamic_batching {{ max_queue_delay_microseconds: {cost.queue_delay_us} }}\n"
    return _COST.format(call_us=cost.call_us, token_ns=cost.token_ns, batching=batching)
