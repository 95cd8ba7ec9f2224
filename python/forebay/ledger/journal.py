"""Reading the journal: segment files of framed records that the Rust side appends.

Owns: the frame's form, the order of segments, deleting what is read. Must not know: what a record says.
On failure: damage is counted and stepped over, never raised; only a folder that cannot be read is an error.

A frame is the payload's length and its CRC-32 (both u32, little endian), then the payload. What is done about damage:
- a frame whose CRC is wrong costs that frame: its length still leads to the next one;
- a length that cannot be (0, or above 65,536) costs the rest of its segment as it is now; what is appended later
  is read again, since the writer appends whole frames;
- a frame that is cut is waited for in the newest segment, and is the end of any other.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from forebay.errors import JournalUnreadable
from forebay.store import JournalPosition

__all__ = ["MAX_PAYLOAD_BYTES", "Journal", "JournalBatch", "segment_name"]

MAX_PAYLOAD_BYTES = 65_536

_HEAD = struct.Struct("<II")
_NAME = re.compile(r"journal-([0-9]{20})\.log\Z")
# What one batch holds in memory: always more than one frame.
_READ_BYTES = 1 << 20


@dataclass(slots=True)
class JournalBatch:
    """What was read, and where to read on once it is written down.

    Units: `lag_bytes` is what stands in the journal behind `position`; `skipped_bytes` was given up as damaged.
    """

    position: JournalPosition
    payloads: list[bytes] = field(default_factory=list)
    bad_frames: int = 0
    torn_frames: int = 0
    skipped_bytes: int = 0
    lag_bytes: int = 0


def segment_name(number: int) -> str:
    """Give the file name of a segment."""
    return f"journal-{number:020}.log"


class Journal:
    """The segments in `directory`. It writes nothing, and deletes only what its caller says is written down."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def read(self, position: JournalPosition, max_records: int) -> JournalBatch:
        """Read at most `max_records` frames and about 1 MiB from `position` on.

        Raises: JournalUnreadable where the system does not let us read.
        Cost: one listing of the folder, and one read for each segment that it touches.
        """
        # Listed first: a segment below the newest of this list is complete, since the writer closed it before.
        sizes = self._sizes()
        numbers = sorted(sizes)
        batch = JournalBatch(position=position)
        if not numbers:
            return batch
        segment, offset = position
        if segment > numbers[-1]:
            # Somebody emptied the folder and the numbers began anew. Reading twice is harmless, since ids replace.
            segment = 0
        budget_bytes = _READ_BYTES
        for number in numbers:
            if number < segment:
                continue
            # An offset beyond the end is another file's, of the same number.
            at = offset if number == segment and offset <= sizes[number] else 0
            live = number == numbers[-1]
            data = self._content(number, at, budget_bytes)
            used, readable = _frames(data, batch, max_records)
            end = at + len(data)
            full = len(batch.payloads) >= max_records
            over = len(data) < budget_bytes and not full
            if not readable:
                end = max(end, sizes[number])
                over = True
            elif over and not live and at + used < end:
                batch.torn_frames += 1
            if over and not (live and readable):
                batch.skipped_bytes += end - at - used
                used = end - at
            batch.position = JournalPosition(number, at + used)
            budget_bytes -= len(data)
            if not over or full:
                break
        behind, offset = batch.position
        batch.lag_bytes = sum(
            max(0, size - (offset if number == behind else 0)) for number, size in sizes.items() if number >= behind
        )
        return batch

    def delete_before(self, position: JournalPosition) -> int:
        """Delete the segments that end before `position`, never the newest.

        Returns: how many. One that cannot be deleted is tried again the next time.
        """
        deleted = 0
        numbers = sorted(self._sizes())
        for number in numbers[:-1]:
            if number >= position.segment:
                break
            with suppress(OSError):
                (self.directory / segment_name(number)).unlink()
                deleted += 1
        return deleted

    def _sizes(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    match = _NAME.match(entry.name)
                    # A number beyond 64 bits is nobody's segment.
                    if match and int(match[1]) < 1 << 63 and entry.is_file(follow_symlinks=False):
                        with suppress(FileNotFoundError):
                            sizes[int(match[1])] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _unreadable(self.directory, error) from error
        return sizes

    def _content(self, number: int, offset: int, max_bytes: int) -> bytes:
        path = self.directory / segment_name(number)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(max_bytes) or b""
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unreadable(path, error) from error


def _frames(data: bytes, batch: JournalBatch, max_records: int) -> tuple[int, bool]:
    """Take whole frames off the front of `data`; gives how many bytes they took, and whether more can be read there."""
    at = 0
    end = len(data)
    payloads = batch.payloads
    head, crc32 = _HEAD.unpack_from, zlib.crc32
    while at + 8 <= end and len(payloads) < max_records:
        length, crc = head(data, at)
        if not 0 < length <= MAX_PAYLOAD_BYTES:
            batch.bad_frames += 1
            return at, False
        start = at + 8
        stop = start + length
        if stop > end:
            break
        payload = data[start:stop]
        if crc32(payload) == crc:
            payloads.append(payload)
        else:
            batch.bad_frames += 1
            batch.skipped_bytes += stop - at
        at = stop
    return at, True


def _unreadable(path: Path, error: OSError) -> JournalUnreadable:
    return JournalUnreadable(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}")
