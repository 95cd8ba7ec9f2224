"""Records, frames and folders with few words."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.journal import segment_name
from forebay.store import SqliteStore

START_S = 1_800_000_000
SECOND_NS = 10**9


class Desk:
    """What the tests of the ledger need: how the Rust side writes, and records."""

    start_s = START_S

    @staticmethod
    def record(name: str, **fields) -> LedgerRecord:
        """A settled request; `charges` are (budget, value, amount)."""
        charges: Sequence[tuple[str, str, int]] = fields.pop("charges", ())
        given = {
            "unix_ns": START_S * SECOND_NS,
            "tenant": "acme",
            "model": "small",
            "outcome": "ok",
            "usage": "EXACT",
            "cost_known": True,
            "owner": "one",
        }
        record = LedgerRecord(id=hashlib.md5(name.encode()).digest(), **(given | fields))
        for budget, value, amount in charges:
            record.charges.add(budget=budget, value=value, period_start_s=START_S, amount=amount)
        return record

    @staticmethod
    def frame(payload: bytes) -> bytes:
        return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload

    @classmethod
    def frames(cls, *records: LedgerRecord) -> bytes:
        return b"".join(cls.frame(record.SerializeToString()) for record in records)

    @staticmethod
    def segment(folder: Path, number: int, content: bytes) -> Path:
        path = folder / segment_name(number)
        with path.open("ab") as file:
            file.write(content)
        return path


@pytest.fixture(scope="session")
def desk() -> type[Desk]:
    return Desk


@pytest.fixture
def store(tmp_path: Path):
    opened = SqliteStore(tmp_path, "one")
    yield opened
    opened.close()
