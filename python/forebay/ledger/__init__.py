"""What every request cost: from the journal into the store, and answers out of it.

Owns: reading the journal, rows, reports, and sending records on as telemetry. Must not know: the engine, Envoy.
On failure: records wait in the journal; a report says what it cannot answer.
"""

from __future__ import annotations

from forebay.ledger.ingest import Ingest, IngestResult, IngestThread, IngestTotals, Sink
from forebay.ledger.journal import Journal

__all__ = ["Ingest", "IngestResult", "IngestThread", "IngestTotals", "Journal", "Sink"]
