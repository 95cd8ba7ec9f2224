"""A client in a process of its own: plays one transcript's requests as often as it is told, and prints how it went.

Owns: nothing but its process. Must not know: what its parent does meanwhile. On failure: it prints why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc

from extproc_streams import Stream


def main(address: str, transcript: Path, times: int) -> str:
    sends = [step["message"] for step in json.loads(transcript.read_text())["steps"] if step.get("send") == "a"]
    with grpc.insecure_channel(address) as channel:
        for turn in range(times):
            stream = Stream(channel, "a", "decide")
            for message in sends:
                stream.send(message)
                frame = stream.receive()
            if "request_body" not in frame:
                return f"turn {turn}: {frame}"
            stream.half_close()
            if stream.end() != ("OK", None):
                return f"turn {turn}: the stream did not end well"
    return "decided"


if __name__ == "__main__":
    sys.stdin.read(1)  # the parent says when
    sys.stdout.write(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
