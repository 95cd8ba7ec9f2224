"""Which requests are traced.

Owns: the rule of the share, and which records are kept whatever the share is. Must not know: spans, exporters.
On failure: a record without a usable trace is not traced; its spans could belong to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forebay.ledger._pb.ledger_pb2 import LedgerRecord

__all__ = ["FINE", "Sampling", "sampled_by_share"]

FINE = frozenset(("ok", "hit", "follow"))
"""Outcomes that are no failure."""

# A refusal below 500 is an answer as meant; a stranger who gets a thousand a second must not make a thousand traces.
_QUIET = FINE | {"refused"}
_SERVER_ERROR = 500
_RANDOM_BITS = 56
_PER_MILLION = 1_000_000
_NS_PER_MS = 1_000_000
_DEFAULT_SLOW_MS = 10_000


def sampled_by_share(trace_id: bytes, per_million: int) -> bool:
    """Whether a trace that begins here belongs to the sampled share.

    The rule, which every replica and `rust/core/src/trace.rs` follow: the lowest 7 bytes of the trace id, read
    big-endian, are a number below 2^56; the trace is sampled when that number is below 2^56 * `per_million` / 10^6.
    It is computed in integers, as `number * 10^6 < per_million * 2^56`, so no rounding can make two replicas differ.
    A trace that a client began is sampled as its `traceparent` says, and this rule is not asked.

    *Source*: W3C Trace Context level 2, random trace id flag: those 7 bytes are the random ones.

    >>> sampled_by_share(bytes(16), 1), sampled_by_share(bytes.fromhex("00" * 9 + "ff" * 7), 999_999)
    (True, False)
    """
    random = int.from_bytes(trace_id[-(_RANDOM_BITS // 8) :], "big")
    return random * _PER_MILLION < per_million << _RANDOM_BITS


@dataclass(frozen=True, slots=True)
class Sampling:
    """Keeps what was sampled at the head, every failure, and every request slower than `slow_ns`.

    A refusal counts as a failure from status 500 on; others are in the ledger and the metrics, and in a trace only
    where it is sampled.
    """

    slow_ns: int = _DEFAULT_SLOW_MS * _NS_PER_MS

    @classmethod
    def of_slow_ms(cls, slow_ms: int) -> Sampling:
        """Make it from the policy's field, where 0 means the default of 10 s."""
        return cls((slow_ms or _DEFAULT_SLOW_MS) * _NS_PER_MS)

    def kept(self, records: Iterable[LedgerRecord]) -> list[LedgerRecord]:
        """Give the records that are traced, in order.

        *Cost*: four fields are read of a record that is not kept, about a third of a microsecond.
        """
        quiet, slow_ns = _QUIET, self.slow_ns
        return [
            r
            for r in records
            if r.outcome not in quiet or r.duration_ns > slow_ns or r.trace.sampled or r.status >= _SERVER_ERROR
        ]
