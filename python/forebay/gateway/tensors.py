"""What the policy says about model servers, in the words of the part that sends to them.

Owns this translation and the defaults of a pool's queue. Must not know how anything is sent.
On failure: cannot fail; a policy that came here was validated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forebay.batching import ClientTls, ModelRules, PoolServers, RaggedInput, RaggedOutput, Serving

if TYPE_CHECKING:
    from forebay.policy._pb.policy_pb2 import Policy, Pool, Tensors

__all__ = ["QueueBounds", "queue_bounds", "serving"]


class QueueBounds(NamedTuple):
    """What may wait in front of a pool, and for how long where a request has no deadline of its own."""

    max_rows: int = 16_384
    max_tokens: int = 4_194_304
    max_bytes: int = 268_435_456
    timeout_ms: int = 60_000


def serving(policy: Policy) -> Serving:
    """The pools that the gateway itself sends to, and the rules of their models.

    Several models of a policy may be one model of a pool; the first one's rules count.
    """
    pools = {pool.name: PoolServers(tuple(e.address for e in pool.endpoints), _tls(pool)) for pool in _tensor(policy)}
    rules: dict[tuple[str, str], ModelRules] = {}
    for model in policy.models:
        for pool in model.pools:
            if pool in pools:
                rules.setdefault((pool, model.upstream_name or model.name), _rules(model.tensors))
    return Serving(pools, rules)


def queue_bounds(policy: Policy) -> dict[str, QueueBounds]:
    """The bounds of every pool's queue."""
    return {
        pool.name: QueueBounds(
            *(getattr(pool.queue, name) or default for name, default in QueueBounds()._asdict().items())
        )
        for pool in _tensor(policy)
    }


def _tensor(policy: Policy) -> list[Pool]:
    return [pool for pool in policy.pools if pool.protocol == pool.KSERVE_GRPC]


def _rules(tensors: Tensors) -> ModelRules:
    return ModelRules(
        ragged_inputs=tuple(RaggedInput(each.name, each.dim, each.pad_value) for each in tensors.ragged_inputs),
        ragged_outputs=tuple(RaggedOutput(each.name, each.dim) for each in tensors.ragged_outputs),
        mask_input=tensors.mask_input,
        max_batch_rows=tensors.max_batch_rows,
        instances=tensors.instances,
        max_padded_tokens=tensors.max_padded_tokens,
        preferred_rows=tuple(tensors.preferred_rows),
        length_classes=tuple(tensors.length_classes),
        max_length_classes=tensors.max_length_classes or ModelRules().max_length_classes,
        resends=0 if tensors.retry == tensors.NEVER else 1,
    )


def _tls(pool: Pool) -> ClientTls | None:
    if not pool.HasField("tls"):
        return None
    return ClientTls(sni=pool.tls.sni, ca_file=Path(pool.tls.ca_file) if pool.tls.ca_file else None)
