"""What must hold of the demo's tensors and of its text model in Triton, each with the numbers that show it.

Owns the judgement. Must not send or read anything.
What did not hold is a Check that is not `held`, never an exception.
"""

from __future__ import annotations

from forebay.lab.demo_checks import Check
from forebay.lab.demo_ledger import LedgerResult
from forebay.lab.demo_stream import MODEL, StreamResult
from forebay.lab.demo_tensors import TensorResult

__all__ = ["MAX_VECTOR_DIFFERENCE", "stream_checks", "tensor_checks"]

MAX_VECTOR_DIFFERENCE = 1e-5


def tensor_checks(tensors: TensorResult | None) -> list[Check]:
    """Give what must hold of tensors: the way through the gateway changes nothing but how many run together."""
    if tensors is None:
        return []
    same, own, together = (
        "vectors through the gateway are those of single calls to Triton",
        "every row gets its own answer, whatever it was batched with",
        "sentences of all lengths share batches",
    )
    if tensors.error:
        return [Check(name, False, tensors.error) for name in (same, own, together)]
    count = sum(done.rows for done in tensors.passes if done.way in tensors.differences)
    largest = max(tensors.differences.values())
    through = [done for done in (*tensors.passes, *tensors.costly) if done.way.startswith("forebay")]
    fewest = min(done.mean_batch_rows for done in through)
    alone = max(done.mean_batch_rows for done in (*tensors.passes, *tensors.costly) if done not in through)
    rows = sum(done.rows for done in tensors.costly)
    return [
        Check(same, largest <= MAX_VECTOR_DIFFERENCE, f"largest difference {largest:.1e} in {count} vectors"),
        Check(own, tensors.wrong_sums == 0, f"{tensors.wrong_sums} of {rows} sums are another row's"),
        Check(together, fewest > alone, f"at least {fewest:.1f} rows in a batch; Triton alone has at most {alone:.1f}"),
    ]


def stream_checks(stream: StreamResult | None, ledger: LedgerResult | None, tenant: str) -> list[Check]:
    """Give what must hold of the text model. `tenant` is the one that stayed until its answers were complete."""
    if stream is None:
        return []
    names = ("a text model in Triton streams as a chat", "a model stops when its client leaves")
    if stream.error:
        return [Check(name, False, stream.error) for name in names]
    arrived = stream.text == stream.whole_text != "" and stream.finish_reason == "length"
    checks = [
        Check(names[0], arrived and stream.pieces > 1,
              f"{stream.pieces} pieces, the first after {stream.first_ms:.0f} ms, the last after {stream.last_ms:.0f}; "
              f"{'the same text' if arrived else 'not the text'} as in one answer"),
        Check(names[1], stream.cancelled == 1,
              f"{stream.cancelled} cancelled, after {stream.written_for_nobody} words of 4,000"),
    ]  # fmt: skip
    if ledger is not None:
        lines = [line for line in ledger.lines if (line.tenant, line.model) == (tenant, MODEL)]
        booked = sum(line.output_tokens for line in lines)
        agreed = {booked, stream.told_tokens, stream.written}
        detail = f"{booked} in the ledger, {stream.told_tokens} told to the client, {stream.written} written"
        checks.append(Check("the ledger has every token that the model in Triton wrote", len(agreed) == 1, detail))
    return checks
