"""The request path never takes the GIL: decisions are made while a C call holds it.

Owns: the proof. Must not know: how a decision is made. On failure: one slow stage or job would stop all requests.

The parent calls `read` through `ctypes.PyDLL`, which does not let go of the GIL, on a pipe that its child writes to
only after its decisions. A server that needed the GIL once would wait for ever, and the child would say so.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from extproc_servers import rust_server
from forebay.policy import load

HERE = Path(__file__).parent
POLICY = load(HERE / "transcripts" / "policy.yaml").message_bytes


def test_requests_are_decided_while_python_holds_the_gil() -> None:
    libc = ctypes.PyDLL(None)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    with rust_server(POLICY) as target:
        script, transcript = str(HERE / "gil_client.py"), str(HERE / "transcripts" / "no_cache.json")
        command = [sys.executable, script, target.address, transcript, "20"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0)
        assert child.stdin is not None
        assert child.stdout is not None
        with child, child.stdin as commands, child.stdout as results:
            buffer = ctypes.create_string_buffer(4096)
            commands.write(b"g")
            got = libc.read(results.fileno(), buffer, len(buffer))
            assert buffer.raw[:got] == b"decided"
        assert child.returncode == 0
        assert target.engine.open_reservations == 20
