"""One model as it is served: what its server says and what a person chose, held against each other.

Owns the rules of the merge. Must not know queues or the network.
On failure: Mismatch, which says what the model has; the model is then not served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forebay.batching.rules import ModelRules, RaggedInput, RaggedOutput
from forebay.batching.seam import LaneSettings, ModelShape
from forebay.batching.shape import ANY, ModelDeclared, TensorDeclared


class Mismatch(ValueError):
    """What was chosen does not fit what the model is."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be served: `declared` by its server, `rules` that were proven against it."""

    declared: ModelDeclared
    rules: ModelRules

    @property
    def max_batch_rows(self) -> int:
        """Most rows of a batch; 0: requests pass one by one."""
        return self.rules.max_batch_rows or self.declared.max_batch_rows

    @property
    def preferred_rows(self) -> tuple[int, ...]:
        """Where a batch is cut; Triton's own sizes count as far as they are possible."""
        own = tuple(size for size in self.declared.preferred_rows if size <= self.max_batch_rows)
        return self.rules.preferred_rows or own

    def shape(self) -> ModelShape:
        """Make what requests are held against.

        Raises: ValueError for padding that a datatype cannot hold.
        """
        inputs = [(each.name, each.datatype, list(each.dims), each.presence) for each in self.declared.inputs]
        ragged = [(each.name, each.dim, each.pad) for each in self._padded()]
        return ModelShape(
            inputs,
            [each.name for each in self.declared.outputs],
            max_batch_rows=self.max_batch_rows,
            ragged_inputs=ragged,
            ragged_outputs=[(each.name, each.dim) for each in self.rules.ragged_outputs],
            mask=self.rules.mask_input or None,
        )

    def settings(self, ready: Sequence[tuple[str, int]], unasked: Sequence[str] = ()) -> LaneSettings:
        """Make how its batches are made when these servers are ready: each has one batch more than it runs.

        Shape: `ready` ((`a:8001`, 1), (`b:8001`, 2)): address and batches at once; one without an address stands for
        any server of the pool. `unasked` have not said yet how they run it: they are used, but not counted on.
        """
        running = sum(instances for _, instances in ready)
        fewest = min(instances for _, instances in ready)
        servers = [*ready, *((address, fewest) for address in unasked)] if all(address for address, _ in ready) else []
        return LaneSettings(
            instances=running,
            slots=running + len(ready),
            max_padded_tokens=self.rules.max_padded_tokens,
            preferred_rows=list(self.preferred_rows),
            length_classes=list(self.rules.length_classes),
            max_length_classes=self.rules.max_length_classes,
            servers=[(address, instances + 1) for address, instances in servers],
            resends=self.rules.resends,
        )

    def _padded(self) -> tuple[RaggedInput, ...]:
        """Give the inputs that are padded; the mask is one of them, whether it was said or not."""
        mask, padded = self.rules.mask_input, self.rules.ragged_inputs
        if not mask or any(each.name == mask for each in padded):
            return padded
        dims = _named(self.declared.inputs, mask, "input").dims
        return (*padded, RaggedInput(mask, dims.index(ANY), 0.0))


def served_model(declared: ModelDeclared, rules: ModelRules) -> ServedModel:
    """Prove rules against what a server says.

    Raises: Mismatch with the model's own words when something does not fit.
    """
    if declared.alone and (rules.ragged_inputs or rules.ragged_outputs or rules.mask_input or rules.max_batch_rows):
        raise Mismatch(f"the policy has it batched, but the model takes requests one by one, since {declared.alone}")
    for each in rules.ragged_inputs:
        _prove_ragged(declared.inputs, each, "input")
    for output in rules.ragged_outputs:
        _prove_ragged(declared.outputs, output, "output")
    _prove_mask(declared, rules)
    most = declared.max_batch_rows
    if rules.max_batch_rows > most > 0:
        raise Mismatch(f"the policy has `max_batch_rows` {rules.max_batch_rows}, but the model takes at most {most}")
    served = ServedModel(declared, rules)
    if rules.preferred_rows and rules.preferred_rows[-1] > served.max_batch_rows:
        size = rules.preferred_rows[-1]
        raise Mismatch(f"the policy prefers {size} rows, but a batch has at most {served.max_batch_rows}")
    try:
        served.shape()
    except ValueError as error:
        raise Mismatch(f"{error}; the model has {_listed(declared.inputs)}") from error
    return served


def _prove_ragged(tensors: Sequence[TensorDeclared], each: RaggedInput | RaggedOutput, kind: str) -> None:
    tensor = _named(tensors, each.name, kind)
    if each.dim >= len(tensor.dims):
        raise Mismatch(f"the policy names dimension {each.dim} of {kind} `{each.name}`, but the model has {tensor}")
    if tensor.dims[each.dim] != ANY:
        fixed = f"dimension {each.dim} of {kind} `{each.name}` is {tensor.dims[each.dim]}"
        raise Mismatch(f"{fixed} in the model and cannot be padded; the model has {tensor}")


def _prove_mask(declared: ModelDeclared, rules: ModelRules) -> None:
    if not rules.mask_input:
        return
    mask = _named(declared.inputs, rules.mask_input, "input")
    if ANY not in mask.dims or mask.datatype == "BYTES":
        raise Mismatch(f"the policy has `{mask.name}` as mask, which needs numbers of any length; the model has {mask}")
    if not any(each.name != mask.name for each in rules.ragged_inputs):
        raise Mismatch(f"the policy has `{mask.name}` as mask, but no input in `ragged_inputs` that it could tell of")


def _named(tensors: Sequence[TensorDeclared], name: str, kind: str) -> TensorDeclared:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise Mismatch(f"the policy names {kind} `{name}`, but the model has {_listed(tensors)}")


def _listed(tensors: Iterable[TensorDeclared]) -> str:
    return ", ".join(map(str, tensors)) or "none"
